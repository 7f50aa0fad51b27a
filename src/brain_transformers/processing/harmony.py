"""Scans and T1 volumes together, for a BrainHarmony model that holds its encoders."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import BatchFeature

from ..models.remote_code import shim_reference
from .base import CheckedScan, ScanProcessor, check_size
from .harmonix import HarmonixFFeatureExtractor
from .roi_scan import ROIScan
from .rows import row_column, scan_name
from .stage0 import BrainHarmonyFeatureExtractor, CheckedTokens
from .structural import CheckedVolume, T1FeatureExtractor
from .trials import Look

# What a caller passed for one person, in a row of our own: a scan or its row, and a volume or its row.
_BOLD, _T1 = "given bold", "given t1"


@dataclass
class CheckedPair(CheckedScan):
    """A scan and a T1 volume of one person; `None` for what is missing, never both."""

    bold: ROIScan | None = None
    t1: CheckedVolume | None = None

    def done(self) -> list[str]:
        """That of the scan."""
        return [] if self.bold is None else self.bold.done()


class BrainHarmonyProcessor(ScanProcessor):
    """BOLD series and T1 volumes of the same people become the inputs of one model.

        inputs = processor(bold, t1, t_r=0.735, return_tensors="pt")
        features = model(**inputs).pooler_output

    Or it takes rows of pairs, as `prepare BOLD --t1 T1` writes them, and rows of stage-0 tokens, which pass through.
    Either modality may be missing. A model takes the tokens of what is missing as masked, for which it was never
    trained.

    Args:
        fmri_feature_extractor: of Harmonix-F, or what its file holds.
        t1_feature_extractor: of Harmonix-S, likewise.
        n_t1_tokens: tokens that the model has of a volume, which are masked where there is none.

    Raises:
        TypeError: for other extractors.
    """

    auto_class = "AutoProcessor"
    tags = ("neuroimaging", "fmri", "mri")
    model_input_names = ["signals", "attention_mask", "patch_size", "t1_volumes", "inputs_embeds"]
    reads = ("signals", "t1")
    tells = (*HarmonixFFeatureExtractor.reads[1:], *HarmonixFFeatureExtractor.tells, *T1FeatureExtractor.tells)
    scan_ndim = 2
    modality = "fmri-series+t1"

    def __init__(
        self, fmri_feature_extractor: Any, t1_feature_extractor: Any, n_t1_tokens: int = 1200, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.fmri_feature_extractor: Any = _part(fmri_feature_extractor, HarmonixFFeatureExtractor)
        self.t1_feature_extractor: Any = _part(t1_feature_extractor, T1FeatureExtractor)
        self.n_t1_tokens = check_size("n_t1_tokens", n_t1_tokens, 10**6)

    @classmethod
    def from_model_config(cls, config: Any, **overrides: Any) -> "BrainHarmonyProcessor":
        """The processor of a model that holds both encoders; `overrides` are arguments of Harmonix-F's extractor."""
        return cls(
            HarmonixFFeatureExtractor.from_model_config(config.fmri_config, **overrides),
            T1FeatureExtractor.from_model_config(config.t1_config),
            config.n_t1_tokens,
        )

    @property
    def n_fmri_tokens(self) -> int:
        """Tokens of a window."""
        fmri = self.fmri_feature_extractor
        return fmri.n_rois * (fmri.n_timepoints // fmri.patch_size)

    def __call__(  # type: ignore[override]
        self, bold: Any = None, t1: Any = None, *, affine: Any = None, **how: Any
    ) -> BatchFeature:
        """Make a batch of model inputs.

        Args:
            bold: one scan (n_rois, n_timepoints) or several, or rows of a dataset; see [`HarmonixFFeatureExtractor`].
                Rows of pairs hold their volume themselves.
            t1: one T1 volume or several, as images, arrays or rows; see [`T1FeatureExtractor`].
            affine: of T1 volumes that are arrays.
            how: as of [`ScanProcessor`]: what is known of the scans, such as `t_r`, and which windows to cut of them;
                a T1 volume is repeated for each window of its person's scan.

        Returns:
            `signals`, `patch_size` and `t1_volumes` (of rows both, with zeros for what is missing), and where
            something is padded or missing, `attention_mask`; over the tokens of both where there are both.

        Raises:
            ValueError: if both are missing, their numbers differ, or one cannot be used.
        """
        if bold is None and t1 is None:
            raise ValueError("Expected bold, t1 or both, got none of them.")
        shared = ("return_tensors", "return_windows")
        if bold is None:
            if known := [name for name in how if name not in (*shared, "window", "rng", "n_windows")]:
                raise ValueError(f"{known[0]} is known of scans: pass bold, or leave it out.")
            given = {name: how[name] for name in shared if name in how}
            return self.t1_feature_extractor(t1, **({} if affine is None else {"affine": affine}), **given)
        if t1 is None:
            bold = list(bold) if hasattr(bold, "column_names") else bold
            rows = [bold] if isinstance(bold, Mapping) else bold
            pairs = isinstance(rows, (list, tuple)) and any(set(_ROWS) & set(row) for row in rows if _is_row(row))
            return super().__call__(bold, **how) if pairs else self.fmri_feature_extractor(bold, **how)
        scans, volumes = self.fmri_feature_extractor.scans_of(bold), self.t1_feature_extractor.scans_of(t1)
        if len(scans) != len(volumes):
            raise ValueError(
                f"Expected a T1 volume for each scan, got {len(volumes)} for {len(scans)}. Pass them in the same "
                "order, and people without one of them by themselves."
            )
        people = [{_BOLD: scan, _T1: volume} for scan, volume in zip(scans, volumes)]
        return super().__call__(people, **({} if affine is None else {"affine": affine}), **how)

    # --- one person ---

    @property
    def scan_columns(self) -> tuple[str, ...]:
        """See [`ScanProcessor.scan_columns`]."""
        return (*self.reads, "shape")

    def scans_of(self, scans: Any) -> list[Any]:
        """As [`ScanProcessor.scans_of`]; a slice of a dataset holds a column each."""
        if isinstance(scans, Mapping) and isinstance(scans.get("subject", scans.get("t1")), (list, np.ndarray)):
            return [dict(zip(scans, values)) for values in zip(*scans.values(), strict=True)]
        return [scans] if isinstance(scans, Mapping) else list(scans)

    def per_scan(self, name: str, value: Any, n_scans: int) -> list[Any]:
        """As those of the two modalities."""
        part = self.t1_feature_extractor if name == "affine" else self.fmri_feature_extractor
        return part.per_scan(name, value, n_scans)

    def as_row(self, item: Any, index: int) -> Mapping[str, Any]:
        """See [`ScanProcessor.as_row`]; a row has a scan, a volume or both, or tokens."""
        if isinstance(item, Mapping) and any(item.get(name) is not None for name in _ROWS):
            return item
        what = f"a row with {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
        raise ValueError(
            f"Expected scan {index} as a row with signals, t1 or both, got {what}. Join scans and volumes with "
            "brain_transformers.data.pair_datasets, or `brain-transformers prepare BOLD --t1 T1`."
        )

    def unpack(self, row: Mapping[str, Any], name: str, **known: Any) -> tuple[Any, dict[str, Any]]:
        """(scan, volume), each an array, an image, a row or `None`; or a row of tokens."""
        if _BOLD in row:
            return (row[_BOLD], row[_T1]), known
        row = self.as_row(row, 0)
        if row.get("inputs_embeds") is not None:
            return row, known
        return tuple(row if row.get(column) is not None else None for column in self.reads), known

    def look(self, row: Mapping[str, Any], name: str) -> Look:
        """See [`ScanProcessor.look`]; of the scan, and whether there is a volume."""
        if row.get("signals") is None:
            return Look({"modalities": "tokens" if row.get("inputs_embeds") is not None else "T1"})
        look = self.fmri_feature_extractor.look(row, name)
        look.facts["modalities"] = "fMRI" if row.get("t1") is None else "fMRI and T1"
        return look

    def check(self, scan: Any, name: str, affine: Any = None, **known: Any) -> CheckedScan:
        """Each modality, checked by its own extractor."""
        if isinstance(scan, Mapping):
            return self._tokens(scan, name)
        bold, t1 = scan
        checked: Any = (
            _checked(self.fmri_feature_extractor, bold, name, {"t_r": None, **known}),
            _checked(self.t1_feature_extractor, t1, name, {} if affine is None else {"affine": affine}),
        )
        values = next(part.values for part in checked if part is not None)
        return CheckedPair(name, values, *checked)

    def _tokens(self, row: Mapping[str, Any], name: str) -> CheckedTokens:
        """Tokens of both encoders, whose width only the model knows."""
        n_tokens = self.n_fmri_tokens + self.n_t1_tokens
        width = max(np.size(row["inputs_embeds"]) // n_tokens, 1)
        stage0 = BrainHarmonyFeatureExtractor(self.n_fmri_tokens, self.n_t1_tokens, width)
        scan, facts = stage0.unpack(row, name)
        return stage0.check(scan, name, **facts)

    def starts(self, scan: Any, **how: Any) -> list[float]:
        """Those of the scan; a person without one has one window."""
        if isinstance(scan, CheckedPair) and scan.bold is not None:
            return self.fmri_feature_extractor.starts(scan.bold, **how)
        return super().starts(scan, **how)

    def window_start(self, scan: Any, start: float) -> int:
        """See [`ScanProcessor.window_start`]."""
        bold = getattr(scan, "bold", None)
        return 0 if bold is None else self.fmri_feature_extractor.window_start(bold, start)

    def cut(self, scan: Any, starts: Sequence[float]) -> dict[str, np.ndarray]:
        """Windows of the scan and for each the volume, with zeros for what is missing; or tokens."""
        n, fmri, t1 = len(starts), self.fmri_feature_extractor, self.t1_feature_extractor
        if isinstance(scan, CheckedTokens):
            return {"inputs_embeds": np.repeat(scan.values[None], n, axis=0)}
        if scan.bold is not None:
            batch = fmri.cut(scan.bold, starts)
        else:
            shape = (n, fmri.n_rois, fmri.n_timepoints // fmri.patch_size * fmri.patch_size)
            batch = {"signals": np.zeros(shape, np.float32), "patch_size": np.full(n, fmri.patch_size, np.int64)}
        empty = {"t1_volumes": np.zeros((n, 1, *t1.image_size), np.float32)}
        return {**batch, **(empty if scan.t1 is None else t1.cut(scan.t1, starts))}

    def mask(self, scan: Any, starts: Sequence[float]) -> np.ndarray | None:
        """Over the tokens of both modalities; over those of fMRI for rows of tokens."""
        if isinstance(scan, CheckedTokens):
            return None if scan.observed is None else np.repeat(scan.observed[None].astype(np.int64), len(starts), 0)
        fmri = None if scan.bold is None else self.fmri_feature_extractor.mask(scan.bold, starts)
        if fmri is None:
            fmri = np.full((len(starts), self.n_fmri_tokens), int(scan.bold is not None), np.int64)
        return np.pad(fmri, [(0, 0), (0, self.n_t1_tokens)], constant_values=int(scan.t1 is not None))

    def report(self, scans: Sequence[Any], starts: Sequence[Sequence[float]], batch: Mapping[str, np.ndarray]) -> None:
        """What the modalities say, and once of each that people lack it."""
        if "signals" not in batch:
            return
        owners = np.repeat(np.arange(len(scans)), [len(first) for first in starts])
        some = [number for number, scan in enumerate(scans) if scan.bold is not None]
        if some:
            whole = {"signals": batch["signals"][np.isin(owners, some)]}
            self.fmri_feature_extractor.report([scans[n].bold for n in some], [starts[n] for n in some], whole)
        for part, called in (("bold", "fMRI"), ("t1", "T1")):
            if lacking := [scan.name for scan in scans if getattr(scan, part) is None]:
                self.warn_once(
                    f"no {called}",
                    f"{lacking[0]} has no {called}, so those tokens are masked, as they are for all who have none: "
                    "BrainHarmony was never trained on one modality alone (see the limits in its card).",
                )

    # --- a dataset ---

    @property
    def is_fitted(self) -> bool:
        """See [`ScanProcessor.is_fitted`]; T1 volumes have nothing to fit."""
        return self.fmri_feature_extractor.is_fitted

    def fit(self, scans: Iterable[Any], **known: Any) -> "BrainHarmonyProcessor":
        """See [`ScanProcessor.fit`]; rows without a scan have nothing to fit."""
        whole = (scan for scan in scans if not _is_row(scan) or scan.get("signals") is not None)
        self.fmri_feature_extractor.fit(whole, **known)
        return self

    def make_table(self, name: str, shape: tuple[Any, ...], rows: Any, what: str) -> tuple[np.ndarray, str] | None:
        """See [`ScanProcessor.make_table`]: tables are those of parcels."""
        return self.fmri_feature_extractor.make_table(name, shape, rows, what)

    def representatives(self, rows: Any) -> list[int]:
        """Those of the scans, and the first row that lacks one."""
        if "n_timepoints" not in rows.column_names:
            return [0]
        lengths = row_column(rows, "n_timepoints")
        some = [number for number, length in enumerate(lengths) if length is not None]
        chosen = self.fmri_feature_extractor.representatives(rows.select(some)) if some else []
        lacking = next((number for number, length in enumerate(lengths) if length is None), None)
        return [*(some[number] for number in chosen), *([] if lacking is None else [lacking])]

    def try_row(self, row: Mapping[str, Any]) -> None:
        """See [`ScanProcessor.try_row`]: each modality by itself, since the scale may not be fitted yet."""
        scan, _ = self.unpack(row, scan_name(row))
        if isinstance(scan, Mapping):
            self._tokens(scan, scan_name(row))
            return
        for part, given in zip((self.fmri_feature_extractor, self.t1_feature_extractor), scan):
            if given is not None:
                part.try_row(given)

    # --- what is said of it ---

    def describe(self) -> dict[str, str]:
        """See [`ScanProcessor.describe`]."""
        fmri, t1 = self.fmri_feature_extractor.describe(), self.t1_feature_extractor.describe()
        return {**fmri, **{f"T1: {name}": words for name, words in t1.items()}}

    def refuse(self, config: Any) -> None:
        """Refuse a model without these encoders, or of other scans or volumes."""
        if None in (config.fmri_config, config.t1_config):
            raise ValueError(
                "This processor makes scans and volumes, and the model holds no encoders for them: it reads their "
                "tokens. Take the encoders in with model.set_encoders, or load the processor in the model's folder."
            )
        self.fmri_feature_extractor.refuse(config.fmri_config)
        self.t1_feature_extractor.refuse(config.t1_config)
        if (config.n_fmri_tokens, config.n_t1_tokens) != (self.n_fmri_tokens, self.n_t1_tokens):
            raise ValueError(
                f"Expected {config.n_fmri_tokens} tokens of fMRI and {config.n_t1_tokens} of T1 for this model, this "
                f"processor gives {self.n_fmri_tokens} and {self.n_t1_tokens}."
            )

    def example(self, config: Any) -> tuple[str, str, str]:
        """See [`ScanProcessor.example`]."""
        call, fit, scan = self.fmri_feature_extractor.example(config.fmri_config)
        call, fit = (words.replace("model.config.", "model.config.fmri_config.") for words in (call, fit))
        bold, _, known = call.partition(", ")
        return f"{bold}, t1, {known}", fit, f"{scan}, beside a T1 image without skull in MNI152"

    # --- saving ---

    def to_dict(self) -> dict[str, Any]:
        """See [`ScanProcessor.to_dict`]; with what the files of both extractors hold."""
        output = {"feature_extractor_type": type(self).__name__, "n_t1_tokens": self.n_t1_tokens}
        for name in ("fmri_feature_extractor", "t1_feature_extractor"):
            output[name] = {key: value for key, value in getattr(self, name).to_dict().items() if key != "auto_map"}
        reference = shim_reference(type(self).__name__)
        return {**output, "auto_map": {"AutoFeatureExtractor": reference, "AutoProcessor": reference}}

    @classmethod
    def get_feature_extractor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the file of a folder holds; an earlier version called it `processor_config.json`."""
        try:
            return super().get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        except OSError:
            from transformers.processing_utils import ProcessorMixin  # which takes seconds

            content, rest = ProcessorMixin.get_processor_dict(pretrained_model_name_or_path, **kwargs)
            if "t1_feature_extractor" not in content:
                raise
            return {name: value for name, value in content.items() if name != "processor_class"}, rest

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The processor of a file; that of tokens for a model without encoders, whose Auto class is the same."""
        kind = feature_extractor_dict.get("feature_extractor_type")
        if kind == BrainHarmonyFeatureExtractor.__name__:
            return BrainHarmonyFeatureExtractor.from_dict(feature_extractor_dict, **kwargs)
        return super().from_dict(feature_extractor_dict, **kwargs)


# Columns of which a row has at least one.
_ROWS = (*BrainHarmonyProcessor.reads, "inputs_embeds")


def _is_row(scan: Any) -> bool:
    return isinstance(scan, Mapping)


def _part(given: Any, kind: type[ScanProcessor]) -> ScanProcessor:
    """An extractor of that kind, as it is or of its dictionary."""
    if isinstance(given, Mapping):
        name = given.get("feature_extractor_type", kind.__name__)
        if name == kind.__name__:
            return kind(**given)
        given = name
    if not isinstance(given, kind):
        raise TypeError(
            f"Expected a {kind.__name__}, got {given if isinstance(given, str) else type(given).__name__}."
        )
    return given


def _checked(part: ScanProcessor, scan: Any, name: str, known: Mapping[str, Any]) -> Any:
    """A scan, or a row that holds it, checked by the extractor of its modality; `None` if it is missing."""
    if scan is None:
        return None
    if not _is_row(scan):
        return part.check(scan, name, **known)
    name = scan_name(scan) if scan_name(scan) != scan_name({}) else name
    scan, facts = part.unpack(scan, name, **known)
    return part.check(scan, name, **facts)
