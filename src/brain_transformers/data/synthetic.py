"""Synthetic scans: autoregressive, with networks and haemodynamic smoothness, and labels with an effect of known size.

Nothing in them was measured. They are for documents, tests and trials of a whole way, where real scans may not be
shipped; a model that was trained on them knows nothing of brains.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atlases.networks import networks_of_parcels
from ..atlases.roi_orders import ROIOrder, n_rois_of
from ..processing.time import check_t_r
from .builders import dataset_from_arrays

if TYPE_CHECKING:
    import datasets

SYNTHETIC = "synthetic"
"""What the files, the people and the column that tells of such scans are called by."""

# Seconds: memory of the signal before the blood answers, and the two peaks of the response.
_MEMORY, _PEAK, _UNDERSHOOT = 2.0, 6.0, 16.0
_N_NETWORKS = 7
# Fisher's z of the coupling between networks in general, between the two that the labels move, and how much a person
# differs from the next there.
_COUPLING, _PERSON = 0.25, 0.25
# Regions differ in level by a fifth, and series vary by 0.4 %, as in seven scans of the Human Connectome Project.
_LEVEL, _LEVEL_SPREAD, _FLUCTUATION = 10_000.0, 2_000.0, 0.004


def synthetic_scans(
    n_subjects: int = 32,
    *,
    effect_size: float = 0.8,
    n_runs: int = 1,
    n_timepoints: int = 300,
    t_r: float = 2.0,
    roi_order: ROIOrder = "schaefer400-7net",
    n_rois: int | None = None,
    seed: int = 0,
) -> "datasets.Dataset":
    """Scans that were made up, with what linear and other methods can be tried on.

    Parcels follow the signal of their network (that of their names where these tell, else of equal blocks of rows) and
    a person's own mixture of the others, beside noise of their own, drift and white noise, in units like a scanner's.
    The labels move one thing: the coupling (Fisher's z of the correlation) between the first two networks, exactly and
    over a whole scan. The two halves of `group`, A and B, differ in it by `effect_size` standard deviations (Cohen's
    d), so that nobody tells them apart better than with an accuracy of Phi(d / 2) and an AUROC of Phi(d / sqrt(2)).
    `score` is correlated with it by d / sqrt(d^2 + 4). With an effect of 0 nothing in a scan tells of either.

    Args:
        n_subjects: people, named `synthetic001` and so on; half of them are of each group.
        effect_size: Cohen's d; a negative one turns the groups round.
        n_runs: scans of each person, which share coupling and mixture.
        n_timepoints: frames of a scan, 32 at least.
        t_r: repetition time, seconds.
        roi_order: order of the rows; a name that is not known needs `n_rois`.
        n_rois: parcels of an order that is not known.
        seed: the same one gives the same scans.

    Returns:
        A dataset in memory as `load_dataset` gives it (4 bytes a value), with the columns `group` and `score`, and
        `synthetic`, which is true in every row and by which cards and reports know it.

    Raises:
        ValueError: for sizes that cannot be.
    """
    parcels = n_rois_of(roi_order, n_rois)
    for name, value, least in (
        ("n_subjects", n_subjects, 2),
        ("n_runs", n_runs, 1),
        ("n_timepoints", n_timepoints, 32),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"Expected {name} to be a whole number from {least} up, got {value!r:.40}.")
    if parcels is None or parcels < 2:
        raise ValueError(f"Expected n_rois of 2 or more for the order {roi_order!r:.80}, got {parcels}.")
    if not abs(effect_size) < 100:  # also NaN
        raise ValueError(f"Expected effect_size in standard deviations, such as 0.8, got {effect_size!r:.40}.")
    t_r = check_t_r(t_r)
    rng = np.random.default_rng(seed)
    made = _Made(_networks(roi_order, parcels), rng)
    groups = rng.permutation(np.arange(n_subjects) % 2)
    # Of mean 0 and deviation 1 within each group, so that the effect among these people is the one that is said.
    people = rng.standard_normal(n_subjects)
    for group in (0, 1):
        members = people[groups == group]
        people[groups == group] = (members - members.mean()) / (members.std() if len(members) > 1 else 1.0)
    coupling = people + effect_size * (groups - 0.5)
    correlation = effect_size / math.hypot(effect_size, 2.0)
    noise = rng.standard_normal(n_subjects)
    scores = correlation * coupling / math.sqrt(1 + effect_size**2 / 4) + math.sqrt(1 - correlation**2) * noise
    signals, subjects, runs = [], [], []
    for person, own in enumerate(rng.spawn(n_subjects)):
        mixture = made.mixture(own)
        for run in range(n_runs):
            signals.append(made.scan(own, mixture, _PERSON * (1 + coupling[person]), n_timepoints, t_r))
            subjects.append(f"{SYNTHETIC}{person + 1:03d}")
            runs.append(str(run + 1))
    columns: dict[str, Any] = {
        "group": np.repeat(np.array(["A", "B"])[groups], n_runs).tolist(),
        "score": np.repeat(scores, n_runs).tolist(),
        SYNTHETIC: [True] * len(signals),
    }
    dataset = dataset_from_arrays(
        signals,
        roi_order=roi_order,
        t_r=t_r,
        subject=subjects,
        run=runs,
        source_file=[f"{SYNTHETIC} (seed {seed}, effect size {effect_size:g})"] * len(signals),
        **columns,
    )
    dataset.info.description = (
        f"Synthetic scans made by brain_transformers.synthetic_scans (seed {seed}, effect size {effect_size:g}). "
        "Nothing in them was measured."
    )
    return dataset


def is_synthetic(rows: Any) -> bool:
    """Whether any of the rows of a dataset were made up by [`synthetic_scans`]."""
    return SYNTHETIC in (getattr(rows, "column_names", None) or ()) and any(
        rows.with_format(None).select_columns([SYNTHETIC])[SYNTHETIC]
    )


def _networks(roi_order: ROIOrder, n_rois: int) -> np.ndarray:
    known = networks_of_parcels(roi_order)
    if known is not None and len(set(known[0])) > 1:
        return np.asarray(known[0])
    n_networks = min(_N_NETWORKS, n_rois)
    return np.arange(n_rois) * n_networks // n_rois


class _Made:
    """What all scans of a dataset share: networks, how parcels follow theirs, and their level."""

    def __init__(self, networks: np.ndarray, rng: np.random.Generator) -> None:
        self.networks, self.n_networks = networks, int(networks.max()) + 1
        self.follows = rng.uniform(0.5, 0.9, len(networks))
        self.level = np.clip(rng.normal(_LEVEL, _LEVEL_SPREAD, len(networks)), 0.3 * _LEVEL, None)
        # A correlation matrix of common parts, which stays one whatever the first two networks have in common.
        self.common = np.tanh(np.abs(rng.normal(_COUPLING, 0.1, self.n_networks)))

    def mixture(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A person's own share of every network in every parcel, and the level of the parcels."""
        shares = rng.normal(0.0, 0.15, (len(self.networks), self.n_networks))
        shares[np.arange(len(self.networks)), self.networks] += self.follows
        # Of the two networks that the labels move, parcels of either have nothing but their own.
        shares[np.ix_(self.networks == 0, [1])] = 0.0
        shares[np.ix_(self.networks == 1, [0])] = 0.0
        return shares, self.level * rng.normal(1.0, 0.05) * rng.normal(1.0, 0.03, len(self.networks))

    def scan(
        self, rng: np.random.Generator, mixture: tuple[np.ndarray, np.ndarray], z: float, n_timepoints: int, t_r: float
    ) -> np.ndarray:
        """A scan (n_rois, n_timepoints) float32 whose first two networks have exactly this coupling (Fisher's z)."""
        shares, level = mixture
        raw = haemodynamic_noise(rng, self.n_networks + 1, n_timepoints, t_r)
        basis = np.linalg.qr(raw.T)[0].T * math.sqrt(n_timepoints)  # uncorrelated over the scan
        r = math.tanh(z)
        sources = np.sqrt(1 - self.common**2)[:, None] * basis[:-1] + self.common[:, None] * basis[-1]
        sources[0], sources[1] = basis[0], r * basis[0] + math.sqrt(1 - r**2) * basis[1]
        own = haemodynamic_noise(rng, len(shares), n_timepoints, t_r)
        own = 0.45 * own + 0.3 * rng.standard_normal(own.shape)
        time = np.arange(n_timepoints) / n_timepoints
        drift = 0.2 * rng.standard_normal((len(shares), 1)) * np.cos(np.pi * time + rng.uniform(0, np.pi))
        signal = shares @ sources + own + drift
        return (level[:, None] * (1 + _FLUCTUATION * signal)).astype(np.float32)


def haemodynamic_noise(rng: np.random.Generator, n_series: int, n_timepoints: int, t_r: float) -> np.ndarray:
    """(n_series, n_timepoints) of mean 0 and deviation 1: first-order autoregressive noise seen through a response.

    The response has two gamma-shaped peaks, at 6 s and, a sixth as high, against it at 16 s.
    """
    lags = np.arange(0.0, 32.0 + t_r, t_r)
    response = sum(
        sign * lags ** (peak - 1) * np.exp(-lags) / math.gamma(peak)
        for sign, peak in ((1.0, _PEAK), (-1 / 6, _UNDERSHOOT))
    )
    memory = np.exp(-lags / _MEMORY)
    kernel = np.convolve(response, memory)
    padded = n_timepoints + len(kernel) - 1
    white = rng.standard_normal((n_series, padded))
    size = padded + len(kernel) - 1
    smooth = np.fft.irfft(np.fft.rfft(white, size) * np.fft.rfft(kernel, size), size)[:, len(kernel) - 1 : padded]
    smooth -= smooth.mean(axis=1, keepdims=True)
    return smooth / smooth.std(axis=1, keepdims=True)
