"""The preprocessing of the BrainLM authors, as functions: splits, normalisation columns, robust scaling, images,
labels.

Golden cases hold what the authors' scripts gave; the package itself scales with `ROISeriesFeatureExtractor`.
Recordings are (n_timepoints, n_parcels) here, as the authors store them.
Source: the released conversion scripts and notebooks of Ortega Caro et al., BrainLM, ICLR 2024.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from brain_transformers.models.brainlm_vit.family import DIVISOR

# Standard deviation and 99th percentile of the authors' 1000-recording set, as their scripts fix them.
GLOBAL_STD = 41.44047
GLOBAL_99TH_PERCENTILE = 111.13143061224855
_WINDOW = 200

ALL_PATIENT_ALL_VOXEL = "All_Patient_All_Voxel_Normalized_Recording"
PER_PATIENT_ALL_VOXEL = "Per_Patient_All_Voxel_Normalized_Recording"
PER_PATIENT_PER_VOXEL = "Per_Patient_Per_Voxel_Normalized_Recording"
PER_VOXEL_ALL_PATIENT = "Per_Voxel_All_Patient_Normalized_Recording"
SUBTRACT_MEAN = "Subtract_Mean_Normalized_Recording"
SUBTRACT_MEAN_STD = "Subtract_Mean_Divide_Global_STD_Normalized_Recording"
SUBTRACT_MEAN_99TH = "Subtract_Mean_Divide_Global_99thPercent_Normalized_Recording"


def ukbiobank_splits(filenames: Sequence[str]) -> dict[str, list[str]]:
    """Train, validation and test files: sorted by name, then the first 80 %, the next 10 % and the rest.

    Returns:
        `{"train": [...], "validation": [...], "test": [...]}`, the cuts at ceil(0.8 n) and ceil(0.9 n).
    """
    names = sorted(filenames)
    first, second = math.ceil(0.8 * len(names)), math.ceil(0.9 * len(names))
    return {"train": names[:first], "validation": names[first:second], "test": names[second:]}


def patient_id(filename: str, upstream_quirks: bool = False) -> str:
    """The patient of a file: its stem; with `upstream_quirks` the part behind `.dat`, as the authors stored it."""
    name = PurePosixPath(filename).name
    stem, _, rest = name.partition(".dat")
    return rest if upstream_quirks else stem


def ukbiobank_columns(recordings: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The seven normalisation columns of the UK Biobank converter, with statistics of each split.

    Args:
        recordings: raw recordings by file name, each (n_timepoints, n_parcels), not negative.

    Returns:
        By file name, then by column name, (n_timepoints, n_parcels) float32. A value whose range is 0 stays raw.

    Raises:
        ValueError: if a recording holds a negative value or is not 2-D, as the released script refuses them.
    """
    raw = {name: np.asarray(recording, dtype=np.float32) for name, recording in recordings.items()}
    for name, recording in raw.items():
        if recording.ndim != 2:
            raise ValueError(f"Expected {name} of shape (n_timepoints, n_parcels), got {recording.shape}.")
        if recording.min() < 0:
            raise ValueError(f"Expected raw recordings of at least 0, got {recording.min():g} in {name}.")
    columns: dict[str, dict[str, np.ndarray]] = {}
    for names in ukbiobank_splits(list(raw)).values():
        if not names:
            continue
        low = min(raw[name].min() for name in names)
        high = max(raw[name].max() for name in names)
        parcel_low = np.min([raw[name].min(axis=0) for name in names], axis=0)
        parcel_high = np.max([raw[name].max(axis=0) for name in names], axis=0)
        for name in names:
            recording = raw[name]
            # Each parcel's series is averaged on its own in float32; adding whole frames rounds differently, by up to
            # 1.3e-4 at raw values of several hundred.
            centred = recording - np.ascontiguousarray(recording.T).mean(axis=1)
            columns[name] = {
                ALL_PATIENT_ALL_VOXEL: _to_unit_range(recording, low, high),
                PER_PATIENT_ALL_VOXEL: _to_unit_range(recording, recording.min(), recording.max()),
                PER_PATIENT_PER_VOXEL: _to_unit_range(recording, recording.min(axis=0), recording.max(axis=0)),
                PER_VOXEL_ALL_PATIENT: _to_unit_range(recording, parcel_low, parcel_high),
                SUBTRACT_MEAN: centred,
                SUBTRACT_MEAN_STD: centred / np.float32(GLOBAL_STD),
                SUBTRACT_MEAN_99TH: centred / np.float32(GLOBAL_99TH_PERCENTILE),
            }
    return columns


