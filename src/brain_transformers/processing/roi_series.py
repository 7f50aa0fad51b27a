"""From parcellated scans to the inputs of the models that read (n_rois, n_timepoints) series."""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from transformers import BatchFeature

from ..atlases.roi_orders import (
    SORTED_BY_Y,
    ROIOrder,
    labels_of,
    n_rois_of,
    order_name,
    roi_coordinates,
    roi_order_text,
)
from ..files import digest
from ..models.configuration_base import ScanFacts
from . import scaling, time
from .base import ScanProcessor, as_array, check_choice, check_number, check_size, not_finite
from .connectivity import gradients_of_rows
from .filtering import band_pass_filter, check_band
from .missing import measured_part
from .parcel_maps import checked_map
from .parcels import MISSING_ROIS, ModelParcels, Rows, check_coordinates, split_order
from .roi_scan import ROIScan, look_at_series, series_values
from .rows import agreed, series_facts, series_row, shortest_of_each_kind, unpack_row, without_cut_frames
from .tokens import LAYOUTS, image_side
from .trials import Look
from .units import units_of

# 1 GB in float32: more is a damaged file and not a window.
_MOST_VALUES = 2**28
# Scans whose units are looked at until it is enough: all scans of a dataset come from one software.
_MOST_LOOKED_AT = 8


