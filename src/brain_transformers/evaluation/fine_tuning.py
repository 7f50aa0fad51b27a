"""Fine-tuning on repeated splits of the subjects, as the Brain-Semantoks authors evaluate.

Source: Gijsen et al., "Brain-Semantoks", ICLR 2026, and the released evaluation code. Different on purpose: every run
starts from the same weights (in the authors' grid later learning rates start from weights that earlier ones tuned),
the tested weights are those of the best epoch (theirs are the last epoch's), and crops for validation and test are
fixed (theirs are random).
"""

import copy
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from ..data.labels import Labels, column_values
from ..data.participants import is_gap, say_files_as_people
from ..files import bind, digest, locked, to_json, whole_folder, write_file
from ..training.finetuning.new_head import load_with_new_head, start_head_at
from ..training.finetuning.semantoks import SemantoksFineTuner, SemantoksFineTuningArguments
from ..training.finite import NotFiniteError
from ..training.run_settings import processor_settings, rows_digest
from ..training.scores import prediction_scores
from .crops import predict_crops
from .predictions import predictions_csv
from .splits import ProtocolResult, scan_splits, warn_of_absent_classes

FINETUNING_LEARNING_RATES = (1e-3, 1e-4, 1e-5)
"""The authors' grid, for 256 samples an update."""

_GRID_TRAINING = {"num_train_epochs": 30, "schedule": "cosine", "lr_warmup_epochs": 0}
# How a run is executed and reported; a folder may go on with others.
_HOW_ONLY = (
    *("use_cpu", "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers"),
    *("dataloader_pin_memory", "disable_tqdm", "report_to", "run_name", "logging_strategy", "logging_steps"),
)
_QUIET = {"disable_tqdm": True, "report_to": "none", "logging_strategy": "no"}
# Weights of the best epoch only: a repetition that was interrupted starts anew.
_KEEP_BEST = {"save_strategy": "best", "save_only_model": True, "save_total_limit": 1, "load_best_model_at_end": True}


