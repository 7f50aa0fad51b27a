"""Subject identification: does a scan find the other scan of the same person among all?

The measure of Finn et al., "Functional connectome fingerprinting", Nature Neuroscience 2015: nearest neighbour by
Pearson correlation between feature vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class IdentificationResult:
    """What [`identify`] found.

    Args:
        similarity: `(n, n)`, Pearson r between row i of the first set and row j of the second.
        accuracy_ab: share of rows of the first set whose nearest neighbour in the second is the same subject.
        accuracy_ba: the same from the second set to the first.
        chance: accuracy of a guess, `1 / n`.
        self_similarity: mean of the diagonal of `similarity`.
        other_similarity: mean off the diagonal.
        mean_rank: mean rank of the right subject from the first set, 1 = nearest; `(n + 1) / 2` for a guess.
        subjects: names of the rows, as given.
    """

    similarity: np.ndarray
    accuracy_ab: float
    accuracy_ba: float
    chance: float
    self_similarity: float
    other_similarity: float
    mean_rank: float
    subjects: tuple[str, ...]

    @property
    def contrast(self) -> float:
        """Self minus other similarity, a finer measure than accuracy when there are few subjects."""
        return self.self_similarity - self.other_similarity

    def to_dict(self) -> dict[str, object]:
        """Plain numbers and lists, for JSON."""
        return {
            "accuracy_ab": self.accuracy_ab,
            "accuracy_ba": self.accuracy_ba,
            "chance": self.chance,
            "self_similarity": self.self_similarity,
            "other_similarity": self.other_similarity,
            "contrast": self.contrast,
            "mean_rank": self.mean_rank,
            "subjects": list(self.subjects),
            "similarity": np.round(self.similarity, 6).tolist(),
        }


def identify(
    features_a: np.ndarray, features_b: np.ndarray, subjects: Sequence[object] | None = None, *, center: bool = False
) -> IdentificationResult:
    """Match two sets of scans of the same subjects by the correlation of their feature vectors.

    A tie for the nearest neighbour counts as wrong: features that do not differ between people identify no one.

    Args:
        features_a, features_b: `(n_subjects, n_features)`; row i of both is the same subject.
        subjects: names of the rows; by default their numbers.
        center: subtract the mean over subjects from each set first. Embeddings of a network share a large common part,
            which lifts every correlation towards 1; it uses the other subjects of the set but no labels.

    Raises:
        ValueError: if the sets do not have the same shape, hold fewer than two subjects or values that are not finite.
    """
    a, b = np.asarray(features_a, dtype=np.float64), np.asarray(features_b, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"identify expects two arrays of one shape (n_subjects, n_features), got {a.shape} and {b.shape}. Keep "
            "the subjects that are in both, in the same order."
        )
    n = len(a)
    if n < 2:
        raise ValueError(f"identification needs at least two subjects, got {n}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features hold NaN or infinite values; drop those scans before identifying.")
    names = tuple(str(name) for name in (range(n) if subjects is None else subjects))
    if len(names) != n:
        raise ValueError(f"got {len(names)} subject names for {n} rows.")
    if len(set(names)) < n:
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"Expected one row a subject, got {names.count(twice)} of {twice!r}: another scan of the same person "
            "would count as a mistake. Keep one row of each."
        )
    if center:
        a, b = a - a.mean(0), b - b.mean(0)

    def unit(features: np.ndarray) -> np.ndarray:
        features = features - features.mean(1, keepdims=True)
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        return np.divide(features, norms, out=np.zeros_like(features), where=norms > 0)

    similarity = unit(a) @ unit(b).T
    own = np.diag(similarity)
    off = ~np.eye(n, dtype=bool)
    best_other_in_b = np.where(off, similarity, -np.inf).max(1)
    best_other_in_a = np.where(off, similarity, -np.inf).max(0)
    return IdentificationResult(
        similarity=similarity,
        accuracy_ab=float((own > best_other_in_b).mean()),
        accuracy_ba=float((own > best_other_in_a).mean()),
        chance=1 / n,
        self_similarity=float(own.mean()),
        other_similarity=float(similarity[off].mean()),
        mean_rank=float(((similarity >= own[:, None]) & off).sum(1).mean() + 1),
        subjects=names,
    )
