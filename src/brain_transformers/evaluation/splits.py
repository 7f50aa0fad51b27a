"""Repeated random splits of the subjects, and what a protocol that uses them finds."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.labels import Labels
from ..data.participants import is_gap
from ..optional import require


def scan_splits(
    labels: Sequence[Any],
    subjects: Sequence[Any] | None = None,
    ratios: Sequence[float] = (0.6, 0.2, 0.2),
    n_repetitions: int = 10,
    seed: int = 0,
    stratify: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Random splits into training, validation and test in which all scans of a subject stay together.

    The subjects are drawn in two steps, as the authors of Brain-Semantoks do, in the order in which they first appear.

    Args:
        labels: one a scan; with `stratify`, subjects whose label is NaN are left out.
        subjects: whose scan it is; `None`: every scan is of another subject.
        ratios: shares of the three sets.
        n_repetitions: number of splits; repetition i uses `seed + i`.
        seed: of the first repetition.
        stratify: keep the shares of the labels.

    Yields:
        Three int64 arrays of scan numbers, in the order in which the subjects were drawn.

    Raises:
        ValueError: for ratios or repetitions that make no splits, lengths that differ, a scan without a subject, or
            `stratify` with numbers that are no classes or a subject with several labels.
    """
    if len(ratios) != 3 or min(ratios) <= 0:
        raise ValueError(
            f"Expected three ratios above 0, of training, validation and test, got {list(ratios)}. Use 0.6 0.2 0.2, "
            "for example."
        )
    if n_repetitions < 1:
        raise ValueError(f"Expected at least one repetition, got {n_repetitions} repetitions.")
    if stratify and any(isinstance(label, float) and label % 1 > 0 for label in labels):
        raise ValueError(
            "stratify=True keeps the shares of classes, and these labels are numbers with fractions. Set "
            "stratify=False."
        )
    if subjects is not None and len(subjects) != len(labels):
        raise ValueError(f"Expected a subject for each of {len(labels)} labels, got {len(subjects)}.")
    scans: dict[str, list[int]] = {}
    for number, subject in enumerate(range(len(labels)) if subjects is None else subjects):
        if is_gap(subject):
            raise ValueError(
                f"Expected a subject for every scan, got {subject} for scan {number}, which could then be on both "
                "sides of a split. Leave the scan out, or pass subjects=None if every scan is of another subject."
            )
        scans.setdefault(str(subject), []).append(number)
    groups: list[str] = []
    for subject, numbers in scans.items():
        found = sorted({str(labels[number]) for number in numbers})
        if stratify and len(found) > 1:
            raise ValueError(
                f"stratify=True needs one label a subject, but scans of {subject} have {', '.join(found)}. Set "
                "stratify=False."
            )
        groups.append(found[0])
    draw = require("sklearn.model_selection", extra="eval", purpose="splitting subjects").train_test_split
    everyone = [number for number, group in enumerate(groups) if not (stratify and group == "nan")]
    of_subject = list(scans.values())
    train, validation, test = ratios
    for repetition in range(seed, seed + n_repetitions):
        parts, held = [], everyone
        for share in ((validation + test) / (train + validation + test), test / (validation + test)):
            kept = [groups[number] for number in held] if stratify else None
            first, held = draw(held, test_size=share, random_state=repetition, stratify=kept)
            parts.append(first)
        first, second, third = (
            np.concatenate([of_subject[number] for number in part]).astype(np.int64) for part in (*parts, held)
        )
        yield first, second, third


@dataclass(frozen=True)
class ProtocolResult:
    """What a protocol of repeated splits found: one entry a repetition.

    Attributes:
        learning_rates: the rate that was chosen on the validation subjects.
        ensembled: metrics of the test scans, logits averaged over the crops of each.
        single_crop: metrics of single crops of the test scans, averaged over the crops.
    """

    learning_rates: list[float]
    ensembled: list[dict[str, float]]
    single_crop: list[dict[str, float]]

    def summary(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each ensembled metric, over the repetitions that have it."""
        names = dict.fromkeys(name for entry in self.ensembled for name in entry)
        values = {name: [entry[name] for entry in self.ensembled if name in entry] for name in names}
        return {name: (float(np.mean(v)), float(np.std(v))) for name, v in values.items()}

    def n_defined(self) -> dict[str, int]:
        """Over how many repetitions each metric of [`summary`] is taken: AUROC needs every class in the test scans."""
        names = dict.fromkeys(name for entry in self.ensembled for name in entry)
        return {name: sum(name in entry for entry in self.ensembled) for name in names}


def warn_of_absent_classes(labels: Labels, splits: Sequence[Sequence[np.ndarray]]) -> None:
    """Say when chance left a class out of a part, since scores of such a split mean little, and it has no AUROC."""
    if labels.label2id is None:
        return
    for number, name in enumerate(("training", "validation", "test")):
        absent = sum(len(set(labels.targets[split[number]])) < len(labels.label2id) for split in splits)
        if absent:
            auroc = f"AUROC is the mean of the other {len(splits) - absent}. " if name == "test" else ""
            warnings.warn(
                f"In {absent} of {len(splits)} splits the {name} scans lack a class of {labels.column!r}, and scores "
                f"of these mean little. {auroc}Pass stratify=True (on the command line --stratify), or use more "
                "subjects.",
                stacklevel=3,
            )