def fine_tuning_protocol(
    model: Any,
    dataset: Any,
    label_column: str,
    output_dir: str | Path,
    *,
    extractor: Any = None,
    task: str | None = None,
    subject_column: str | None = "subject",
    ratios: Sequence[float] = (0.6, 0.2, 0.2),
    n_repetitions: int = 10,
    stratify: bool = False,
    learning_rates: Sequence[float] | None = None,
    n_crops: int = 8,
    seed: int = 21,
    save_models: bool | Callable[[Any, Any, Path, Any], Any] = False,
    parent: str | Path | None = None,
    progress: bool = True,
    **training: Any,
) -> ProtocolResult:
    """Fine-tune and test a model on repeated random splits of the subjects.

        result = fine_tuning_protocol("my-semantoks", dataset, "sex", "runs/sex", learning_rates=(1e-3, 1e-4, 1e-5))
        result.summary()["balanced_accuracy"]  # mean and standard deviation over 10 repetitions, shares of 1

    Repetition i splits and trains with `seed + i`, from the same starting weights each time. The weights of the epoch
    that is best on the validation subjects, and with a grid those of the best learning rate, are tested: logits of
    evenly spaced crops of a scan are averaged. Each finished repetition is written to
    `output_dir/repetition-NN.json`; a second call reads those and goes on with the rest, so an interrupted call can be
    repeated, and a finished one extended by a larger `n_repetitions`. `output_dir/results.json` holds all of it, and
    `output_dir/repetition-NN-predictions.csv` what was predicted for each test scan. An extractor whose scale is not
    fitted is fitted in each repetition on its training scans.

    Args:
        model: folder or Hub name of a pretrained model, which gets a new head (of Brain-Semantoks its authors': batch
            norm and linear; of others that of their family), or a `...ForSequenceClassification` model of any family,
            which is left as it is.
        dataset: rows of scans, such as [`brain_transformers.data.load_dataset`] gives, or a list of such. Scans
            without a label are left out.
        label_column: column to predict.
        output_dir: folder for results.
        extractor: the model's feature extractor; by default the one in the folder `model`.
        task: `"classification"` or `"regression"`; by default as [`brain_transformers.data.labels.choose_task`] says:
            words, two whole numbers and small codes are classes, other numbers are regressed. Regression is in the
            label's own units: chosen by the absolute error in validation, and trained by it where `model`
            is the folder of a Brain-Semantoks model (others by their own loss).
        subject_column: scans of one subject stay on one side of every split; `None`: every scan is its own subject.
        ratios, stratify: shares of training, validation and test, and whether to keep the shares of the labels; see
            [`brain_transformers.evaluation.splits.scan_splits`].
        n_repetitions: number of splits.
        learning_rates: grid, for 256 samples an update, such as [`FINETUNING_LEARNING_RATES`]; 30 epochs each by
            default. `None`: one run with the values of [`SemantoksFineTuningArguments`].
        n_crops: crops of a test scan.
        seed: of the first repetition; 21 in the authors' configuration.
        save_models: also write the tested model of each repetition to `output_dir/repetition-NN-model`; or a function
            that writes it, of model, extractor, folder and `parent`.
        parent: where the weights come from, whose licence the cards of saved models keep; by default the folder
            `model`.
        progress: show a progress bar over epochs, and say where results went.
        training: any field of [`SemantoksFineTuningArguments`], such as `num_train_epochs=20` or `layer_decay=0.9`.

    Returns:
        One entry a repetition: the learning rate (of the grid, or the actual one), metrics of averaged logits, and
        metrics of single crops. Every scan counts once.

    Raises:
        NotFiniteError: if training diverges, with every rate of a grid.
        ValueError: if labels, columns and model do not fit together, an argument cannot be meant, or `output_dir`
            holds repetitions that were made with other settings.
        FolderInUseError: if another process writes to `output_dir`.
        ImportError: without scikit-learn (extra `eval`) or accelerate (extra `train`).
    """
    output = Path(output_dir)
    _check_arguments(n_repetitions, learning_rates, n_crops, training)
    files = [output / f"repetition-{number:02d}.json" for number in range(n_repetitions)]
    # Without a GPU, torch would warn of pinned memory in every epoch.
    quiet = {**_QUIET, "dataloader_pin_memory": torch.accelerator.is_available()}
    defaults: dict[str, Any] = {**quiet, **(_GRID_TRAINING if learning_rates else {}), **training, **_KEEP_BEST}
    grid: list[dict[str, Any]] = [{"base_learning_rate": rate} for rate in learning_rates or ()] or [{}]
    # All are made before anything is written, since they refuse what they cannot mean.
    runs = [
        [
            SemantoksFineTuningArguments(output_dir=str(output / f".{file.stem}"), seed=seed + n, **defaults, **rate)
            for rate in grid
        ]
        for n, file in enumerate(files)
    ]
    labels = Labels.read(dataset, label_column, task)
    start, extractor = _starting_model(model, extractor, labels, seed)
    new_head = start is not model
    parent = parent or (model if isinstance(model, (str, Path)) else None)
    print(f"{label_column}: {labels.describe()}, {len(labels.rows)} scans, {n_repetitions} random splits")
    subjects = _subjects(dataset, subject_column, labels)
    splits = list(scan_splits(labels.targets.tolist(), subjects, ratios, n_repetitions, seed, stratify))
    warn_of_absent_classes(labels, splits)
    settings = {
        "label": label_column,
        "task": labels.task,
        "classes": list(labels.label2id or ()),
        "scans": digest([subjects, labels.targets.tolist(), labels.rows, rows_digest(_select(dataset, labels.rows))]),
        "extractor": processor_settings(extractor),
        "starting weights": digest(start.state_dict()),
        "ratios": list(ratios),
        "stratify": stratify,
        "learning rates": None if learning_rates is None else list(learning_rates),
        "crops": n_crops,
        "scores": "shares of 1",
        "seed": seed,
        # Rate and batch norm follow from it, and it from the number of devices too.
        "samples an update": runs[0][0].samples_per_update,
        "training": {name: str(value) for name, value in sorted(training.items()) if name not in _HOW_ONLY},
    }
    # Of several processes that train together, the first one holds the folder and writes.
    writes = runs[0][0].process_index == 0
    epochs = len(grid) * int(runs[0][0].num_train_epochs)
    bar = tqdm(total=n_repetitions * epochs, desc="Fine-tuning", unit="epoch", disable=not progress)
    with locked(output, "fine-tuning") if writes else nullcontext(), bar, _one_progress_bar():
        # Read once, before anything is written, so that several processes agree on what is left to do.
        records = [_read_record(file) for file in files]
        if writes:
            _bind_settings(output, settings)
        for number, (file, split) in enumerate(zip(files, splits, strict=True)):
            if records[number] is None:
                bar.set_postfix_str(f"repetition {number + 1} of {n_repetitions}")
                rows = [np.sort(part) for part in split]
                repetition = _repetition(start, new_head, dataset, extractor, labels, rows, runs[number], n_crops, bar)
                record = {"repetition": number, "seed": seed + number, **repetition.record}
                records[number] = record
                if writes:
                    if save_models:
                        folder = output / f"{file.stem}-model"
                        save = save_models if callable(save_models) else _save_plainly
                        save(repetition.model, repetition.extractor, folder, parent)
                    write_file(output / f"{file.stem}-predictions.csv", repetition.predictions)
                    write_file(file, to_json(record))  # last: it says that the repetition is done
                    shutil.rmtree(str(runs[number][0].output_dir), ignore_errors=True)
            bar.n = (number + 1) * epochs
            bar.refresh()
        done = [record for record in records if record is not None]
        result = ProtocolResult(
            learning_rates=[
                learning_rates[record["chosen"]] if learning_rates else record["tried"][0]["learning_rate"]
                for record in done
            ],
            ensembled=[record["ensembled"] for record in done],
            single_crop=[record["single_crop"] for record in done],
        )
        counts = result.n_defined()
        summary = {
            name: {"mean": mean, "std": std, "n_repetitions": counts[name]}
            for name, (mean, std) in result.summary().items()
        }
        if writes:
            write_file(output / "results.json", to_json({"summary": summary, "repetitions": done}))
    if progress:
        print(f"results of {n_repetitions} repetitions written to {output}")
    return result