def _to_unit_range(recording: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    span = np.subtract(high, low, dtype=np.float32)
    flat = span == 0
    return np.where(flat, recording, (recording - low) / np.where(flat, np.float32(1), span)).astype(np.float32)


def toolkit_robust_scale(
    recordings: Mapping[str, np.ndarray], upstream_quirks: bool = False, eps: float = 1e-8
) -> dict[str, np.ndarray]:
    """Robust scaling over a set of recordings, per parcel: (x - own mean - median) / IQR.

    Args:
        recordings: by name, each (n_timepoints, n_parcels). Only the first 200 timepoints of a centred recording enter
            the median and the IQR, as in the authors' toolkit.
        upstream_quirks: reproduce the toolkit's column, which for an operator precedence is x - own mean - median /
            IQR, and whose IQR leaves out entries that are exactly 0. For regression tests only.
        eps: smallest IQR that is divided by.

    Returns:
        By name, (n_timepoints, n_parcels) float32.

    Raises:
        ValueError: if there is no recording.
    """
    if not recordings:
        raise ValueError("Expected at least one recording, got none.")
    centred = {}
    for name, recording in recordings.items():
        values = np.asarray(recording, dtype=np.float32)
        centred[name] = values - values.mean(axis=0)
    stack = np.concatenate([values[:_WINDOW] for values in centred.values()])
    median = np.median(stack, axis=0)
    if upstream_quirks:
        stack = np.where(stack == 0, np.float32(np.nan), stack)
        upper, lower = np.nanpercentile(stack, [75, 25], axis=0)
    else:
        upper, lower = np.percentile(stack, [75, 25], axis=0)
    median, iqr = median.astype(np.float32), (upper - lower).astype(np.float32)
    if upstream_quirks:
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: values - median / iqr for name, values in centred.items()}
    iqr = np.maximum(iqr, np.float32(eps))
    return {name: (values - median) / iqr for name, values in centred.items()}


def vit_image(
    recording: np.ndarray, row_order: np.ndarray | None, start: int, n_timepoints: int = _WINDOW
) -> np.ndarray:
    """The image that the ViT checkpoints read: rows reordered, a window cut, divided by 5.6430855.

    Args:
        recording: (n_parcels, n_timepoints of the scan), robust-scaled.
        row_order: (n_rows,) row of the recording for each row of the image, such as `stable_y_order(coordinates)`;
            `None` for a recording whose rows are in order already.
        start: first timepoint.
        n_timepoints: width of the window.

    Returns:
        (n_rows, n_timepoints) float32.

    Raises:
        ValueError: if the window does not lie within the recording.
    """
    recording = np.asarray(recording, dtype=np.float32)
    if not 0 <= start <= recording.shape[1] - n_timepoints:
        raise ValueError(
            f"Expected a window of {n_timepoints} within {recording.shape[1]} timepoints, got start {start}."
        )
    rows = recording if row_order is None else recording[np.asarray(row_order)]
    return rows[:, start : start + n_timepoints] / np.float32(DIVISOR)


def log_scaled_label(values: np.ndarray) -> np.ndarray:
    """PCL.Score and GAD7.Severity: log(1 + y) divided by its largest value; NaN stays NaN."""
    logs = np.log1p(np.asarray(values))
    return logs / np.nanmax(logs)


def max_scaled_label(values: np.ndarray) -> np.ndarray:
    """Neuroticism: y divided by its largest value; NaN stays NaN."""
    values = np.asarray(values)
    return values / np.nanmax(values)


def standardised_label(values: np.ndarray) -> np.ndarray:
    """Age.At.MHQ: z-score with the population standard deviation; NaN stays NaN."""
    values = np.asarray(values)
    return (values - np.nanmean(values)) / np.nanstd(values)


def depression_label(values: np.ndarray) -> np.ndarray:
    """PHQ9.Severity: 1 above 4, else 0; NaN stays NaN."""
    values = np.asarray(values)
    return np.where(np.isnan(values), np.nan, values > 4).astype(
        values.dtype if values.dtype.kind == "f" else np.float32
    )
