"""From parcellated scans to the inputs of the models that read (n_rois, n_timepoints) series."""

import copy
import difflib
import inspect
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import BatchFeature, FeatureExtractionMixin

from ..models.remote_code import shim_reference, write_shim
from .filtering import band_pass_filter, check_band
from .frame_sampling import frame_step, regular_starts, sampled_frames
from .missing import OUTLIER_IQRS, bridged, missing_frames, outliers
from .resampling import resample_t_r
from .roi_orders import (
    SORTED_BY_Y,
    ROIOrder,
    did_you_mean,
    permutation,
    resolve_roi_order,
    roi_coordinates,
    roi_order_text,
    stable_y_order,
)
from .time import check_t_r, known_t_r

LAYOUTS = ("roi_time", "image")
WINDOWS = ("first", "center", "all", "cover", "random")
NORMALIZATIONS = (
    "none",
    "center",
    "zscore",
    "zscore-scan",
    "zscore-window",
    "robust",
    "robust-scan",
    "robust-means",
)
RESAMPLINGS = ("filter", "frames")
_FITTED = ("robust", "robust-means")

# Side of the padded square of BrainLM's image form, by patch size (27 x 27 and 31 x 31 patches).
_IMAGE_SIDE = {16: 432, 14: 434}
_ZSCORE_EPS = 1e-8
# 1 GB in float32: more is a damaged file and not a window.
_MOST_VALUES = 2**28
# A spread below a few float32 steps of the level is rounding, not signal.
_CONSTANT_RTOL = 1e-6
_SCALE_FACTOR = 3.0
# Share of a scan after the last whole window from which on it is said that this rest is not used.
_TAIL_SHARE = 0.05
_NOT_FINITE = (
    "Expected finite numbers after scaling {name} ({how}), got infinite ones or NaN. Its values are too large: check "
    "that file, or leave it out."
)
# Share of the variance that picking frames folds into slower frequencies, from which on it is said.
_FOLDED_SHARE = 0.1
# Scans that one kind of warning names.
_MOST_WARNINGS = 10
# A generator that keeps finding windows without a measured frame is asked this often.
_MAX_DRAWS = 100


@dataclass
class _RowPlan:
    """Where each emitted row comes from, and its centre."""

    n_source: int
    index: np.ndarray
    identity: bool
    order: np.ndarray | None
    coordinates: np.ndarray | None
    missing: tuple[str, ...]


@dataclass
class _ScanPlan:
    """A checked scan with what it takes to write its windows."""

    name: str
    signals: np.ndarray
    rows: _RowPlan
    shifts: list[np.ndarray]
    scale: np.ndarray | None
    zero_rows: np.ndarray
    non_finite: np.ndarray | None
    missing: np.ndarray | None
    t_r: float | None
    n_timepoints: int
    starts: list[float]
    sampling_rate: int = 1


def unpack_row(row: Mapping[str, Any]) -> tuple[np.ndarray, str | None, float | None]:
    """A row of a scan dataset as (signals (n_rois, n_timepoints) float32, roi_order, t_r in seconds or `None`).

    Raises:
        ValueError: if a column is not there, or the numbers do not fit each other; the message names the scan.
    """
    name = scan_name(row)
    lacking = [key for key in ("signals", "n_rois", "n_timepoints") if key not in row]
    if lacking:
        raise ValueError(
            f"Expected a row of a scan dataset for {name}, got one without {', '.join(lacking)} (columns: "
            f"{list(row)[:8]}). If transformers.Trainer took the columns away, pass remove_unused_columns=False in "
            "its arguments."
        )
    try:
        signals = np.asarray(row["signals"], dtype=np.float32).reshape(int(row["n_rois"]), int(row["n_timepoints"]))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"Expected signals of {name} to be n_rois x n_timepoints = {row['n_rois']!r:.20} x "
            f"{row['n_timepoints']!r:.20} numbers, got something else ({error}). Prepare the dataset anew."
        ) from error
    roi_order = row.get("roi_order")
    return signals, None if not roi_order else str(roi_order), known_t_r(row.get("t_r"), f"t_r of {name}")


def scan_name(row: Mapping[str, Any], number: int | None = None) -> str:
    """How messages call a row of a scan dataset: person, session, run and file where the row knows them.

    Args:
        row: its columns.
        number: place in the batch, for rows that know nothing about themselves.
    """
    parts = [
        str(row[key]) for key in ("subject", "session", "run") if isinstance(row.get(key), (str, int)) and row[key]
    ]
    file = row.get("source_file")
    if isinstance(file, str) and file and file not in parts:
        parts.append(f"({file})" if parts else file)
    if not parts and number is None:
        return "the scan"
    return " ".join(["scan", *(parts or [str(number)])])