def _check_arguments(
    n_repetitions: int,
    learning_rates: Sequence[float] | None,
    n_crops: int,
    training: Mapping[str, Any],
) -> None:
    """Raise ValueError for what the protocol cannot do."""
    managed = {"eval_strategy", *_KEEP_BEST, *(("learning_rate", "base_learning_rate") if learning_rates else ())}
    if refused := sorted(managed & set(training)):
        grid = " (rates come from the grid)" if learning_rates and any("rate" in name for name in refused) else ""
        raise ValueError(f"The protocol sets {', '.join(refused)} itself{grid}. Leave it out.")
    if n_repetitions < 1 or n_crops < 1:
        raise ValueError(
            f"Expected at least one repetition and one crop, got {n_repetitions} repetitions and {n_crops} crops."
        )
    if learning_rates is not None and (not learning_rates or min(learning_rates) <= 0):
        raise ValueError(f"Expected learning rates above 0, got {list(learning_rates)}. Use 1e-3 1e-4 1e-5, or none.")


def _save_plainly(model: Any, extractor: Any, folder: Path, parent: Any) -> None:
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary)
        extractor.save_pretrained(temporary)


def _subjects(dataset: Any, column: str | None, labels: Labels) -> list[str] | None:
    """Subject of each labelled scan."""
    if column is None:
        return None
    names = column_values(dataset, column)
    for row in labels.rows:
        if is_gap(names[row]):
            raise ValueError(
                f"Row {row} has no {column}, so its subject is not known and could be on both sides of a split. Fill "
                "the column in, or pass subject_column=None if every scan is of another subject."
            )
    if column == "subject" and (note := say_files_as_people(dataset)):
        warnings.warn(f"Splits by subject: {note}, or name another column as subject_column.", stacklevel=3)
    return [str(names[row]) for row in labels.rows]


def _starting_model(model: Any, extractor: Any, labels: Labels, seed: int) -> tuple[Any, Any]:
    """The classifier that every run starts from, and its extractor."""
    if isinstance(model, (str, Path)):
        extractor = AutoFeatureExtractor.from_pretrained(model) if extractor is None else extractor
        options = {**labels.head_options(), **AutoConfig.from_pretrained(model).family.fine_tuning_head}
        set_seed(seed)  # the new head is the same when the call is repeated
        model = load_with_new_head(model, options)
    if extractor is None:
        raise ValueError("Expected the extractor of the model, got none. Pass extractor=.")
    known = model.config.label2id or {}
    if labels.label2id is not None and set(labels.label2id) <= set(known):
        labels.number(known)
    expected = 1 if labels.label2id is None else max(labels.label2id.values()) + 1
    if model.config.num_labels != expected:
        raise ValueError(
            f"Expected a model with num_labels={expected} for {labels.task} of {labels.column!r}, got "
            f"{model.config.num_labels}. Set num_labels (and problem_type) when you load it."
        )
    return model, extractor


