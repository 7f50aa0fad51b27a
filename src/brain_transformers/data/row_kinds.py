"""Kinds of rows: what a dataset of scans holds of each scan, told by its columns.

Builders, saved datasets and checks ask the kind; another modality is a [`RowKind`] of its own in `ROW_KINDS`.
"""

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..optional import require
from ..processing.base import ScanProcessor
from ..processing.rows import scan_name
from ..processing.structural import CROPPED_SHAPE, T1_DTYPES, open_t1
from ..processing.volume_frames import BACKGROUNDS, NORMALIZATIONS, STORED_DTYPES, open_frames
from .scan_names import NAME_COLUMNS


@dataclass(frozen=True)
class RowKind:
    """What the rows of a dataset hold of a scan.

    Attributes:
        name: how messages call the scans.
        columns: its own columns and their Arrow types, `[type]` for a flat list; the first one holds the scan.
        needed: columns by which its rows are known.
        fault: what is wrong with the values of an Arrow table of such rows, in words; `""` if nothing is.
        sample: values of a row to tell its scan by, at most about so many.
        sizes: how large the scans of a dataset are, in words.
        scan_columns: columns that hold scans, together; by default the first one.
        file_column: column that names files with scans, which lie beside a saved dataset; `None` if none does.
        told_in: column with the source of those files.
    """

    name: str
    columns: Mapping[str, str | Sequence[str]]
    needed: tuple[str, ...]
    fault: Callable[[Any], str]
    sample: Callable[[Mapping[str, Any], int], np.ndarray] | None = None
    sizes: Callable[[Any], str] = lambda rows: ""
    scan_columns: tuple[str, ...] = ()
    file_column: str | None = None
    told_in: str = "source_file"

    def is_of(self, row: Mapping[str, Any]) -> bool:
        """Whether a row holds such scans, whatever else is known of it."""
        return all(name in row for name in self.scan_columns or tuple(self.columns)[:1])

    def features(self, extra: Mapping[str, Any] | None = None) -> Any:
        """Features of a dataset: its own columns, what names say, where the scan is from, and `extra` ones."""
        datasets = require("datasets", extra="data", purpose="datasets of scans")
        own = {
            column: datasets.Value(kind) if isinstance(kind, str) else datasets.List(datasets.Value(*kind))
            for column, kind in self.columns.items()
        }
        names = dict.fromkeys(NAME_COLUMNS, datasets.Value("string"))
        where = {"subject_known": datasets.Value("bool"), "source_file": datasets.Value("string")}
        return datasets.Features({**own, **names, **where, **(extra or {})})


def arrow_table(cells: Mapping[str, Sequence[Any]], features: Any) -> Any:
    """An Arrow table of columns of cells; arrays in columns of lists are not copied, and what is missing is a gap."""
    pa = require("pyarrow", extra="data", purpose="datasets of scans")

    def column(field: Any) -> Any:
        values = cells.get(field.name, nothing)
        if not (pa.types.is_list(field.type) and any(isinstance(value, np.ndarray) for value in values)):
            return pa.array(list(values), field.type)
        flat = [np.empty(0) if value is None else value.reshape(-1) for value in values]
        of_type = field.type.value_type
        lists = [pa.ListArray.from_arrays(pa.array([0, v.size], pa.int32()), pa.array(v, of_type)) for v in flat]
        return pa.chunked_array(lists)

    schema, nothing = features.arrow_schema, [None] * len(next(iter(cells.values())))
    return pa.Table.from_arrays([column(field) for field in schema], schema=schema)


def kind_of(columns: Collection[str]) -> RowKind | None:
    """The kind of rows with these columns, of which pairs have those of two others; `None` if they hold no scans."""
    found = [kind for kind in ROW_KINDS if set(kind.needed) <= set(columns)]
    return max(found, key=lambda kind: len(kind.needed), default=None)


def kind_of_row(row: Mapping[str, Any]) -> RowKind | None:
    """The kind of a row by its scan alone, whatever else is known of it."""
    return max((kind for kind in ROW_KINDS if kind.is_of(row)), key=lambda kind: len(kind.needed), default=None)


