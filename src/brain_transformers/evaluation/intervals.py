"""How sure a score is, and what a guess that sees no scan gets."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

Score = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def intervals(
    score: Score, logits: np.ndarray, targets: np.ndarray, people: Sequence[Hashable], draws: int = 200, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Bounds of the middle 95 % of each score, when people are drawn again with all of their scans.

    Args:
        score: of logits and targets.
        logits: `(n, n_outputs)`.
        targets: `(n,)`.
        people: whose scan each is.
        draws: how often.
        seed: of the draws.
    """
    owners = np.unique([str(person) for person in people], return_inverse=True)[1]
    rows_of = [np.flatnonzero(owners == number) for number in range(owners.max() + 1)]
    rng, found = np.random.default_rng(seed), dict[str, list[float]]()
    for _ in range(draws):
        rows = np.concatenate([rows_of[number] for number in rng.integers(len(rows_of), size=len(rows_of))])
        for name, value in score(logits[rows], targets[rows]).items():
            found.setdefault(name, []).append(value)
    return {name: tuple(np.nanquantile(values, (0.025, 0.975)).tolist()) for name, values in found.items()}


def guess(logits: np.ndarray, training_targets: np.ndarray) -> np.ndarray:
    """Outputs of a guess: the most frequent class of training, or its mean where numbers are predicted."""
    blind = np.zeros_like(logits, dtype=np.float64)
    if training_targets.dtype.kind == "f":
        blind[:] = training_targets.mean()
    else:
        blind[:, np.bincount(training_targets).argmax()] = 1.0
    return blind


def in_words(
    score: Score, logits: np.ndarray, targets: np.ndarray, people: Sequence[Hashable], training: np.ndarray
) -> dict[str, str]:
    """Each score with its interval and what a guess gets, for a card; see [`intervals`] and [`guess`].

    Args:
        score, logits, targets, people: of [`intervals`].
        training: targets of training.
    """
    bounds, blind = intervals(score, logits, targets, people), score(guess(logits, training), targets)
    words = {}
    for name, value in score(logits, targets).items():
        sure = "no interval"
        if name in bounds and len({*map(str, people)}) > 1:
            sure = "95 % interval {:.3f} to {:.3f}".format(*bounds[name])
        words[name] = f"{value:.3f} ({sure}); a guess without scans: {blind[name]:.3f}"
    return words