@contextmanager
def _one_progress_bar() -> Iterator[None]:
    """Without the bars that transformers draws whenever it saves weights."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class _EpochBar(TrainerCallback):
    def __init__(self, bar: tqdm):
        self.bar = bar

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.update(1)


@dataclass
class _Repetition:
    """What one repetition ends with: the tested model, its extractor, what to write down, predictions as CSV text."""

    model: Any
    extractor: Any
    record: dict[str, Any]
    predictions: str


def _repetition(
    start: Any,
    new_head: bool,
    dataset: Any,
    extractor: Any,
    labels: Labels,
    split: Sequence[np.ndarray],
    runs: Sequence[SemantoksFineTuningArguments],
    n_crops: int,
    bar: tqdm,
) -> _Repetition:
    """Train each run from the start, test the one that is best in validation."""
    train, validation, test = (_select(dataset, [labels.rows[number] for number in part]) for part in split)
    if not extractor.is_fitted:
        # On the training scans of this split: those of the test have no part in their own scale.
        extractor = copy.deepcopy(extractor).fit(train)
    best: Any = None
    best_score = -np.inf
    tried: list[dict[str, Any]] = []
    chosen = 0
    for arguments in runs:
        if arguments.process_index == 0:
            shutil.rmtree(str(arguments.output_dir), ignore_errors=True)
        model = copy.deepcopy(start)
        if new_head and labels.label2id is None:
            start_head_at(model, float(np.median(labels.targets[split[0]])))  # chosen by its absolute error
        tuner = SemantoksFineTuner(
            model,
            arguments,
            labels.column,
            label2id=labels.label2id,
            train_dataset=train,
            eval_dataset=validation,
            processing_class=extractor,
            callbacks=[_EpochBar(bar)],
        )
        tuner.remove_callback(PrinterCallback)
        name = str(tuner.args.metric_for_best_model)
        try:
            tuner.train()
        except NotFiniteError:
            # One rate of a grid that diverges loses; without another there is nothing to test.
            if best is None and arguments is runs[-1]:
                raise
            lost = {"epochs": tuner.state.epoch, "best_epoch": None, f"validation_{name}": None}
            tried.append({"learning_rate": arguments.learning_rate, **lost})
            continue
        tuner.accelerator.wait_for_everyone()  # all have read the best weights before their files go
        evaluated = [line for line in tuner.state.log_history if f"eval_{name}" in line]
        value: Any = tuner.state.best_metric
        tried.append(
            {
                "learning_rate": arguments.learning_rate,
                "epochs": evaluated[-1]["epoch"],
                "best_epoch": next((line["epoch"] for line in evaluated if line[f"eval_{name}"] == value), None),
                f"validation_{name}": value,
            }
        )
        score = value if tuner.args.greater_is_better else -value
        if best is None or score > best_score:  # the first of the best
            best, best_score, chosen = tuner.model, score, len(tried) - 1
        del tuner
    logits = predict_crops(best, test, extractor, n_crops, batch_size=runs[0].per_device_eval_batch_size)
    targets = labels.targets[split[2]]
    single = [prediction_scores(logits[:, crop], targets) for crop in range(n_crops)]
    record = {
        "chosen": chosen,
        "tried": tried,
        "ensembled": prediction_scores(logits.mean(1), targets),
        "single_crop": {name: float(np.mean([scores[name] for scores in single])) for name in single[0]},
        "scans": {"train": len(train), "validation": len(validation), "test": len(test)},
    }
    truth = [labels.values[number] for number in split[2]]
    predictions = predictions_csv(test, truth, logits.mean(1).numpy(), labels.label2id)
    return _Repetition(best, extractor, record, predictions)


def _select(dataset: Any, rows: list[int]) -> Any:
    return dataset.select(rows) if hasattr(dataset, "select") else [dataset[number] for number in rows]


def _read_record(file: Path) -> dict[str, Any] | None:
    """What a finished repetition wrote down, or `None` where there is none."""
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        for name in ("ensembled", "single_crop"):  # JSON has no word for NaN
            record[name] = {key: np.nan if value is None else float(value) for key, value in record[name].items()}
        float(record["tried"][record["chosen"]]["learning_rate"]), float(record["tried"][0]["learning_rate"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ValueError(
            f"{file}: expected the results of a repetition, and cannot read them ({error}). Delete the file to have "
            "it done again."
        ) from error
    return record


def _bind_settings(output: Path, settings: Mapping[str, Any]) -> None:
    """Write what the repetitions in a folder have in common, or see that it is the same as before."""
    file = output / "settings.json"
    if not any(output.glob("repetition-*.json")):  # none was finished, so nothing binds this call
        file.unlink(missing_ok=True)
    bind(file, settings, what="repetitions", fix="Choose another output_dir, or delete it to start anew.")