def check_splits(splits: Mapping[str, Any], processor: ScanProcessor, name: str = "the dataset") -> None:
    """Refuse splits whose columns hold other scans than a processor reads; `name` is for messages.

    Raises:
        ValueError: saying what they hold.
    """
    for rows in splits.values():
        columns = getattr(rows, "column_names", None) or []
        kind = kind_of(columns)
        own = columns if kind is None else kind.scan_columns or tuple(kind.columns)[:1]
        if own and set(own).isdisjoint((*processor.reads, *processor.model_input_names)):
            raise ValueError(
                f"{name}: expected rows with {', '.join(processor.reads)}, as the model reads them, got "
                f"{'rows with ' + ', '.join(columns[:8]) if kind is None else kind.name}. Take a model for these."
            )


def span(values: Collection[float]) -> str:
    """The smallest and largest of numbers, in words."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def counted(number: int, thing: str) -> str:
    """How many of a thing, in words."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def column_of(dataset: Any, name: str) -> list[Any]:
    """A column of a dataset as Python values, of the rows it has now."""
    return dataset.select_columns([name]).with_format("arrow")[:].column(name).to_pylist() if len(dataset) else []


class NumpyRows:
    """Rows of a dataset in numpy format: the values of `dataset[index]`, in a tenth of its time.

    Lists of numbers are views of the Arrow memory that cannot be written to, and nothing of them is copied.

    Attributes:
        table: the dataset in Arrow format.
    """

    def __init__(self, table: Any):
        self.table = table
        self.reads = [
            _list_cell if hasattr(kind, "value_type") else _cell for kind in table.features.arrow_schema.types
        ]

    @classmethod
    def of(cls, dataset: Any) -> Any:
        """Such rows of a dataset of numbers, text and flat lists of numbers; another dataset as it is."""
        given = getattr(dataset, "format", None)
        if not isinstance(given, dict) or (given["type"], given["format_kwargs"]) != ("numpy", {}):
            return dataset
        if given["columns"] != dataset.column_names or not all(map(_is_plain, dataset.features.arrow_schema.types)):
            return dataset
        return cls(dataset.with_format("arrow"))

    def __getitem__(self, index: int) -> dict[str, Any]:
        table = self.table[index]
        return {
            name: read(column.chunk(0)) for name, read, column in zip(table.column_names, self.reads, table.columns)
        }


def _is_plain(kind: Any) -> bool:
    types = require("pyarrow", extra="data", purpose="datasets of scans").types
    value = kind.value_type if types.is_list(kind) else kind
    number = types.is_boolean(value) or types.is_integer(value) or types.is_floating(value)
    return number or types.is_string(kind)


def _cell(column: Any) -> Any:
    """The only cell of an Arrow column, as numpy-format datasets have it."""
    return column.to_numpy(zero_copy_only=False)[0]


def _list_cell(column: Any) -> np.ndarray | None:
    """Its list, as float32, int64 or bool."""
    if column.null_count:
        return None
    values = column.flatten().to_numpy(zero_copy_only=False)
    dtype = {"f": np.float32, "i": np.int64, "u": np.int64}.get(values.dtype.kind, values.dtype)
    return values.astype(dtype, copy=False)


# --- series ---


def _series_fault(table: Any, may_lack: bool = False) -> str:
    """Signals, sizes and lengths that belong together; signals are not read, and may be missing if `may_lack`."""
    pa = require("pyarrow", extra="data", purpose="datasets of scans")
    pc = require("pyarrow.compute", extra="data", purpose="datasets of scans")
    signals, n_rois = table.column("signals"), table.column("n_rois")
    if not pa.types.is_list(signals.type) or not pa.types.is_floating(signals.type.value_type):
        return f"signals of type {signals.type}"
    if not pa.types.is_integer(n_rois.type):
        return f"n_rois of type {n_rois.type}"
    if not len(table):
        return ""
    sizes = pc.list_value_length(signals)
    together = pc.all(pc.equal(pc.is_valid(n_rois), pc.is_valid(sizes))).as_py()
    if not together or (not may_lack and n_rois.null_count) or (pc.min(n_rois).as_py() or may_lack) < 1:
        return "rows without signals, or with fewer than 1 ROI"
    if "n_timepoints" in table.column_names:
        # Not a row may be cut into ROIs that it does not have.
        product = pc.multiply(n_rois, table.column("n_timepoints"))
        same = pc.all(pc.equal(product, pc.cast(sizes, product.type))).as_py()
        if product.null_count != sizes.null_count or same is False:
            return "rows whose signals are not n_rois x n_timepoints values"
        return _mask_fault(table, table.column("n_timepoints").to_pylist())
    return ""