class ROISeriesFeatureExtractor(ScanProcessor):
    """Turn parcellated BOLD scans, each (n_rois, n_timepoints), into model inputs.

    The way of a scan: check the parcel order and permute rows by label, scale with statistics of the whole scan (or of
    the training set), resample to the model's repetition time, cut windows, pad short scans. Saved as
    `preprocessor_config.json` with everything that was fitted, and loaded back bit for bit.

    Frames that were cut (0 in the `frame_mask` of a row or call), or in which nothing was measured (NaN, 0 or copies
    of each other in every parcel: scrubbed or padded), keep their times. They take no part in scaling; filters and
    resampling see straight lines in their place, so that nothing of them reaches the others; they are 0 afterwards. A
    token is 0 in `attention_mask` if less than half of the frames that the scan has for it were measured; one that
    the end of a short scan cuts off counts. A window without a measured token is refused, or left out where others
    remain.

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
        parcel_map: how scans of another atlas become these parcels, of `processing.parcel_maps`; never by default.
        expected_std: standard deviation of the model's training inputs; inputs more than 3 times away bring a warning.

    Raises:
        ValueError: for options that do not exist or sizes that contradict each other.
    """

    model_input_names = ["signals", "coordinates", "attention_mask"]
    tags = ("fmri", "neuroimaging")
    modality = "fmri-series"
    reads = ("signals", "n_rois", "n_timepoints")
    tells = ("roi_order", "t_r")
    own_tables = frozenset({"coordinates"})
    scan_ndim = 2
    takes_from_config: ClassVar[tuple[str, ...]] = (
        "n_rois",
        "n_timepoints",
        "patch_size",
        "roi_order",
        "t_r",
        "layout",
    )

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
        parcel_map: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("layout", layout, LAYOUTS)
        check_choice("window", window, time.WINDOWS)
        check_choice("normalization", normalization, scaling.NORMALIZATIONS)
        check_choice("resampling", resampling, time.RESAMPLINGS)
        check_choice("short_scans", short_scans, ("pad", "error"))
        check_choice("missing_rois", missing_rois, MISSING_ROIS)
        check_choice("sort_rows", sort_rows, (None, "y"))
        if not isinstance(return_coordinates, bool):
            raise ValueError(f"Expected return_coordinates to be true or false, got {return_coordinates!r:.80}.")
        self.n_rois = check_size("n_rois", n_rois, 100_000)
        self.n_timepoints = check_size("n_timepoints", n_timepoints, 1_000_000)
        self.patch_size = check_size("patch_size", patch_size, 10**6)
        if n_rois * n_timepoints > _MOST_VALUES:
            raise ValueError(
                f"Expected a window of at most {_MOST_VALUES} values, got n_rois {n_rois} x n_timepoints "
                f"{n_timepoints}. Make windows shorter."
            )
        self.divisor = check_number("divisor", divisor, 1e-6, 1e6)
        self.t_r_tolerance = check_number("t_r_tolerance", t_r_tolerance, 0.0, 0.5)
        self.expected_std = None if expected_std is None else check_number("expected_std", expected_std, 1e-9, 1e9)
        self.roi_order, by_y = split_order(roi_order, n_rois)
        self.sort_rows = "y" if by_y else sort_rows
        if layout == "roi_time" and n_timepoints % patch_size:
            raise ValueError(f"n_timepoints ({n_timepoints}) must be a multiple of patch_size ({patch_size}).")
        if layout != "image" and image_size is not None:
            raise ValueError(f"image_size ({image_size!r:.80}) is for layout='image', got {layout!r}. Leave it out.")
        if layout == "image":
            image_size = image_side(image_size, patch_size, n_rois, n_timepoints)
            if missing_rois == "mask":
                raise ValueError('missing_rois="mask" needs layout="roi_time": an image patch spans several ROIs.')
        if statistics is not None:
            scaling.check_statistics(statistics, n_rois)
        self.t_r = None if t_r is None else time.check_t_r(t_r, "the model's t_r")
        self.layout = layout
        self.image_size = image_size
        self.window = window
        self.normalization = normalization
        self.statistics = statistics
        self.coordinates = None if coordinates is None else check_coordinates(coordinates, n_rois).tolist()
        self.return_coordinates = return_coordinates
        self.short_scans = short_scans
        self.missing_rois = missing_rois
        self.band_pass = check_band(band_pass)
        self.resampling = resampling
        self.parcel_map = None if parcel_map is None else checked_map(parcel_map, self.roi_order)
        self._known_rows: dict[Any, tuple[Rows, Any]] = {}
        self._n_looked_at = 0

    @classmethod
    def fitting(cls, config: Any) -> dict[str, Any]:
        """Arguments that fit a model config: its sizes, order, t_r and layout, and the scale of its family."""
        # Families that do not know coordinates would refuse them as an argument.
        values = {"return_coordinates": False, **super().fitting(config)}
        if "n_rois" not in values and values.get("roi_order") is not None:
            values["n_rois"] = n_rois_of(values["roi_order"]) or cls().n_rois
        image_size = getattr(config, "image_size", None)
        if image_size is not None and values.get("layout") == "image":
            values["image_size"] = image_size if isinstance(image_size, int) else int(image_size[0])
        return values

    @property
    def is_fitted(self) -> bool:
        """Whether scaling can run: nothing is to be fitted, or it was."""
        return self.normalization not in scaling.FITTED or self.statistics is not None

    @property
    def output_roi_order(self) -> ROIOrder | None:
        """Order of the emitted rows: `roi_order`, with `"@y"` behind a name when rows are sorted."""
        if isinstance(self.roi_order, str) and self.sort_rows == "y":
            return self.roi_order + SORTED_BY_Y
        return self.roi_order

    # --- the call, and fitting ---

    def __call__(  # type: ignore[override]
        self,
        signals: np.ndarray | Sequence[np.ndarray] | Mapping[str, Any] | Iterable[Mapping[str, Any]],
        t_r: float | Sequence[float | None] | None = None,
        roi_order: ROIOrder | None = None,
        coordinates: np.ndarray | Sequence[np.ndarray] | None = None,
        frame_mask: np.ndarray | Sequence[np.ndarray | None] | None = None,
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
            frame_mask: (n_timepoints,), 1 for frames that count and 0 for those that were cut, or one a scan. Rows
                bring their own, and a frame must count in both.
            window, start, rng, return_tensors, return_windows, n_windows: see [`ScanProcessor.__call__`]. Starts count
                after resampling; with `resampling="frames"` they count frames of the scan and need not be whole.

        Returns:
            `signals` (batch, n_rois, n_timepoints) float32; `coordinates` (batch, n_rois, 3) float32 mm when known;
            `attention_mask` (batch, n_tokens) int64, 1 observed and 0 padding, only when something is padded.

        Raises:
            ValueError: if a scan cannot be used; the message says what was expected, what came, and what to do.
        """
        return super().__call__(
            signals,
            window=window,
            start=start,
            rng=rng,
            return_tensors=return_tensors,
            return_windows=return_windows,
            n_windows=n_windows,
            t_r=t_r,
            roi_order=roi_order,
            coordinates=coordinates,
            frame_mask=frame_mask,
        )

    def fit(  # type: ignore[override]
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
        if self.normalization not in scaling.FITTED:
            fitted = list(scaling.FITTED)
            raise ValueError(f"normalization={self.normalization!r} has nothing to fit. Only {fitted} are fitted.")
        return super().fit(scans, roi_order=roi_order, max_timepoints=max_timepoints)

    def measure(self, scan: Any, name: str, **known: Any) -> np.ndarray:
        """What one training scan gives to the statistics: `(n_rois, n)`."""
        rows = self._rows(known["roi_order"], None, sort=False)
        signals, _ = self._series(scan, rows.n_source, name)
        exact, signals = rows.rebuilt(as_array(scan)[:, : signals.shape[1]]), rows.rebuilt(signals)
        if self.normalization == "robust-means" and "units" not in self._warned:
            self._warn_of_units(signals, name)
        return scaling.training_values(self.normalization, signals, exact, rows.index, known["max_timepoints"])

    def settle(self, measures: list[np.ndarray]) -> None:
        """Median and IQR of each row over all training scans."""
        self.statistics = scaling.fitted_statistics(self.normalization, measures, self.n_rois, self.warn_once)

    def unpack(self, row: Mapping[str, Any], name: str, **known: Any) -> tuple[Any, dict[str, Any]]:
        """Signals of a row, with the order and the repetition time that the row and the call agree on."""
        signals, order, t_r = unpack_row(row, name)
        given = known.get("roi_order")
        known["roi_order"] = agreed("roi_order", given, order, name, given is None or roi_order_text(given) == order)
        given = known.get("t_r")
        same = given is None or t_r is None or abs(given - t_r) <= 1e-6 * t_r
        known["t_r"] = agreed("t_r", given, t_r, name, same)
        return signals, known

    def per_scan(self, name: str, value: Any, n_scans: int) -> list[Any]:
        """An argument of the call for each scan: one order for all, one table of coordinates or mask, or one each."""
        if name == "roi_order" or (name == "coordinates" and value is not None and np.ndim(value) == 2):
            return [value] * n_scans
        if name == "frame_mask" and value is not None and np.ndim(value[0]) == 0 and value[0] is not None:
            return [value] * n_scans
        return super().per_scan("coordinates table" if name == "coordinates" else name, value, n_scans)

    # --- one scan: checked here and nowhere else ---

    def check(self, scan: Any, name: str, **known: Any) -> ROIScan:
        """Rows by label, what was measured, how it comes to the model's time, and its scaling."""
        rows = self._rows(known.get("roi_order"), known.get("coordinates"))
        signals, missing = self._series(scan, rows.n_source, name, known.get("frame_mask"))
        signals = rows.rebuilt(signals)
        t_r = time.known_t_r(known.get("t_r"), f"t_r of {name}")
        if self.band_pass is not None:
            rate = self.t_r if t_r is None else t_r
            if rate is None:
                raise ValueError(
                    f"Expected t_r of {name}, got none: a band_pass in Hz needs it. "
                    "Pass t_r in seconds (prepare --t-r)."
                )
            signals = band_pass_filter(signals, rate, self.band_pass)
        window, look = self.window_for(t_r, name), "folding" not in self._warned
        new_time = time.ModelTiming(self.t_r, self.t_r_tolerance, self.resampling, *window, look)
        timing = new_time.of(signals, t_r, name, self.warn_once)
        time.check_length(timing, missing, self.t_r, name)
        if timing.n_timepoints < timing.window and self.short_scans == "error":
            raise ValueError(
                f"Expected {name} with at least {timing.window} timepoints, got {timing.n_timepoints}. "
                'Leave it out, or set short_scans="pad" on the extractor.'
            )
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = scaling.scaling_of(
                self.normalization,
                signals,
                scaling.row_statistics(signals, self.normalization),
                rows.index,
                statistics=self.statistics,
                order=rows.order,
                divisor=self.divisor,
            )
        if not scaled.is_finite:
            raise not_finite(name)
        bad = int(scaled.zero_rows[rows.present].sum())
        if bad * 2 > int(rows.present.sum()):
            raise ValueError(
                f"{bad} of {self.n_rois} ROIs of {name} are constant or not finite (first: "
                f"{np.flatnonzero(scaled.zero_rows)[:5].tolist()}). Check that the atlas and the image share one "
                "space."
            )
        return ROIScan(name, signals, rows, timing, scaled, missing)

    def window_for(self, t_r: float | None, name: str) -> tuple[int, int]:
        """Timepoints of a window and of a token, for a scan with this repetition time."""
        return self.n_timepoints, self.patch_size

    def _series(
        self, scan: Any, n_source: int, name: str, frame_mask: Any = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        fix = "Parcellate with the atlas of the model, or name the roi_order that these rows are in."
        if self.roi_order is None:
            fix = (
                "This model names no parcels (as the *-tiny ones, which are for tests): make one for yours with "
                f"load_config(name, n_rois={next(iter(np.shape(scan)), 0)}, roi_order=...)."
            )
        signals = without_cut_frames(series_values(scan, n_source, name, fix), frame_mask, name)
        return measured_part(signals, name, self.warn_once)

    def _rows(self, roi_order: ROIOrder | None, coordinates: np.ndarray | None, sort: bool = True) -> Rows:
        given = roi_order if roi_order is None or isinstance(roi_order, str) else roi_order_text(roi_order)
        # Attributes may be set after construction, so the rows depend on them too.
        table = np.asarray(self.coordinates).tolist() if hasattr(self.coordinates, "shape") else self.coordinates
        key = (given, sort, self.n_rois, self.sort_rows, self.missing_rois, id(self.parcel_map))
        made_of = (self.roi_order, table)
        if coordinates is None and key in self._known_rows and self._known_rows[key][1] == made_of:
            return self._known_rows[key][0]
        centres = None if self.coordinates is None else np.asarray(self.coordinates, dtype=np.float32)
        if centres is None and self.roi_order is not None:
            centres = roi_coordinates(self.roi_order)
        how = (self.sort_rows if sort else None, self.missing_rois, self.parcel_map)
        rows = ModelParcels(self.roi_order, self.n_rois, centres, *how).rows(roi_order, coordinates, self.warn_once)
        if coordinates is None:
            self._known_rows[key] = (rows, copy.deepcopy(made_of))
        return rows

    # --- its windows ---

    def starts(self, scan: ROIScan, **how: Any) -> list[float]:
        """First timepoints of the windows; first frames of the scan where frames are picked."""
        rate = scan.timing.sampling_rate
        return time.window_starts(
            scan.timing.n_frames if rate > 1 else scan.timing.n_timepoints,
            scan.timing.window * rate,
            name=scan.name,
            warn=self.warn_once,
            empty=scan.is_empty,
            whole=rate == 1,
            **how,
        )

    def window_start(self, scan: ROIScan, start: float) -> int:
        """The timepoint after resampling."""
        return int(start / scan.timing.sampling_rate)

    def cut(self, scan: ROIScan, starts: Sequence[float]) -> dict[str, np.ndarray]:
        """`signals` (n_windows, n_rois, n_timepoints) float32, and `coordinates` where they are known and wanted."""
        parts = {"signals": scan.windows(starts)}
        if self.return_coordinates and scan.rows.coordinates is not None:
            parts["coordinates"] = np.stack([scan.rows.coordinates] * len(starts))
        return parts

    def mask(self, scan: ROIScan, starts: Sequence[float]) -> np.ndarray | None:
        """Tokens of whose frames, as far as the scan has them, at least half was measured."""
        masked = self.missing_rois == "mask" and scan.scaling.zero_rows.any()
        padded = scan.missing is not None or scan.timing.n_timepoints < scan.timing.window
        if not (masked or padded or scan.timing.sampling_rate > 1):
            return None  # as for most scans, without a look at every timepoint
        image = (self.patch_size, self.image_size) if self.layout == "image" and self.image_size is not None else None
        return scan.token_mask(starts, image, scan.scaling.zero_rows if masked else None)

    # --- what is said of it ---

    def report(self, scans: Sequence[Any], starts: Sequence[Sequence[float]], batch: Mapping[str, np.ndarray]) -> None:
        """Say which rows and frames were not measured, and whether the scale is far from what the model knows."""
        affected = [(scan, rows) for scan in scans if (rows := scan.bad_rows())]
        if affected:
            scan, rows = affected[0]
            n_masked = int(scan.scaling.zero_rows[list(rows)].sum()) if self.missing_rois == "mask" else 0
            self.warn_once(
                ("bad rois", tuple((scan.name, rows) for scan, rows in affected)),
                f"{len(rows)} ROIs of {scan.name} are constant or hold NaN or infinity (model rows "
                f"{list(rows[:5])}{', ...' if len(rows) > 5 else ''}); those values are set to 0 after "
                f"scaling{f'; {n_masked} of them are masked' if n_masked else ''}{_others(affected)}.",
            )
        gaps = [scan for scan in scans if scan.missing is not None]
        if gaps:
            self.warn_once(
                "missing frames",
                f"{int(gaps[0].missing.sum())} of the {len(gaps[0].missing)} frames of {gaps[0].name} were not "
                "measured (cut, or NaN, 0 or copies of each other in every parcel). Scaling leaves them out, they "
                "stay gaps at their times, and tokens of which less than half was measured are masked"
                f"{_others(gaps)}. So it is for other scans (`brain-transformers check` lists them).",
            )
        for scan in scans if self._n_looked_at < _MOST_LOOKED_AT and "units" not in self._warned else ():
            self._n_looked_at += 1
            self._warn_of_units(scan.values, scan.name)
        said = self._warned  # of which nothing is looked for again
        scaling.report_scale(
            self.normalization, self.expected_std, scans, starts, batch["signals"], self.warn_once, said
        )

    def _warn_of_units(self, signals: np.ndarray, name: str) -> None:
        if said := scaling.unfit_units(self.normalization, units_of(signals), name):
            self.warn_once("units", said)

    def contract(self) -> dict[str, Any]:
        """See [`ScanProcessor.contract`]."""
        labels, statistics = labels_of(self.roi_order), self.statistics or {}
        fitted_on = {"scans": statistics.get("n_scans"), "digest": digest(statistics)} if statistics else None
        return {
            **super().contract(),
            "space": "parcels",
            "labels": {
                "number": self.n_rois,
                "order": None if self.roi_order is None else order_name(self.output_roi_order),
                "digest": None if labels is None else digest(list(labels)),
            },
            "t_r": {"seconds": self.t_r, "tolerance": self.t_r_tolerance, "others": self.resampling},
            "n_timepoints": self.n_timepoints,
            "scale": {"normalization": self.normalization, "divisor": self.divisor, "statistics": fitted_on},
            "band_pass": self.band_pass,
        }

    def describe(self) -> dict[str, str]:
        """What it does to a scan, in words."""
        fitted = ""
        if self.normalization in scaling.FITTED:
            n_scans = (self.statistics or {}).get("n_scans")
            fitted = ", not fitted" if self.statistics is None else f", fitted on {n_scans or 'the'} training scans"
        divided = f", divided by {self.divisor}" if self.divisor != 1.0 else ""
        band = "" if self.band_pass is None else f"{self.band_pass[0]:g} to {self.band_pass[1]:g} Hz"
        order = "in an order that nobody said" if self.roi_order is None else order_name(self.output_roi_order)
        time_ = "any t_r, as it is" if self.t_r is None else f"t_r {self.t_r:g} s, others are resampled"
        how = {"filter": " (interpolated)", "frames": " (frames are picked)"}[self.resampling] if self.t_r else ""
        return {
            "scans": f"series of {self.n_rois} parcels, {order}",
            "inputs": f"signals (batch, {self.n_rois}, {self.n_timepoints})",
            "scale": f"{self.normalization}{fitted}{divided}",
            **({"band": band} if band else {}),
            "time": f"{time_}{how}",
            "windows": f"{self.n_timepoints} timepoints, {self.window}",
        }

    def example(self, config: Any) -> tuple[str, str, str]:
        """For the Python of a model card: arguments of a call, those of `fit`, and what a scan is, in words."""
        order = ""
        if isinstance(config.roi_order, str):
            literal = json.dumps(config.roi_order.removesuffix(SORTED_BY_Y))
            order = f", roi_order={literal.replace('`', chr(92) + 'u0060')}"  # nothing in it ends the code block
        elif config.roi_order is not None:
            order = ", roi_order=model.config.roi_order"
        return f"bold, t_r={config.t_r or 't_r'}{order}", f"scans{order}", "(n_rois, n_timepoints)"

    def refuse(self, config: Any) -> None:
        """Refuse a model that takes parcels in another order.

        Raises:
            ValueError: if its configuration names one.
        """
        given, expected = self.output_roi_order, getattr(config, "roi_order", None)
        if given is not None and expected is not None and roi_order_text(given) != roi_order_text(expected):
            raise ValueError(
                f"The model expects parcels in the order {order_name(expected)}, but this extractor gives "
                f"{order_name(given)}: it belongs to another model. Load the one in the model's folder with "
                "AutoFeatureExtractor."
            )
        t_r = getattr(config, "t_r", None)
        if self.t_r is not None and t_r is not None and abs(self.t_r - t_r) > 0.025 * t_r:
            self.warn_once(
                ("t_r of the model", t_r),
                f"This extractor resamples to {self.t_r:g} s, but the model was made for {t_r:g} s. Use the extractor "
                "in the model's folder, unless you mean it.",
            )

    # --- a dataset, and a new model for it ---

    @classmethod
    def facts(cls, rows: Any, chosen: Mapping[str, Any], what: str) -> ScanFacts:
        """Their parcels, and the repetition time of most of them."""
        return series_facts(rows, what, with_t_r="t_r" not in chosen)

    def remarks(self, facts: ScanFacts) -> list[str]:
        """What becomes of the time of the scans."""
        if self.t_r is None:
            return ["t_r: unknown, so that scans are taken as they come (--config t_r=SECONDS, or prepare --t-r)"]
        if facts.t_r is None or self.t_r <= 1.025 * facts.t_r:
            return []
        return [f"t_r: scans of {facts.t_r:g} s are brought to {self.t_r:g} s, as the model has it (--config t_r=...)"]

    def set_table(self, name: str, array: np.ndarray) -> None:
        """Keep parcel centres `(n_rois, 3)` in mm, in the order of `roi_order`."""
        self.coordinates = check_coordinates(array, self.n_rois).tolist()

    def make_table(self, name: str, shape: tuple[Any, ...], rows: Any, what: str) -> tuple[np.ndarray, str] | None:
        """Centres of the parcels that are stored or belong to their order, or gradients of the scans."""
        if name == "gradients":
            return gradients_of_rows(rows, self.roi_order, shape, what)
        known = None if self.roi_order is None else roi_coordinates(self.roi_order)
        centres = known if self.coordinates is None else self.coordinates
        if name != "coordinates" or centres is None:
            return None
        return np.asarray(centres, dtype=np.float32), "centres of the feature extractor"

    def representatives(self, rows: Any) -> list[int]:
        """The shortest scan of each order, number of parcels and repetition time."""
        return shortest_of_each_kind(rows)

    def unscaled(self) -> "ROISeriesFeatureExtractor":
        """See [`ScanProcessor.unscaled`]."""
        trial = copy.deepcopy(self)
        trial.normalization, trial.expected_std = "none", None
        trial._warned.add("raw units")
        return trial

    def look(self, row: Mapping[str, Any], name: str) -> Look:
        """Order, time, units, and what is not there of a series."""
        signals, order, t_r = unpack_row(row, name)
        return look_at_series(signals, order, t_r, name, self.normalization, self.band_pass)

    def try_row(self, row: Mapping[str, Any]) -> None:
        """See [`ScanProcessor.try_row`]; scaling needs no trial, and may not be fitted yet."""
        trial = self.unscaled()
        batch = trial(row, window="first")
        if "attention_mask" in batch and not batch["signals"][:, :, -self.patch_size :].any():
            print(f"scans of {row['n_timepoints']} timepoints are shorter than a window, and are padded")

    def as_row(self, item: Any, index: int) -> Mapping[str, Any]:
        """Item `index` of a dataset as a row that says its shape."""
        return series_row(item, index)


def _others(affected: Sequence[Any]) -> str:
    return "" if len(affected) == 1 else f"; {len(affected)} scans of this call are affected"