class ROISeriesFeatureExtractor(FeatureExtractionMixin):
    """Turn parcellated BOLD scans, each (n_rois, n_timepoints), into model inputs.

    The way of a scan: check the parcel order and permute rows by label, scale with statistics of the whole scan (or of
    the training set), resample to the model's repetition time, cut windows, pad short scans. Saved as
    `preprocessor_config.json` with everything that was fitted, and loaded back bit for bit.

    Frames in which nothing was measured (NaN, 0 or copies of each other in every parcel: scrubbed or padded) take no
    part in scaling, are 0 afterwards, and tokens that hold nothing else are 0 in `attention_mask`. A window without a
    measured frame is refused, or left out where others remain.

    Args:
        n_rois: rows that the model takes.
        n_timepoints: timepoints of a window.
        patch_size: timepoints of one token (`layout="image"`: pixels of a square patch).
        roi_order: order of the model's rows: a name such as `"a424"`, or a list of labels. `"<order>@y"` is short for
            that order with `sort_rows="y"`. `None` means that rows are taken as they come.
        t_r: repetition time the model was trained on, seconds; `None` takes any without resampling.
        t_r_tolerance: relative difference of repetition times that counts as equal. 0.025 covers HCP's 0.72 s against
            UK Biobank's 0.735 s (2.04 %), which the authors of BrainLM used side by side.
        layout: `"roi_time"`: tokens are (ROI, window of `patch_size`), ROI-major; `"image"`: tokens are square patches
            of the parcel x time image, padded to a square of `image_size`.
        image_size: side of that square; by default 432 for patches of 16 and 434 for patches of 14.
        window: which windows to cut unless a call says otherwise: `"first"`, `"center"`, `"all"` (side by side from
            the start; a rest shorter than a window is left out), `"cover"` (the same, and where there is a rest one
            more window that ends with the scan) or `"random"` (uniform start, needs `rng`).
        normalization: `"none"`; `"center"`: minus the ROI's mean; `"zscore"`: per ROI, population std + 1e-8;
            `"zscore-scan"`: one mean and one unbiased std for the scan, `"zscore-window"`: the same for a window;
            `"robust"`: (x - ROI's mean - median)/IQR with
            medians and IQRs fitted on centred training scans (BrainLM); `"robust-scan"`: the same with the median and
            IQR of the scan itself; `"robust-means"`: (x - median)/IQR, fitted on the ROI means of training scans.
        divisor: everything is divided by it last; the image checkpoints of BrainLM were trained with 5.6430855.
        statistics: fitted values, `{"median": [...], "iqr": [...], "n_scans": n}` in the order of `roi_order`; see
            `fit`.
        coordinates: (n_rois, 3) centres in mm MNI, in the order of `roi_order` before any sorting.
        return_coordinates: emit `coordinates` when they are known.
        sort_rows: `"y"` sorts rows from posterior to anterior, ties in label order; `None` keeps `roi_order`.
        short_scans: `"pad"` with zeros and an `attention_mask`, or `"error"`.
        missing_rois: what to do when the scan's order lacks parcels: `"error"`; `"fill"`: zeros and a warning;
            `"mask"`: zeros and 0 in `attention_mask` (`layout="roi_time"`).
        resampling: how another repetition time is brought to the model's: `"filter"` interpolates band-limited;
            `"frames"` picks every second, third, ... frame without a filter, as Brain-JEPA was trained: what is faster
            than the new rate can hold folds into slower frequencies, with a warning where that is a tenth of the
            variance (the last frame fills up a patch that is measured in part, and scans slower than the model stay
            as they are).
        band_pass: low and high edge in Hz of a Butterworth filter (order 5, forward and backward) that runs over the
            whole scan before everything else; needs the scan's t_r and scipy. `None` for no filter.
        expected_std: standard deviation of the model's training inputs; inputs more than 3 times away bring a warning.

    Raises:
        ValueError: for options that do not exist or sizes that contradict each other.
    """

    model_input_names = ["signals", "coordinates", "attention_mask"]

    def __init__(
        self,
        n_rois: int = 424,
        n_timepoints: int = 200,
        patch_size: int = 20,
        roi_order: ROIOrder | None = None,
        t_r: float | None = None,
        t_r_tolerance: float = 0.025,
        layout: str = "roi_time",
        image_size: int | None = None,
        window: str = "first",
        normalization: str = "none",
        divisor: float = 1.0,
        statistics: dict[str, Any] | None = None,
        coordinates: Sequence[Sequence[float]] | np.ndarray | None = None,
        return_coordinates: bool = True,
        sort_rows: str | None = None,
        short_scans: str = "pad",
        missing_rois: str = "error",
        band_pass: Sequence[float] | None = None,
        expected_std: float | None = None,
        resampling: str = "filter",
        **kwargs: Any,
    ) -> None:
        # What transformers writes beside the arguments; anything else is a misspelt argument or a damaged file.
        unknown = sorted(set(kwargs) - {"feature_extractor_type", "auto_map", "processor_class"})
        if unknown:
            near = difflib.get_close_matches(unknown[0], inspect.signature(type(self).__init__).parameters, n=1)
            hint = f"Did you mean {near[0]}?" if near else "Leave it out."
            raise TypeError(f"{type(self).__name__} has no argument {unknown[0]!r:.80}. {hint}")
        super().__init__()
        _check_choice("layout", layout, LAYOUTS)
        _check_choice("window", window, WINDOWS)
        _check_choice("normalization", normalization, NORMALIZATIONS)
        _check_choice("resampling", resampling, RESAMPLINGS)
        _check_choice("short_scans", short_scans, ("pad", "error"))
        _check_choice("missing_rois", missing_rois, ("error", "fill", "mask"))
        _check_choice("sort_rows", sort_rows, (None, "y"))
        if not isinstance(return_coordinates, bool):
            raise ValueError(f"Expected return_coordinates to be true or false, got {return_coordinates!r:.80}.")
        sizes = (
            ("n_rois", n_rois, 100_000),
            ("n_timepoints", n_timepoints, 1_000_000),
            ("patch_size", patch_size, 10**6),
        )
        for name, value, most in sizes:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"Expected {name} to be a positive integer up to {most}, got {value!r:.40}.")
        if n_rois * n_timepoints > _MOST_VALUES:
            raise ValueError(
                f"Expected a window of at most {_MOST_VALUES} values, got n_rois {n_rois} x n_timepoints "
                f"{n_timepoints}. Make windows shorter."
            )
        divisor = _check_number("divisor", divisor, 1e-6, 1e6)
        t_r_tolerance = _check_number("t_r_tolerance", t_r_tolerance, 0.0, 0.5)
        expected_std = None if expected_std is None else _check_number("expected_std", expected_std, 1e-9, 1e9)
        if isinstance(roi_order, str) and roi_order.endswith(SORTED_BY_Y):
            roi_order, sort_rows = roi_order.removesuffix(SORTED_BY_Y), "y"
        if roi_order is not None:
            labels = resolve_roi_order(roi_order).labels
            if labels and len(labels) != n_rois:
                raise ValueError(
                    f"roi_order {_order_name(roi_order)} has {len(labels)} parcels but n_rois is {n_rois}. "
                    "Make them agree, or set roi_order=None to take rows as they come."
                )
        if layout == "roi_time" and n_timepoints % patch_size:
            raise ValueError(f"n_timepoints ({n_timepoints}) must be a multiple of patch_size ({patch_size}).")
        if layout != "image" and image_size is not None:
            raise ValueError(f"image_size ({image_size!r:.80}) is for layout='image', got {layout!r}. Leave it out.")
        if layout == "image":
            image_size = _IMAGE_SIDE.get(patch_size) if image_size is None else image_size
            if not isinstance(image_size, int) or not 0 < image_size <= 2**14 or image_size % patch_size:
                raise ValueError(
                    f"Expected image_size to be a multiple of patch_size {patch_size}, got {image_size}. "
                    "Released models use patches of 16 on 432 or of 14 on 434; pass image_size for others."
                )
            if n_rois > image_size or n_timepoints > image_size:
                raise ValueError(f"{n_rois} ROIs x {n_timepoints} timepoints do not fit in an image of {image_size}.")
            if missing_rois == "mask":
                raise ValueError('missing_rois="mask" needs layout="roi_time": an image patch spans several ROIs.')
        if statistics is not None:
            _check_statistics(statistics, n_rois)

        self.n_rois = n_rois
        self.n_timepoints = n_timepoints
        self.patch_size = patch_size
        # Saved as JSON: a name, or a list of plain text whatever the labels came as.
        text = None if roi_order is None else roi_order_text(roi_order)
        self.roi_order = list(resolve_roi_order(text).labels) if text is not None and text.startswith("[") else text
        self.t_r = None if t_r is None else check_t_r(t_r, "the model's t_r")
        self.t_r_tolerance = t_r_tolerance
        self.layout = layout
        self.image_size = image_size
        self.window = window
        self.normalization = normalization
        self.divisor = divisor
        self.statistics = statistics
        self.coordinates = None if coordinates is None else _check_coordinates(coordinates, n_rois).tolist()
        self.return_coordinates = return_coordinates
        self.sort_rows = sort_rows
        self.short_scans = short_scans
        self.missing_rois = missing_rois
        self.band_pass = check_band(band_pass)
        self.expected_std = expected_std
        self.resampling = resampling
        self._warned: set[Any] = set()
        self._n_warned: Counter[str] = Counter()
        self._row_plans: dict[Any, _RowPlan] = {}

    # --- construction and saving ---

    @classmethod
    def from_model_config(cls, config: Any, **overrides: Any) -> "ROISeriesFeatureExtractor":
        """Make the extractor that fits a model config of any family.

        Reads `n_rois`, `n_timepoints`, `patch_size`, `roi_order`, `t_r`, `layout` and `image_size` where the config
        has them, and what its family says of the scale that its weights know (`models/<family>/family.py`).

        Args:
            config: a model config.
            overrides: any argument of the constructor.
        """
        # Families that do not know coordinates would refuse them as an argument.
        family = getattr(config, "family", None)
        values = {"return_coordinates": False, **(family.processor_defaults if family is not None else {})}
        for name in ("n_rois", "n_timepoints", "patch_size", "roi_order", "t_r", "layout"):
            if getattr(config, name, None) is not None:
                values[name] = getattr(config, name)
        if "n_rois" not in values and values.get("roi_order") is not None:
            values["n_rois"] = len(resolve_roi_order(values["roi_order"]).labels) or cls().n_rois
        image_size = getattr(config, "image_size", None)
        if image_size is not None and values.get("layout") == "image":
            values["image_size"] = image_size if isinstance(image_size, int) else int(image_size[0])
        values.update(overrides)
        return cls(**values)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoFeatureExtractor") -> None:
        """Do nothing: copying this one module into a model folder would separate it from the package it needs."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load `preprocessor_config.json` of a folder or of the Hub, as transformers does.

        Raises:
            OSError: if there is none, or it is no JSON.
            ValueError: if it holds what no extractor can be; the message names the file and the field.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError:
            raise
        except Exception as error:  # a damaged file fails in as many ways as there are fields
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"{pretrained_model_name_or_path}: preprocessor_config.json is damaged or was not written by this "
                f"package: {reason} Save the extractor again, or convert the checkpoint again."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Everything that the constructor takes, JSON-ready (the base method would drop `window`)."""
        output = {key: copy.deepcopy(value) for key, value in self.__dict__.items() if not key.startswith("_")}
        output["feature_extractor_type"] = type(self).__name__
        output["auto_map"] = {"AutoFeatureExtractor": shim_reference(type(self).__name__)}
        return output

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `preprocessor_config.json`, and beside it the module that its `auto_map` refers to."""
        if not Path(save_directory).is_file():  # transformers reports that one
            write_shim(save_directory, [type(self).__name__])
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @property
    def is_fitted(self) -> bool:
        """Whether scaling can run: nothing is to be fitted, or it was."""
        return self.normalization not in _FITTED or self.statistics is not None

    @property
    def output_roi_order(self) -> ROIOrder | None:
        """Order of the emitted rows: `roi_order`, with `"@y"` behind a name when rows are sorted."""
        if isinstance(self.roi_order, str) and self.sort_rows == "y":
            return self.roi_order + SORTED_BY_Y
        return self.roi_order

    # --- fitting ---

    def fit(
        self,
        scans: Iterable[np.ndarray | Mapping[str, Any]],
        roi_order: ROIOrder | None = None,
        max_timepoints: int | None = None,
    ) -> "ROISeriesFeatureExtractor":
        """Fit medians and IQRs per ROI on training scans and keep them in `statistics`.

        For `"robust"` every scan is centred on its own ROI means (float32, over the whole scan) and the median and
        75th - 25th percentile are taken over all timepoints of all scans; for `"robust-means"` over the scans' ROI
        means (float64). ROIs that are constant or not finite in a scan do not count there, nor do frames in which
        nothing was measured. Scans are used as they are, without resampling in time.

        Args:
            scans: arrays (n_rois, n_timepoints), or rows of a scan dataset, which bring their own roi_order.
            roi_order: order of the arrays' rows.
            max_timepoints: use only that many first timepoints of each centred scan, to bound memory
                (n_scans x n_rois x timepoints x 4 bytes).

        Returns:
            The extractor itself.

        Raises:
            ValueError: if the normalization has nothing to fit, there are no scans, or a scan does not fit.
        """
        if self.normalization not in _FITTED:
            raise ValueError(
                f"normalization={self.normalization!r} has nothing to fit. Only {list(_FITTED)} use fitted statistics."
            )
        parts: list[np.ndarray] = []
        total = len(scans) if isinstance(scans, Sized) else None
        progress = tqdm(
            scans, desc="Fitting ROI statistics", unit="scan", total=total, disable=total is not None and total < 32
        )
        for number, item in enumerate(progress):
            scan, order, name = item, roi_order, f"scan {number}"
            if isinstance(item, Mapping):
                scan, order, _ = unpack_row(item)
                name = scan_name(item, number)
            rows = self._plan_rows(order, None, sort=False)
            signals, _ = self._check_scan(scan, rows.n_source, name)
            mean, zero_rows, non_finite = _row_statistics(signals)
            if self.normalization == "robust":
                values = (signals - mean[:, None])[:, :max_timepoints]
                if non_finite is not None:
                    values[non_finite[:, :max_timepoints]] = np.nan
            else:
                exact = np.asarray(scan, dtype=np.float64)[:, : signals.shape[1]]
                if non_finite is None:
                    values = exact.mean(axis=1, keepdims=True)
                else:
                    counted = np.where(non_finite, 0.0, exact).sum(axis=1, keepdims=True)
                    values = counted / np.maximum((~non_finite).sum(axis=1, keepdims=True), 1)
            values[zero_rows | ~np.isfinite(mean)] = np.nan
            values = values[rows.index]
            values[rows.index < 0] = np.nan
            parts.append(values)
        if not parts:
            raise ValueError("Expected at least one scan to fit on, got none.")
        median, iqr = np.empty(self.n_rois), np.empty(self.n_rois)
        for low in range(0, self.n_rois, 32):
            block = np.concatenate([part[low : low + 32] for part in parts], axis=1)
            percentile = np.nanpercentile if np.isnan(block).any() else np.percentile
            with warnings.catch_warnings():
                # An ROI without a single good scan gives NaN here and is named below.
                warnings.simplefilter("ignore", RuntimeWarning)
                quartiles = percentile(block, [25, 50, 75], axis=1)
            median[low : low + 32], iqr[low : low + 32] = quartiles[1], quartiles[2] - quartiles[0]
        unfitted = ~(np.isfinite(median) & np.isfinite(iqr) & (iqr > 0))
        if unfitted.sum() * 2 > self.n_rois:
            raise ValueError(
                f"{int(unfitted.sum())} of {self.n_rois} ROIs have no spread in the {len(parts)} scans given "
                f"(first: {np.flatnonzero(unfitted)[:5].tolist()}). Fit on more scans with real signals."
            )
        median[unfitted], iqr[unfitted] = 0.0, 0.0
        if self.normalization == "robust":
            median, iqr = median.astype(np.float32), iqr.astype(np.float32)
        self.statistics = {"median": median.tolist(), "iqr": iqr.tolist(), "n_scans": len(parts)}
        if unfitted.any():
            self._warn_once(
                ("unfitted", tuple(np.flatnonzero(unfitted))),
                f"{int(unfitted.sum())} ROIs have no spread in the training scans and will be set to 0 "
                f"(first: {np.flatnonzero(unfitted)[:5].tolist()}).",
            )
        return self

    # --- the call ---

    def __call__(
        self,
        signals: np.ndarray | Sequence[np.ndarray] | Mapping[str, Any] | Iterable[Mapping[str, Any]],
        t_r: float | Sequence[float | None] | None = None,
        roi_order: ROIOrder | None = None,
        coordinates: np.ndarray | Sequence[np.ndarray] | None = None,
        window: str | None = None,
        start: float | Sequence[float] | None = None,
        rng: np.random.Generator | None = None,
        return_tensors: str | None = None,
        return_windows: bool = False,
        n_windows: int | None = None,
    ) -> BatchFeature:
        """Make a batch of model inputs.

        Args:
            signals: one scan (n_rois, n_timepoints) or several (a list, or an array with a leading axis), which need
                the same roi_order; or one row of a scan dataset or several, which bring their order and t_r.
            t_r: repetition time of the scans, seconds; one, or one a scan.
            roi_order: order of the scans' rows. Required whenever the extractor has one: it is never guessed.
            coordinates: (n_rois, 3) mm MNI in the scans' row order, or one a scan. They are emitted instead of the
                stored ones, and they decide the sorting only where the extractor knows none for its order.
            window: overrides the extractor's choice.
            start: first timepoint of the window instead of `window`; one, or one a scan. It counts after resampling;
                with `resampling="frames"` it counts frames of the scan and need not be whole.
            rng: numpy generator, for `window="random"`.
            return_tensors: `"pt"` or `"np"`.
            return_windows: also return `scan_index` and `window_start` (after resampling), both (n_windows,) int64.
            n_windows: this many evenly spaced windows of each scan, from its start to its end, instead of `window`.
                They overlap where the scan is short, and are all the same where it is not longer than one.

        Returns:
            `signals` (batch, n_rois, n_timepoints) float32; `coordinates` (batch, n_rois, 3) float32 mm when known;
            `attention_mask` (batch, n_tokens) int64, 1 observed and 0 padding, only when something is padded.

        Raises:
            ValueError: if a scan cannot be used; the message says what was expected, what came, and what to do.
        """
        scans = _as_list(signals)
        t_rs = _per_scan("t_r", t_r, len(scans))
        starts = _per_scan("start", start, len(scans))
        tables = _coordinates_per_scan(coordinates, len(scans))
        if not self.is_fitted:
            raise ValueError(
                f"normalization={self.normalization!r} needs statistics of training scans, and none are stored. Run "
                'extractor.fit(training_scans, roi_order=...) and save it, or choose normalization="robust-scan" to '
                "scale every scan by its own median and IQR."
            )
        plans = []
        for number, scan in enumerate(scans):
            name, order, rate = f"scan {number}", roi_order, t_rs[number]
            if isinstance(scan, Mapping):
                name = scan_name(scan, number)
                scan, own_order, own_rate = unpack_row(scan)
                order = _agreed("roi_order", roi_order, own_order, name)
                rate = _agreed("t_r", rate, own_rate, name)
            plans.append(
                self._plan_scan(scan, name, rate, order, tables[number], window, starts[number], rng, n_windows)
            )
        self._report_bad_rois(plans)
        self._report_missing_frames(plans)

        total = sum(len(plan.starts) for plan in plans)
        output = np.empty((total, self.n_rois, self.n_timepoints), dtype=np.float32)
        observed = np.empty((total, self.n_timepoints), dtype=bool)
        scan_index = np.empty(total, dtype=np.int64)
        window_start = np.empty(total, dtype=np.int64)
        position = 0
        for number, plan in enumerate(plans):
            stop = position + len(plan.starts)
            self._write_windows(plan, output[position:stop], observed[position:stop])
            scan_index[position:stop] = number
            window_start[position:stop] = [int(first / plan.sampling_rate) for first in plan.starts]
            position = stop
        self._check_output(plans, output, scan_index)
        self._check_scale(plans, output, observed)

        data: dict[str, Any] = {"signals": output}
        centres = [plan.rows.coordinates for plan in plans if plan.rows.coordinates is not None]
        if self.return_coordinates and len(centres) == len(plans):
            data["coordinates"] = np.stack([centres[number] for number in scan_index])
        masked = self.missing_rois == "mask" and any(plan.zero_rows.any() for plan in plans)
        if masked or not observed.all():
            mask = self._attention_mask(observed, [plans[number] for number in scan_index])
            if not mask.all():
                data["attention_mask"] = mask
        if return_windows:
            data["scan_index"], data["window_start"] = scan_index, window_start
        return BatchFeature(data, tensor_type=return_tensors)

    # --- rows ---

    def _plan_rows(self, roi_order: ROIOrder | None, coordinates: np.ndarray | None, sort: bool = True) -> _RowPlan:
        own = None if self.roi_order is None else roi_order_text(self.roi_order)
        declared = None if roi_order is None else roi_order_text(roi_order)
        # Attributes may be set after construction, so the plan depends on them too.
        centres = None if self.coordinates is None else np.asarray(self.coordinates, dtype=np.float32).tobytes()
        key = (declared, sort, own, self.n_rois, self.sort_rows, self.missing_rois, centres)
        if coordinates is None and key in self._row_plans:
            return self._row_plans[key]
        plan = self._make_row_plan(roi_order, coordinates, sort)
        if coordinates is None:
            self._row_plans[key] = plan
        return plan

    def _own_coordinates(self) -> np.ndarray | None:
        if self.coordinates is not None:
            return np.asarray(self.coordinates, dtype=np.float32)
        return None if self.roi_order is None else roi_coordinates(self.roi_order)

    def _make_row_plan(self, roi_order: ROIOrder | None, coordinates: np.ndarray | None, sort: bool) -> _RowPlan:
        own_coordinates = self._own_coordinates()
        n_source = self.n_rois
        missing: tuple[str, ...] = ()
        index = np.arange(self.n_rois)
        sorted_by_y = False
        if self.roi_order is None:
            if roi_order is not None:
                declared = resolve_roi_order(roi_order)
                sorted_by_y = declared.sorted_by_y
                self._warn_once(
                    "no roi_order",
                    f"This extractor has no roi_order, so rows declared as {_order_name(roi_order)} are used as they "
                    "come.",
                )
        elif roi_order is None:
            raise ValueError(
                f"Expected roi_order of the scan, got none; this model takes rows in the order "
                f"{_order_name(self.roi_order)}. Editions of an atlas differ only in row order, so it is never "
                f"guessed: pass roi_order={_order_name(self.roi_order)} if the rows are in that order, or the name of "
                "theirs."
            )
        else:
            own, declared = resolve_roi_order(self.roi_order), resolve_roi_order(roi_order)
            same = declared.name == own.name if declared.name and own.name else declared.labels == own.labels
            sorted_by_y = declared.sorted_by_y
            if not same or (sorted_by_y and not (sort and self.sort_rows == "y")):
                if not (declared.known and own.known):
                    raise ValueError(
                        f"Expected rows in the order {_order_name(self.roi_order)}, got {_order_name(roi_order)}, and "
                        "the labels of one of them are not known, so rows cannot be matched. "
                        f"{did_you_mean(roi_order if not declared.known else self.roi_order)}Give the order as a list "
                        "of labels."
                    )
                moved = permutation(roi_order, self.roi_order, source_coordinates=own_coordinates if same else None)
                index, missing, n_source, sorted_by_y = moved.index, moved.missing, len(declared.labels), False
        if missing:
            what = f"{len(missing)} of the {self.n_rois} parcels of {_order_name(self.roi_order)}"
            if self.missing_rois == "error":
                raise ValueError(
                    f"Expected {what} that {_order_name(roi_order)} lacks (first: {list(missing[:3])}). Parcellate "
                    "with the "
                    'full atlas, or set missing_rois="fill" or "mask" on the extractor if the model allows it.'
                )
            done = "masked" if self.missing_rois == "mask" else "set to 0"
            self._warn_once(
                ("missing", missing), f"The scan lacks {what}; they are {done} (first: {list(missing[:3])})."
            )

        if coordinates is not None:
            coordinates = _check_coordinates(coordinates, n_source)
            falls = np.flatnonzero(np.diff(coordinates[:, 1]) < 0)
            if sorted_by_y and falls.size:
                row = int(falls[0])
                raise ValueError(
                    f"Expected rows of {_order_name(roi_order)} sorted by ascending Y, got Y {coordinates[row, 1]:g} "
                    f"in row {row} and {coordinates[row + 1, 1]:g} in the next. Pass the rows in label order with "
                    f"roi_order={_order_name(str(roi_order).removesuffix(SORTED_BY_Y))} and the extractor sorts them."
                )
        given = None
        if coordinates is not None:
            given = coordinates[index]
            given[index < 0] = 0.0 if own_coordinates is None else own_coordinates[index < 0]
        order = None
        if self.sort_rows == "y" and sort:
            # Rows are defined by the table the model was trained with, so the extractor's own coordinates come first.
            basis = own_coordinates if own_coordinates is not None else given
            if sorted_by_y:
                order = None if own_coordinates is None else stable_y_order(own_coordinates)
            elif basis is None:
                raise ValueError(
                    "This model takes rows sorted by Y, and no coordinates are known for "
                    f"{_order_name(self.roi_order)}. Pass coordinates=(n_rois, 3) in mm to the extractor or the call, "
                    "or rows that are sorted already with "
                    'roi_order="<order>@y".'
                )
            else:
                order = stable_y_order(basis)
                index = index[order]
                given = None if given is None else given[order]
        emitted = given
        if emitted is None and own_coordinates is not None:
            emitted = own_coordinates if order is None else own_coordinates[order]
        identity = n_source == self.n_rois and bool((index == np.arange(self.n_rois)).all())
        return _RowPlan(n_source, index, identity, order, emitted, missing)

    # --- scans ---

    def _check_scan(self, scan: Any, n_source: int, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """The scan as float32 with NaN where nothing was measured, and in which frames that was so (None: nowhere)."""
        signals = _as_array(scan)
        if signals.dtype.kind not in "fiub":
            raise ValueError(f"Expected {name} to hold real numbers, got dtype {signals.dtype}.")
        if signals.ndim != 2:
            raise ValueError(f"Expected {name} of shape (n_rois, n_timepoints), got {signals.shape}.")
        if signals.shape[0] != n_source:
            if signals.shape[1] == n_source:
                raise ValueError(
                    f"Expected {name} of shape ({n_source}, n_timepoints), got {signals.shape}: it is transposed. "
                    "Pass scan.T."
                )
            fix = "Parcellate with the atlas of the model, or name the roi_order that these rows are in."
            if self.roi_order is None:
                fix = (
                    "This model names no parcels (as the *-tiny ones, which are for tests): make one for yours with "
                    f"load_config(name, n_rois={signals.shape[0]}, roi_order=...)."
                )
            raise ValueError(f"Expected {name} with {n_source} ROIs in its rows, got shape {signals.shape}. {fix}")
        if not signals.shape[1]:
            raise ValueError(f"Expected {name} with timepoints, got shape {signals.shape}.")
        n_given = signals.shape[1]
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is seen below
            signals = signals.astype(np.float32, copy=False)
        missing = missing_frames(signals)
        if missing is not None:
            measured = np.flatnonzero(~missing)
            if not measured.size:
                raise ValueError(
                    f"Expected numbers in {name}, got only NaN or 0 in every frame. Check the parcellation, or leave "
                    "this scan out."
                )
            # Some files pad short scans at the end; those timepoints were never measured.
            signals, missing = signals[:, : measured[-1] + 1], missing[: measured[-1] + 1]
            if len(missing) < n_given:
                self._warn_once(
                    "padding",
                    f"The last {n_given - len(missing)} of the {n_given} frames of {name} are NaN, 0 or copies of "
                    "each other in every parcel: padding, which is cut off. So it is for other scans.",
                )
            signals = np.where(missing, np.float32(np.nan), signals) if missing.any() else signals
        with np.errstate(invalid="ignore", over="ignore"):
            far = outliers(signals, signals.max(axis=1) - signals.min(axis=1))
        if far is not None:
            row, frame = np.unravel_index(int(np.where(far, np.abs(signals), 0).argmax()), far.shape)
            self._warn_once(
                ("outliers", name),
                f"{int(far.sum())} values in {int(far.any(axis=1).sum())} parcels of {name} lie more than "
                f"{OUTLIER_IQRS:,.0f} interquartile ranges away from the parcel's median (such as "
                f"{signals[row, frame]:.3g} in row {row}, frame {frame}), which no scanner gives; they are treated as "
                "not measured. Check that file.",
            )
            signals = np.where(far, np.float32(np.nan), signals)
            missing = ~np.isfinite(signals).any(axis=0)
        return signals, missing if missing is not None and missing.any() else None

    def _plan_scan(
        self,
        scan: Any,
        name: str,
        t_r: float | None,
        roi_order: ROIOrder | None,
        coordinates: np.ndarray | None,
        window: str | None,
        start: float | None,
        rng: np.random.Generator | None,
        n_windows: int | None,
    ) -> _ScanPlan:
        rows = self._plan_rows(roi_order, coordinates)
        signals, missing = self._check_scan(scan, rows.n_source, name)
        t_r = known_t_r(t_r, f"t_r of {name}")
        resample_from = self._resample_from(t_r, name)
        if self.band_pass is not None:
            rate = self.t_r if t_r is None else t_r
            if rate is None:
                raise ValueError(f"Expected t_r of {name}, got none: a band_pass in Hz needs it. Pass t_r in seconds.")
            signals = band_pass_filter(signals, rate, self.band_pass)
        n_timepoints, sampling_rate = signals.shape[1], 1
        if resample_from is not None and self.resampling == "frames":
            slow_from, resample_from = resample_from, None
            sampling_rate = self._sampling_rate(slow_from, name)
            if sampling_rate > 1:
                self._report_folding(signals, slow_from, sampling_rate, name)
                step = frame_step(self.n_timepoints, sampling_rate)
                n_timepoints = int(np.floor((n_timepoints - 1) / step + 1e-6)) + 1
        elif resample_from is not None and self.t_r is not None:
            n_timepoints = int(np.floor((n_timepoints - 1) * resample_from / self.t_r + 1e-6)) + 1
        if n_timepoints < self.patch_size:
            at = "" if resample_from is None and sampling_rate == 1 else f" at t_r {self.t_r} s"
            raise ValueError(
                f"Expected {name} with at least one patch of {self.patch_size} timepoints, got {n_timepoints}{at}. "
                "Leave this scan out: it is too short for the model."
            )
        n_measured = n_timepoints if missing is None else int(n_timepoints * (~missing).mean())
        if n_measured < self.patch_size:
            raise ValueError(
                f"Expected {name} with at least one patch of {self.patch_size} measured timepoints, got {n_measured} "
                f"among {n_timepoints}; the others are NaN or 0 in every parcel. Leave this scan out."
            )
        if n_timepoints < self.n_timepoints and self.short_scans == "error":
            raise ValueError(
                f"Expected {name} with at least {self.n_timepoints} timepoints, got {n_timepoints}. "
                'Leave it out, or set short_scans="pad" on the extractor.'
            )
        if missing is not None and resample_from is not None and self.t_r is not None:
            unmeasured = missing[_nearest_frames(n_timepoints, self.t_r / resample_from, signals.shape[1])]
        else:
            unmeasured = missing
        starts = self._starts(
            signals.shape[1] if sampling_rate > 1 else n_timepoints,
            self.n_timepoints * sampling_rate,
            window or self.window,
            start,
            rng,
            name,
            n_windows,
            unmeasured,
            whole=sampling_rate == 1,
        )

        mean, zero_rows, non_finite = _row_statistics(signals)
        with np.errstate(over="ignore", invalid="ignore"):
            shifts, scale, zero_rows = self._scaling(signals, rows, mean, zero_rows, non_finite)
        if not all(np.isfinite(values).all() for values in [*shifts, *([] if scale is None else [scale])]):
            raise ValueError(_NOT_FINITE.format(name=name, how=self.normalization))
        bad = int(zero_rows[rows.index >= 0].sum())
        if bad * 2 > int((rows.index >= 0).sum()):
            raise ValueError(
                f"{bad} of {self.n_rois} ROIs of {name} are constant or not finite (first: "
                f"{np.flatnonzero(zero_rows)[:5].tolist()}). Check that the atlas and the image share one space."
            )
        return _ScanPlan(
            name,
            signals,
            rows,
            shifts,
            scale,
            zero_rows,
            non_finite,
            missing,
            resample_from,
            n_timepoints,
            starts,
            sampling_rate,
        )

    def _resample_from(self, t_r: float | None, name: str) -> float | None:
        """The scan's t_r if it has to be resampled, else None."""
        if self.t_r is None:
            return None
        if t_r is None:
            self._warn_once(
                "no t_r",
                f"No t_r was given for {name}; it is used as if it had the {self.t_r} s that the model was trained "
                "on. Pass t_r in seconds to have it resampled.",
            )
            return None
        return None if abs(t_r - self.t_r) <= self.t_r_tolerance * self.t_r else t_r

    def _sampling_rate(self, t_r: float, name: str) -> int:
        """Frames of a scan with this t_r for each frame of the model."""
        assert self.t_r is not None
        rate = max(1, round(self.t_r / t_r))
        reached = t_r * (frame_step(self.n_timepoints, rate) if rate > 1 else 1)
        if abs(reached - self.t_r) > self.t_r_tolerance * self.t_r:
            self._warn_once(
                ("frames", t_r),
                f"Expected a t_r that picking frames brings near {self.t_r} s, got {t_r} s of {name}, which becomes "
                f"{reached:.3g} s ({100 * (reached / self.t_r - 1):+.0f} %), so everything looks that much slower or "
                'faster to the model. Set resampling="filter" on the extractor to have it interpolated.',
            )
        return rate

    def _report_folding(self, signals: np.ndarray, t_r: float, rate: int, name: str) -> None:
        """Say once when picking frames folds a noticeable part of a scan into slower frequencies."""
        if "folding" in self._warned:
            return
        rows = signals[:: max(1, len(signals) // 16)]
        with np.errstate(invalid="ignore", over="ignore"):
            rows = rows - np.nanmean(rows, axis=1, keepdims=True)
        power = np.abs(np.fft.rfft(np.where(np.isfinite(rows), rows, 0.0).astype(np.float64), axis=1)) ** 2
        highest = 0.5 / (t_r * frame_step(self.n_timepoints, rate))
        fast = np.fft.rfftfreq(rows.shape[1], t_r) > highest
        share = power[:, fast].sum() / max(power.sum(), 1e-300)
        if share > _FOLDED_SHARE:
            self._warn_once(
                "folding",
                f"{100 * share:.0f} % of the variance of {name} is faster than {highest:.3f} Hz, and picking every "
                f"{rate}. frame, as this model was trained, folds it into slower frequencies; so it is for scans like "
                'it. Low-pass filter them before, or set resampling="filter" on the extractor, if you do not want '
                "that.",
            )

    def _starts(
        self,
        n_frames: int,
        span: int,
        window: str,
        start: float | None,
        rng: np.random.Generator | None,
        name: str,
        n_windows: int | None,
        missing: np.ndarray | None,
        whole: bool = True,
    ) -> list[float]:
        """First frames of the windows to cut, each with a measured frame (`missing`: frames that are not)."""
        _check_choice("window", window, WINDOWS)
        last = max(n_frames - span, 0)

        def empty(first: float) -> bool:
            return missing is not None and bool(missing[int(first) : int(first) + span].all())

        def refuse_empty(starts: list[float]) -> list[float]:
            wrong = [first for first in starts if empty(first)]
            if wrong:
                raise ValueError(
                    f"Expected a measured frame in every window of {name}, got none in the one from frame "
                    f"{int(wrong[0])} on ({span} frames, all of them NaN or 0 in every parcel). Choose "
                    'window="all", which leaves such windows out, or leave this scan out.'
                )
            return starts

        if n_windows is not None:
            if start is not None or n_windows < 1:
                raise ValueError(
                    f"Expected n_windows of 1 or more and no start, got n_windows={n_windows} and start={start}."
                )
            return refuse_empty([float(first) for first in regular_starts(last, n_windows)])
        if start is not None:
            if not 0 <= start <= last or (whole and start != int(start)):
                raise ValueError(
                    f"Expected start between 0 and {last} for {name} ({n_frames} timepoints, window of {span}), got "
                    f"{start}."
                )
            return refuse_empty([int(start) if whole else float(start)])
        if window == "first":
            return refuse_empty([0])
        if window == "center":
            return refuse_empty([last // 2])
        if window in ("all", "cover"):
            starts: list[float] = list(range(0, last + 1, span))
            rest = int(n_frames - starts[-1] - span)
            if rest > 0 and window == "cover":
                starts.append(last)
            elif rest > _TAIL_SHARE * n_frames:
                self._warn_once(
                    "tail",
                    f"{rest} of the {n_frames} timepoints of {name} ({100 * rest / n_frames:.0f} %) come after its "
                    f'last whole window of {span} and are not used; so it is for other scans. window="cover" adds a '
                    "last window that ends with the scan and overlaps the one before.",
                )
            kept = [first for first in starts if not empty(first)]
            if len(kept) < len(starts):
                self._warn_once(
                    ("empty windows", name),
                    f"{len(starts) - len(kept)} of {len(starts)} windows of {name} hold no measured frame and are "
                    "left out.",
                )
            return kept or refuse_empty(starts)
        if rng is None:
            raise ValueError(
                'window="random" draws from the generator it is given: pass rng=np.random.default_rng(seed).'
            )
        for _ in range(_MAX_DRAWS):
            drawn = int(rng.integers(0, last + 1)) if whole else float(rng.uniform(0, last))
            if not empty(drawn):
                break
        return refuse_empty([drawn])

    def _scaling(
        self,
        signals: np.ndarray,
        rows: _RowPlan,
        mean: np.ndarray,
        zero_rows: np.ndarray,
        non_finite: np.ndarray | None,
    ) -> tuple[list[np.ndarray], np.ndarray | None, np.ndarray]:
        """What to subtract, in turn, and divide by, per emitted row; and the emitted rows to set to 0."""
        index = rows.index
        row_mean = mean[index][:, None]
        zero = zero_rows[index]
        zero[index < 0] = True
        mode = self.normalization
        if mode in ("none", "zscore-window"):
            return [], None, zero
        if mode == "center":
            return [row_mean], None, zero
        if mode in _FITTED:
            if self.statistics is None:  # checked before; here for the type checker
                raise ValueError("statistics are missing")
            # Statistics of means are float64, as in Brain-JEPA's data code; others float32, as in BrainLM's.
            dtype: type[np.floating] = np.float64 if mode == "robust-means" else np.float32
            median: np.ndarray = np.asarray(self.statistics["median"], dtype=dtype)
            iqr: np.ndarray = np.asarray(self.statistics["iqr"], dtype=dtype)
            if rows.order is not None:
                median, iqr = median[rows.order], iqr[rows.order]
            zero |= iqr <= 0
            iqr = np.where(iqr > 0, iqr, 1)[:, None]
            return ([row_mean] if mode == "robust" else []) + [median[:, None]], iqr, zero
        if mode == "zscore-scan":
            good = index[~zero]
            if not good.size:
                return [], None, zero
            values = signals[good] if non_finite is None else np.where(non_finite[good], np.nan, signals[good])
            overall, spread = np.nanmean(values, dtype=np.float64), np.nanstd(values, ddof=1, dtype=np.float64)
            return [np.asarray(overall, np.float32)], np.asarray(spread, np.float32), zero
        values = signals[index] - row_mean
        if non_finite is not None:
            values[non_finite[index]] = np.nan
        values[zero] = 0.0
        if mode == "zscore":
            std = np.nanstd(values, axis=1, keepdims=True) + np.float32(_ZSCORE_EPS)
            return [row_mean], std, zero
        quartiles = (np.nanpercentile if non_finite is not None else np.percentile)(
            values, [25, 50, 75], axis=1, keepdims=True
        ).astype(np.float32)
        iqr = quartiles[2] - quartiles[0]
        zero |= iqr[:, 0] <= 0
        return [row_mean, quartiles[1]], np.where(iqr > 0, iqr, np.float32(1)), zero

    def _write_windows(self, plan: _ScanPlan, output: np.ndarray, observed: np.ndarray) -> None:
        source, missing = plan.signals, plan.missing
        gaps: np.ndarray | None = None
        if plan.t_r is not None and self.t_r is not None:
            # Scaling is affine, so it can come first; then the filter sees no large offset.
            source = np.empty((self.n_rois, plan.signals.shape[1]), dtype=np.float32)
            self._scale_into(plan, slice(0, source.shape[1]), source)
            nearest = None
            if plan.non_finite is not None:
                gaps = plan.non_finite[plan.rows.index]
                gaps[plan.zero_rows] = False
                # Gaps are bridged for the filter, so that they reach nothing beside them, and are gaps again after it.
                source = bridged(source, ~gaps)
                nearest = _nearest_frames(plan.n_timepoints, self.t_r / plan.t_r, source.shape[1])
                gaps, missing = gaps[:, nearest], None if missing is None else missing[nearest]
            source = resample_t_r(source, plan.t_r, self.t_r)
            if gaps is not None:
                source[gaps] = 0.0
        elif plan.non_finite is not None and self.normalization == "zscore-window":
            gaps = plan.non_finite[plan.rows.index]
        for number, start in enumerate(plan.starts):
            frames: slice | np.ndarray
            if plan.sampling_rate > 1:
                step = frame_step(self.n_timepoints, plan.sampling_rate)
                measured = min(int(np.ceil((source.shape[1] - start) / step - 1e-6)), self.n_timepoints)
                filled = min(-(-measured // self.patch_size) * self.patch_size, self.n_timepoints)
                frames = sampled_frames(source.shape[1], start, self.n_timepoints, plan.sampling_rate)[:filled]
            else:
                first = int(start)
                filled = min(self.n_timepoints, plan.n_timepoints - first)
                frames = slice(first, first + filled)
            target = output[number, :, :filled]
            if plan.t_r is not None:
                target[:] = source[:, frames]
            else:
                self._scale_into(plan, frames, target)
            output[number, :, filled:] = 0.0
            observed[number, :filled] = True if missing is None else ~missing[frames]
            observed[number, filled:] = False
            if self.normalization == "zscore-window":
                good = target[~plan.zero_rows]
                if gaps is not None:
                    good = good[~gaps[~plan.zero_rows, :][:, frames]]
                target -= np.float32(good.mean(dtype=np.float64))
                target /= np.float32(good.std(ddof=1, dtype=np.float64)) * np.float32(self.divisor)
                target[plan.zero_rows] = 0.0
                if gaps is not None:
                    target[gaps[:, frames]] = 0.0

    def _scale_into(self, plan: _ScanPlan, columns: slice | np.ndarray, target: np.ndarray) -> None:
        part = plan.signals[:, columns] if isinstance(columns, slice) else plan.signals.take(columns, axis=1)
        rows = part if plan.rows.identity else part[plan.rows.index]
        if self.normalization == "robust-means":
            rows = rows.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            for shift in plan.shifts:
                rows = np.subtract(rows, shift, out=target if rows.dtype == np.float32 else rows)
            if plan.scale is not None:
                rows = np.divide(rows, plan.scale, out=target if rows.dtype == np.float32 else rows)
            if rows is not target:
                target[:] = rows
            if self.divisor != 1.0 and self.normalization != "zscore-window":
                np.divide(target, np.float32(self.divisor), out=target)
        if plan.non_finite is not None:
            target[plan.non_finite[plan.rows.index][:, columns]] = 0.0
        if plan.zero_rows.any():
            target[plan.zero_rows] = 0.0

    def _attention_mask(self, observed: np.ndarray, plans: list[_ScanPlan]) -> np.ndarray:
        patch, n_windows = self.patch_size, self.n_timepoints // self.patch_size
        if self.layout == "roi_time":
            # A window that is measured in part counts as observed.
            tokens = observed[:, : n_windows * patch].reshape(len(observed), n_windows, patch)
            of_windows = np.asarray(tokens.any(axis=2))
            mask = np.repeat(of_windows[:, None, :], self.n_rois, axis=1)
            if self.missing_rois == "mask":
                for number, plan in enumerate(plans):
                    mask[number, plan.zero_rows] = False
            return mask.reshape(len(observed), -1).astype(np.int64)
        if self.image_size is None:  # set by the constructor for this layout
            raise ValueError("image_size is missing")
        # Columns of patches that hold timepoints, none of them measured, are masked. The constant border of the image
        # is part of every training image and stays visible.
        side = self.image_size // patch
        left = (self.image_size - self.n_timepoints) // 2
        visible = np.ones((len(observed), side), dtype=bool)
        for column in range(side):
            low, high = max(column * patch - left, 0), min((column + 1) * patch - left, self.n_timepoints)
            if low < high:
                visible[:, column] = observed[:, low:high].any(axis=1)
        return np.repeat(visible[:, None, :], side, axis=1).reshape(len(observed), -1).astype(np.int64)

    # --- warnings ---

    def _warn_once(self, key: Any, message: str) -> None:
        if key in self._warned:
            return
        self._warned.add(key)
        kind = key[0] if isinstance(key, tuple) else key
        self._n_warned[kind] += 1
        # What belongs to single scans is said of the first ones only: a large dataset would say nothing else.
        if self._n_warned[kind] <= _MOST_WARNINGS:
            more = " Other scans like it are not named." if self._n_warned[kind] == _MOST_WARNINGS else ""
            warnings.warn(message + more, UserWarning, stacklevel=2)

    def _report_bad_rois(self, plans: list[_ScanPlan]) -> None:
        found = []
        for plan in plans:
            flagged = plan.zero_rows & (plan.rows.index >= 0)
            if plan.non_finite is not None:
                measured = slice(None) if plan.missing is None else ~plan.missing
                gaps = np.asarray(plan.non_finite[:, measured].any(axis=1))
                flagged |= gaps[plan.rows.index] & (plan.rows.index >= 0)
            if flagged.any():
                found.append((plan, tuple(np.flatnonzero(flagged).tolist())))
        if found:
            plan, rows = found[0]
            more = "" if len(found) == 1 else f"; {len(found)} scans of this call are affected"
            n_masked = int(plan.zero_rows[list(rows)].sum()) if self.missing_rois == "mask" else 0
            what = f"; {n_masked} of them are masked" if n_masked else ""
            self._warn_once(
                ("bad rois", tuple((plan.name, rows) for plan, rows in found)),
                f"{len(rows)} ROIs of {plan.name} are constant or hold NaN or infinity (model rows "
                f"{list(rows[:5])}{', ...' if len(rows) > 5 else ''}); those values are set to 0 after "
                f"scaling{what}{more}.",
            )

    def _report_missing_frames(self, plans: list[_ScanPlan]) -> None:
        found = [plan for plan in plans if plan.missing is not None]
        if found:
            plan = found[0]
            assert plan.missing is not None
            more = "" if len(found) == 1 else f"; {len(found)} scans of this call are affected"
            self._warn_once(
                ("missing frames", tuple(plan.name for plan in found)),
                f"{int(plan.missing.sum())} of the {len(plan.missing)} frames of {plan.name} were not measured (NaN, "
                "0 or copies of each other in every parcel). Scaling leaves them out, they stay gaps at their times, "
                f"and tokens without any measured frame are masked{more}.",
            )

    def _check_output(self, plans: list[_ScanPlan], output: np.ndarray, scan_index: np.ndarray) -> None:
        """Refuse values that are not finite, whatever made them so."""
        if not np.isfinite(output.sum(dtype=np.float64)):
            wrong = ~np.isfinite(output).all(axis=(1, 2))
            if wrong.any():
                name = plans[scan_index[wrong.argmax()]].name
                raise ValueError(_NOT_FINITE.format(name=name, how=self.normalization))

    def _check_scale(self, plans: list[_ScanPlan], output: np.ndarray, observed: np.ndarray) -> None:
        if self.normalization == "none" and "raw units" not in self._warned:
            window = output[0, :: max(1, self.n_rois // 64), observed[0]].T  # a sample of ROIs tells the units
            level, spread = np.median(np.abs(window.mean(axis=1))), np.median(window.std(axis=1))
            if level > _SCALE_FACTOR * spread > 0:
                self._warn_once(
                    "raw units",
                    f"The input looks like raw scanner units (ROI means around {level:.3g}, std {spread:.3g}) and "
                    'normalization is "none". Choose the normalization that the model was trained with.',
                )
        if self.expected_std is None or "scale" in self._warned:
            return
        flat, count = output.reshape(-1), float(observed.sum() * self.n_rois)
        std = float(np.sqrt(max(float(np.dot(flat, flat)) / count - (float(flat.sum()) / count) ** 2, 0.0)))
        if not self.expected_std / _SCALE_FACTOR <= std <= self.expected_std * _SCALE_FACTOR:
            plan = plans[0]
            signals = plan.signals if plan.missing is None else plan.signals[:, ~plan.missing]
            level, spread = float(np.nanmedian(np.abs(signals.mean(axis=1)))), float(np.nanmedian(signals.std(axis=1)))
            guess = ""
            if level < 0.1 * spread and 0.2 < spread < 5:
                guess = " The scan as given looks already normalised: do not scale it twice."
            elif level > _SCALE_FACTOR * spread:
                guess = (
                    " The scan as given looks like raw scanner units, other than those the statistics were fitted on."
                )
            self._warn_once(
                "scale",
                f"The model input has std {std:.3g} (first scan: {plan.name}); the model was trained on std "
                f"{self.expected_std:.3g}, and results are not to be trusted this far from it.{guess} Fit the "
                "extractor on your own training scans (extractor.fit), or check units and normalization.",
            )


def _row_statistics(signals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Mean of each row (float32), rows without usable signal, and where values are not finite (None if nowhere)."""
    with np.errstate(invalid="ignore", over="ignore"):
        mean = signals.mean(axis=1, dtype=np.float32)
        high, low = signals.max(axis=1), signals.min(axis=1)
    non_finite = None
    if not np.isfinite(mean).all():
        non_finite = ~np.isfinite(signals)
        good = np.where(non_finite, 0.0, signals.astype(np.float64))
        count = (~non_finite).sum(axis=1)
        # Rows without gaps keep the mean they have anyway, so that a gap elsewhere changes nothing for them.
        of_measured = (good.sum(axis=1) / np.maximum(count, 1)).astype(np.float32)
        mean = np.where(non_finite.any(axis=1), of_measured, mean)
        high = np.where(non_finite, -np.inf, signals).max(axis=1)
        low = np.where(non_finite, np.inf, signals).min(axis=1)
        # A row that is mostly gaps, compared with the others, says too little about its own level and spread.
        usable = count * 2 > (~non_finite).any(axis=0).sum()
        high, low, mean = (np.where(usable, values, np.float32(0)) for values in (high, low, mean))
    constant = (high - low) <= _CONSTANT_RTOL * np.maximum(np.abs(high), np.abs(low))
    return mean, constant, non_finite


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"Expected {name} to be one of {list(choices)}, got {value!r:.80}.")


def _check_number(name: str, value: Any, low: float, high: float) -> float:
    """`value`, if it is a number within these limits."""
    number = float("nan")
    if isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool):
        number = float(min(max(value, -1e300), 1e300)) if value == value else number
    if not low <= number <= high:
        raise ValueError(f"Expected {name} to be a number between {low:g} and {high:g}, got {value!r:.80}.")
    return value


def _check_statistics(statistics: Any, n_rois: int) -> None:
    """Refuse fitted values that cannot be: another number, not finite, or a spread that would blow signals up."""
    if not isinstance(statistics, Mapping):
        raise ValueError(f"Expected statistics to be a mapping with median and iqr, got {statistics!r:.80}.")
    tables = {}
    for key in ("median", "iqr"):
        try:
            tables[key] = np.asarray(statistics[key], dtype=np.float64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"Expected {n_rois} numbers in statistics[{key!r}], got none ({error!r:.80}).") from error
        if tables[key].shape != (n_rois,):
            raise ValueError(f"Expected {n_rois} values in statistics[{key!r}], got {tables[key].shape}.")
    median, iqr = tables["median"], tables["iqr"]
    # 0 marks ROIs without spread in the training scans. A spread far below a float32 step of the level is rounding.
    wrong = (
        ~(np.isfinite(median) & np.isfinite(iqr)) | (iqr < 0) | ((iqr > 0) & (iqr < 1e-30)) | (np.abs(median) > 1e30)
    )
    wrong |= iqr > 1e30
    if wrong.any() or not iqr.any():
        row = int(np.flatnonzero(wrong)[0]) if wrong.any() else 0
        raise ValueError(
            f"Expected statistics with finite medians and IQRs above 0, got median {median[row]:g} and IQR "
            f"{iqr[row]:g} in row {row}. Fit the extractor again: extractor.fit(training_scans)."
        )


def _check_coordinates(coordinates: Any, n_rois: int) -> np.ndarray:
    try:
        table = np.array(coordinates, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"Expected coordinates of shape ({n_rois}, 3), numbers in mm, got something else ({error})."
        ) from error
    if table.shape != (n_rois, 3):
        raise ValueError(f"Expected coordinates of shape ({n_rois}, 3), columns X, Y, Z in mm, got {table.shape}.")
    if not np.isfinite(table).all() or np.abs(table).max() > 250:
        raise ValueError(
            "Expected coordinates in mm MNI (finite, within 250 mm of the origin). Check units and columns."
        )
    return table


def _order_name(order: ROIOrder | None) -> str:
    if order is None or (isinstance(order, str) and not order.startswith("[")):
        return repr(order)
    labels = resolve_roi_order(order).labels
    return f"a list of {len(labels)} labels ({', '.join(labels[:2])}, ...)"


def _nearest_frames(n_new: int, step: float, n_frames: int) -> np.ndarray:
    """The frame of the scan nearest to each frame after resampling, with `step` frames of the scan between them."""
    return np.clip(np.rint(np.arange(n_new) * step), 0, n_frames - 1).astype(np.int64)


def _agreed(what: str, given: Any, own: Any, name: str) -> Any:
    """The value of the call or that of the row; both must agree."""
    if given is None or own is None:
        return own if given is None else given
    same = roi_order_text(given) == own if what == "roi_order" else abs(given - own) <= 1e-6 * own
    if not same:
        raise ValueError(
            f"Expected one {what} of {name}, got {given!r:.80} from the call and {own!r:.80} from the row. Leave the "
            "one of the call out, or correct the dataset."
        )
    return given


def _as_array(values: Any) -> np.ndarray:
    """An array of what the caller has: arrays, lists of numbers, or tensors of any device and precision."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.element_size() < 4 else values  # bfloat16
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected scans of shape (n_rois, n_timepoints), got {type(values).__name__} that is no array ({error})."
        ) from error


def _as_list(signals: Any) -> list[Any]:
    if isinstance(signals, Mapping):
        if np.ndim(signals.get("n_rois", 0)) == 1:  # a slice of a dataset: a column each
            return [dict(zip(signals, values)) for values in zip(*signals.values(), strict=True)]
        return [signals]
    if not isinstance(signals, (list, tuple)) and not hasattr(signals, "__array__") and isinstance(signals, Iterable):
        signals = list(signals)
    if isinstance(signals, (list, tuple)) and signals and isinstance(signals[0], Mapping):
        return list(signals)
    if isinstance(signals, (list, tuple)) and signals and hasattr(signals[0], "__array__"):
        scans = [_as_array(scan) for scan in signals]
        scans = [_as_array(scans)] if scans[0].ndim < 2 else scans
    elif isinstance(signals, (list, tuple)):
        scans = list(signals)
        if scans and _as_array(scans[0]).ndim < 2:
            scans = [_as_array(signals)]
    else:
        array = _as_array(signals)
        scans = list(array) if array.ndim == 3 else [array]
    if not scans:
        raise ValueError("Expected at least one scan, got an empty list.")
    return scans


def _per_scan(name: str, value: Any, n_scans: int) -> list[Any]:
    if value is None or np.ndim(value) == 0:
        return [value] * n_scans
    if len(value) != n_scans:
        raise ValueError(f"Expected one {name}, or one for each of the {n_scans} scans, got {len(value)}.")
    return list(value)


def _coordinates_per_scan(coordinates: Any, n_scans: int) -> list[Any]:
    if coordinates is None:
        return [None] * n_scans
    if np.ndim(coordinates) == 2:
        return [coordinates] * n_scans
    return _per_scan("coordinates table", coordinates, n_scans)