def _mask_fault(table: Any, n_frames: Sequence[int]) -> str:
    """Masks that are as long as their scans, where there are any."""
    if "frame_mask" not in table.column_names:
        return ""
    pa, pc = (require(name, extra="data", purpose="datasets of scans") for name in ("pyarrow", "pyarrow.compute"))
    masks = table.column("frame_mask")
    if not pa.types.is_list(masks.type) or not pa.types.is_boolean(masks.type.value_type):
        return f"a frame_mask of type {masks.type}"
    sizes = pc.list_value_length(masks).to_pylist()
    if any(size not in (None, 0, n) for size, n in zip(sizes, n_frames)):
        return "rows whose frame_mask has not one value a frame"
    return ""


def _with_mask(values: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
    """Values, and behind them which frames count, where the row says."""
    mask = row.get("frame_mask")
    return values if mask is None or np.all(mask) else np.concatenate([values, np.asarray(mask, dtype=values.dtype)])


def _series_sample(row: Mapping[str, Any], most: int) -> np.ndarray:
    """Every value, or every second, third, ..."""
    values = np.asarray(row["signals"], dtype=np.float32).reshape(-1)
    return _with_mask(values[:: max(1, -(-values.size // max(most, 1)))], row)


SERIES = RowKind(
    "series of ROIs",
    # Flat, since with the numpy format that reads as fast as a memory map; nested lists cost a hundred times more.
    {
        "signals": ["float32"],
        **dict.fromkeys(("n_rois", "n_timepoints"), "int64"),
        "t_r": "float64",
        "roi_order": "string",
        "frame_mask": ["bool"],
        "provenance": "string",
    },
    needed=("signals", "n_rois", "roi_order"),
    fault=_series_fault,
    sample=_series_sample,
    sizes=lambda rows: f"{span(column_of(rows, 'n_rois'))} ROIs, {span(column_of(rows, 'n_timepoints'))} timepoints",
)
"""A series of ROIs in its own order, repetition time (seconds) and units: (n_rois, n_timepoints), flattened; frames
that are false in `frame_mask` were cut, whatever stands there. Without that column, or where it is empty, none was."""

# --- volumes ---

# Pieces of a file that its values are sampled in.
_N_PIECES = 16


def _volumes_fault(table: Any) -> str:
    """Names, sizes and scales that can be those of files of frames; the files are not read."""
    rows = table.select(list(VOLUMES.needed)).to_pylist()
    for row in rows:
        shape, numbers = row["shape"], (row["scale"], row["offset"])
        if not isinstance(row["volumes"], str) or not row["volumes"]:
            return "rows without a file of frames"
        if not isinstance(shape, list) or len(shape) != 4 or not all(isinstance(n, int) and n > 0 for n in shape):
            return f"frames of shape {str(shape)[:80]}, not (n_frames, y, x, z)"
        if row["dtype"] not in STORED_DTYPES:
            return f"frames of type {str(row['dtype'])[:80]!r}, not {' or '.join(STORED_DTYPES)}"
        if not all(isinstance(number, float) and math.isfinite(number) for number in numbers):
            return "scales or offsets that are no numbers"
        if row["normalization"] not in NORMALIZATIONS or row["background"] not in BACKGROUNDS:
            return f"frames scaled by {str(row['normalization'])[:40]!r} and {str(row['background'])[:40]!r}"
    return _mask_fault(table, [row["shape"][0] for row in rows])


def _file_sample(column: str, opened: Callable[[Mapping[str, Any], str], np.ndarray]) -> Any:
    """Pieces of the file, evenly spaced; of a file of gigabytes nothing else is read."""

    def sample(row: Mapping[str, Any], most: int) -> np.ndarray:
        held = row[column]
        in_file = isinstance(held, (str, os.PathLike))
        values = opened(row, scan_name(row)) if in_file else np.asarray(getattr(held, "dataobj", held))
        return _with_mask(_pieces(values, most), row)

    return sample


def _pieces(values: np.ndarray, most: int) -> np.ndarray:
    values = values.reshape(-1)
    if values.size <= most:
        return values
    size = min(max(most, 4096) // _N_PIECES, values.size)
    starts = np.unique(np.linspace(0, values.size - size, _N_PIECES).astype(np.int64))
    return np.concatenate([values[start : start + size] for start in starts])


def _volumes_sizes(rows: Any) -> str:
    shapes, losses = column_of(rows, "shape"), column_of(rows, "storage_error")
    grids = sorted({(x, y, z) for _, y, x, z in shapes})
    stored = " and ".join(sorted(set(column_of(rows, "dtype"))))
    gigabytes = sum(os.path.getsize(file) for file in column_of(rows, "volumes")) / 1e9
    return (
        f"{' and '.join(' x '.join(map(str, grid)) for grid in grids)} voxels (x, y, z), "
        f"{span([shape[0] for shape in shapes])} frames, {gigabytes:.2g} GB as {stored}, which rounds away up to "
        f"{100 * max(losses):.2g} % of the deviation over time"
    )


VOLUMES = RowKind(
    "4-D volumes",
    {
        "volumes": "string",
        "shape": ["int64"],
        **dict.fromkeys(("dtype", "normalization", "background"), "string"),
        **dict.fromkeys(("scale", "offset", "storage_error", "t_r"), "float64"),
        "frame_mask": ["bool"],
    },
    needed=("volumes", "shape", "dtype", "scale", "offset", "normalization", "background"),
    fault=_volumes_fault,
    sample=_file_sample("volumes", lambda row, name: open_frames(row, name).stored),
    sizes=_volumes_sizes,
    file_column="volumes",
)
"""A file of normalised frames (n_frames, y, x, z): a value is what is stored times scale plus offset."""

# --- T1 volumes ---


def _t1_fault(table: Any) -> str:
    """Names, sizes and scales that can be those of files of volumes; the files are not read."""
    return _t1_rows_fault(table.select(list(T1.needed)).to_pylist())


def _t1_rows_fault(rows: list[dict[str, Any]]) -> str:
    for row in rows:
        if not isinstance(row["t1"], str) or not row["t1"]:
            return "rows without a file of a volume"
        if row["shape"] != list(CROPPED_SHAPE):
            return f"volumes of shape {str(row['shape'])[:80]}, not {CROPPED_SHAPE}"
        if row["dtype"] not in T1_DTYPES:
            return f"volumes of type {str(row['dtype'])[:80]!r}, not {', '.join(T1_DTYPES)}"
        if not all(isinstance(row[name], float) and math.isfinite(row[name]) for name in ("mean", "deviation")):
            return "means or deviations that are no numbers"
        if row["deviation"] <= 0:
            return "deviations that are not above 0"
    return ""


def _t1_sizes(rows: Any) -> str:
    gigabytes = sum(math.prod(CROPPED_SHAPE) * np.dtype(dtype).itemsize for dtype in column_of(rows, "dtype")) / 1e9
    return f"{' x '.join(map(str, CROPPED_SHAPE))} voxels of 1 mm, {gigabytes:.2g} GB"


T1 = RowKind(
    "T1 volumes",
    {"t1": "string", "shape": ["int64"], "dtype": "string", "mean": "float64", "deviation": "float64"},
    needed=("t1", "shape", "dtype", "mean", "deviation"),
    fault=_t1_fault,
    sample=_file_sample("t1", open_t1),
    sizes=_t1_sizes,
    file_column="t1",
)
"""A file of a T1 volume on the grid that [`T1FeatureExtractor`] reads, in its own units, and what scales it."""

# --- pairs ---


def _pair_fault(table: Any) -> str:
    """Series and volumes as those of their kinds, of which a row may lack one."""
    if fault := _series_fault(table, may_lack=True):
        return fault
    rows = table.select([*T1.needed, "n_rois"]).to_pylist()
    if any(row["t1"] is None and row["n_rois"] is None for row in rows):
        return "rows with neither a series nor a volume"
    return _t1_rows_fault([row for row in rows if row["t1"] is not None])


def _pair_sample(row: Mapping[str, Any], most: int) -> np.ndarray:
    """Values of the series, then of the volume."""
    kinds = [kind for kind in (SERIES, T1) if row[next(iter(kind.columns))] is not None]
    return np.concatenate([kind.sample(row, most).astype(np.float32) for kind in kinds if kind.sample is not None])


def _pair_sizes(rows: Any) -> str:
    n_rois, volumes = column_of(rows, "n_rois"), column_of(rows, "t1")
    lengths = [length for length in column_of(rows, "n_timepoints") if length is not None]
    said = f"{n_rois.count(None)} with T1 alone, {volumes.count(None)} with a series alone"
    if not lengths:
        return said
    return f"{span({n for n in n_rois if n is not None})} ROIs, {span(lengths)} timepoints, {said}"


PAIR = RowKind(
    "pairs of a series and a T1 volume",
    {**SERIES.columns, **T1.columns, "t1_source_file": "string", "t1_session": "string"},
    needed=(*SERIES.needed, *T1.needed),
    fault=_pair_fault,
    sample=_pair_sample,
    sizes=_pair_sizes,
    scan_columns=("signals", "t1"),
    file_column="t1",
    told_in="t1_source_file",
)
"""A series and a T1 volume of one person; the cells of one of them may be empty."""

# --- tokens ---


def _tokens_fault(table: Any) -> str:
    """Lists that are as many tokens as a row says; they are not read."""
    pa = require("pyarrow", extra="data", purpose="datasets of scans")
    pc = require("pyarrow.compute", extra="data", purpose="datasets of scans")
    tokens, n_tokens = table.column("inputs_embeds"), table.column("n_tokens")
    of_type = tokens.type.value_type if pa.types.is_list(tokens.type) else tokens.type
    bits = "dtype" in table.column_names and set(table.column("dtype").unique().to_pylist()) == {"bfloat16"}
    if not pa.types.is_list(tokens.type) or not (
        pa.types.is_uint16(of_type) if bits else pa.types.is_floating(of_type)
    ):
        return f"tokens of type {tokens.type}"
    if not pa.types.is_integer(n_tokens.type):
        return f"n_tokens of type {n_tokens.type}"
    if not len(table):
        return ""
    sizes = pc.list_value_length(tokens)
    if n_tokens.null_count or sizes.null_count or pc.min(n_tokens).as_py() < 1 or pc.min(sizes).as_py() < 1:
        return "rows without tokens"
    widths = pc.divide(sizes, pc.cast(n_tokens, sizes.type))
    if not pc.all(pc.equal(pc.multiply(widths, pc.cast(n_tokens, sizes.type)), sizes)).as_py():
        return "rows whose values are not n_tokens tokens of one width"
    return ""


def _tokens_sample(row: Mapping[str, Any], most: int) -> np.ndarray:
    values = np.asarray(row["inputs_embeds"]).reshape(-1)
    return values[:: max(1, -(-values.size // max(most, 1)))]


TOKENS = RowKind(
    "tokens of stage 0",
    {
        "inputs_embeds": ["float32"],
        "n_tokens": "int64",
        "attention_mask": ["int8"],
        "label": "int64",
        "dtype": "string",
    },
    needed=("inputs_embeds", "n_tokens"),
    fault=_tokens_fault,
    sample=_tokens_sample,
    sizes=lambda rows: f"{span(column_of(rows, 'n_tokens'))} tokens",
)
"""What encoders make of a person: tokens, flattened, and which of them count, of all or of those of fMRI alone. Where
`dtype` is bfloat16 they are the 16 bits of each, as uint16, since Arrow has no such type."""

ROW_KINDS: list[RowKind] = [SERIES, VOLUMES, T1, PAIR, TOKENS]
