"""Arrow datasets of series: from folders, from saved datasets and from arrays; one row a scan, in its own units."""

import contextlib
import difflib
import glob
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atlases.assets import ATLASES
from ..atlases.roi_orders import (
    ROI_ORDERS,
    ROIOrder,
    label_centres,
    n_rois_of,
    order_of_labels,
    resolve_roi_order,
    roi_order_text,
)
from ..atlases.spellings import declared_order, matched_rows
from ..files import digest
from ..optional import require
from ..processing.connectivity import contradicted_edition
from ..processing.rows import frames_that_count
from ..processing.time import check_t_r, known_t_r
from .censoring import censored
from .cifti import DENSE_SUFFIX
from .derivatives import files_of_layout, has_tables_of
from .errors import ROISeriesReadError
from .exports import load_export, parquet_files
from .object_storage import is_url, local_copy
from .readers import OrderNotToldError, ROISeries, in_order, joined, read_coordinates, read_roi_series, tells_parcels
from .row_kinds import SERIES, arrow_table
from .runs import ScanParts
from .saved_datasets import is_saved, load_saved
from .scan_folders import ScanFolderBuilder
from .scan_names import HDF5_SUFFIXES, NAME_COLUMNS
from .sidecars import refuse_other_t_r

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
else:
    datasets = require("datasets", extra="data", purpose="datasets of scans")
    pa = require("pyarrow", extra="data", purpose="datasets of scans")


class ROISeriesFolderBuilder(ScanFolderBuilder):
    """Build an Arrow dataset from a folder of ROI series, or of 4-D BOLD images and an atlas.

    Rows hold `signals` (flat float32, reshape to (n_rois, n_timepoints)), `n_rois`, `n_timepoints`, `t_r` (seconds,
    NaN if unknown), `roi_order`, `frame_mask` (false for frames that were cut; empty where none was), `provenance`
    (of averaged images: JSON with versions, options, hashes of image and atlas, and the coverage of each row) and the
    columns of every [`ScanFolderBuilder`].

    Which files are scans is told by their names: tables of BIDS and XCP-D that are no series are left out, and images
    that are not in the atlas's space; several images of one run are refused.

    A file that cannot be read does not cost the others; see [`ScanFolderBuilder`].

    Args:
        folder: where the files are, at any depth, or an HDF5 file in the layout of the Brain-Semantoks
            authors, or a folder of tables in object storage (`s3://...`), which are copied to the cache. Sub-folders
            train, validation (or val) and test become splits.
        roi_order: order of the rows; by default what the files tell: labels in them, or the order that their names
            declare. Rows with labels are put into an order that is given.
        n_rois: number of ROIs, where the order is not one that is known.
        t_r: repetition time in seconds, 0.05 to 30; by default what the files say, which it must not contradict.
        pattern: glob of the files, such as `"*/functional/*.mat"`; by default every file of a known format.
        name_pattern: regular expression with named groups `subject`, `session`, `run`, `task`, `acq`, `dir`, `space`,
            `desc`, searched in the relative path, where it must find a subject; by default names of BIDS
            (`sub-01_ses-02_run-1`), HCP and UK Biobank, or that begin with an identifier of the participants table.
            Else each file counts as a person, unless names begin alike.
        participants: a participants.tsv; by default the one in the folder, if any. With a column session_id its values
            are those of a session.
        time_axis, key: see `read_roi_series`.
        atlas: label image or name, for 4-D BOLD images; see `parcellate`. For runs with tables of several atlases,
            which one to take, such as `"4S456Parcels"`, or several joined with `+`.
        atlas_names: what the numbers of a label image mean, see [`load_atlas`](brain_transformers.data.load_atlas).
        cleaning: what else `parcellate` does with images, such as `{"confounds": {"strategy": ["motion", "wm_csf"]},
            "low_pass": 0.1, "min_coverage": 0.4}`; nothing by default.
        on_error: `"raise"` or `"skip"`.
        cache_dir: where to put the Arrow files.

    Raises:
        FileNotFoundError: if the folder or files of a known format are missing.
        ValueError: if an option does not exist or contradicts another, it cannot be told whose scans they are, several
            files are one run, or no scan has a row in the participants table.
    """

    kind = SERIES

    def __init__(
        self,
        folder: str | Path,
        *,
        roi_order: ROIOrder | None = None,
        n_rois: int | None = None,
        t_r: float | None = None,
        time_axis: int | None = None,
        key: str | None = None,
        atlas: str | Path | None = None,
        atlas_names: Any = None,
        cleaning: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if is_url(folder):
            folder = local_copy(folder, Path(datasets.config.HF_DATASETS_CACHE))
        if Path(folder).is_file() and str(folder).lower().endswith(HDF5_SUFFIXES):
            folder, options["pattern"] = Path(folder).parent, glob.escape(Path(folder).name)
        tables = str(atlas) if atlas is not None and has_tables_of(Path(folder), str(atlas)) else None
        atlas = None if tables is not None else atlas
        if cleaning and atlas is None:
            raise ValueError("Expected cleaning with BOLD images and an atlas, got no atlas. Leave it out for series.")
        if time_axis not in (None, 0, 1):
            raise ValueError(f"Expected time_axis to be 0 or 1, got {time_axis!r}.")
        self._atlas: Any = None
        if atlas is not None:
            from .atlas_images import read_atlas

            name = None if roi_order is None else resolve_roi_order(roi_order).name or "a list"
            if str(atlas) in ROI_ORDERS and name not in (None, str(atlas)) and not Path(atlas).exists():
                raise ValueError(
                    f"The atlas {atlas} has its parcels in the order of its name, but roi_order is {name!r}. Use "
                    f"roi_order={str(atlas)!r} (--roi-order)."
                )
            self._atlas = read_atlas(atlas, atlas_names)
            roi_order = _order_of_atlas(self._atlas, atlas) if roi_order is None else roi_order
        if roi_order is not None:
            n_rois = _checked_size(roi_order, n_rois, time_axis)
        sources = [file for file in (atlas, atlas_names) if isinstance(file, (str, Path))]
        if self._atlas is not None and roi_order is not None:
            _check_atlas(self._atlas, str(atlas), roi_order, n_rois)
            images = "bold" if self._atlas.models is None else DENSE_SUFFIX
        if cleaning and "confounds" in cleaning:
            sources += sorted(Path(folder).rglob("*desc-confounds*.tsv"))
        super().__init__(
            folder,
            images=None if self._atlas is None else images,
            sources=sources,
            atlas=tables,
            roi_order=roi_order,
            options={
                "roi_order": None if roi_order is None else roi_order_text(roi_order),
                "n_rois": n_rois,
                "t_r": None if t_r is None else check_t_r(t_r, "t_r (--t-r)"),
                "time_axis": time_axis,
                "key": key,
                "atlas": None if atlas is None else str(atlas),
                "atlas_sha256": None if self._atlas is None else self._atlas.sha256,
                "atlas_names": None if atlas_names is None else digest(atlas_names),
                "cleaning": dict(cleaning or {}),
            },
            **options,
        )
        if roi_order is None and self.config.files:
            self._ask_for_order()

    def _ask_for_order(self) -> None:
        """Ask for the order once, instead of for every file, where the first one tells none."""
        name = next(name for names in self.config.files.values() for name in names)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.read(Path(self.config.folder) / name)
        except OrderNotToldError as error:
            total = sum(map(len, self.config.files.values()))
            raise ValueError(
                f"{self.config.folder}: roi_order (--roi-order) is missing. {total} scans do not tell the order of "
                f"their parcels (first: {name}{_told(error)}). Use one of {', '.join(ROI_ORDERS)}, or the list of "
                "labels (a text file with one a line)."
            ) from error
        except ROISeriesReadError:
            return  # which is told with the others

    def read(self, path: Path) -> dict[str, Any]:
        """The series of a scan: of a file, of tables of one run, of a run in a file, or averaged over the atlas."""
        how = self.config.options
        provenance = None
        parts = self._parts.get(path.relative_to(self.config.folder).as_posix(), ScanParts(()))
        files = [Path(self.config.folder) / name for name in parts.files] or [path]
        if how["t_r"] is not None:
            refuse_other_t_r(files[0], how["t_r"])
        if self._atlas is not None:
            from .parcellation import parcellate, provenance_text

            n_rois = how["n_rois"] if self._atlas.labels is None else None
            series = parcellate(files[0], self._atlas, n_rois=n_rois, t_r=how["t_r"], **how["cleaning"])
            signals, kept = censored(files[0], series.signals)
            if series.frame_mask is not None:
                kept = series.frame_mask.astype(bool) & (True if kept is None else kept)
            series = replace(series, signals=signals, frame_mask=kept)
            series = in_order(path, series, how["roi_order"], how["n_rois"])
            provenance = provenance_text(series, files[0])
        elif parts.row is not None:
            series = _row_of(files[0], parts.row, how["t_r"], {name: how[name] for name in ("roi_order", "n_rois")})
        else:
            wanted = {name: how[name] for name in ("roi_order", "n_rois")}
            options = {name: how[name] for name in ("t_r", "time_axis", "key")}
            if len(files) == 1:
                series = read_roi_series(files[0], **wanted, **options)
            else:
                series = joined(files, [read_roi_series(file, **options) for file in files], **wanted)
        if series.roi_order is None:
            raise OrderNotToldError(
                f"{path}: expected labels of {len(series.signals)} rows, got none. Give roi_order (--roi-order)."
            )
        if not tells_parcels(series.roi_labels) and (wrong := contradicted_edition(series.signals, series.roi_order)):
            raise ROISeriesReadError(
                f"{path}: {wrong}. The editions hold the same parcels in other rows: give the right roi_order "
                "(--roi-order), or rename the file if its name is wrong."
            )
        signals, kept = series.signals, series.frame_mask
        if parts.run is not None:
            frames = parts.frames(Path(self.config.folder), signals.shape[1])
            signals, kept = np.ascontiguousarray(signals[:, frames]), None if kept is None else kept[frames]
        return {
            "provenance": provenance,
            "signals": signals,
            "n_rois": signals.shape[0],
            "n_timepoints": signals.shape[1],
            "t_r": how["t_r"] if how["t_r"] is not None else series.t_r,
            "roi_order": series.roi_order,
            "frame_mask": np.zeros(0, bool) if kept is None or kept.all() else kept,
        }


def _row_of(path: Path, row: int, t_r: float | None, wanted: dict[str, Any]) -> ROISeries:
    """A scan of an HDF5 file in the layout of the Brain-Semantoks authors, without the padding at its end."""
    from .semantoks_hdf5 import measured_length, open_recordings

    recordings = open_recordings(path)
    recording = recordings[row]
    signals = np.ascontiguousarray(recording.signals[:, : measured_length(recording)])
    if signals.shape[1] < 2:
        raise ROISeriesReadError(f"{path}: scan {row} ({recording.subject}) has no measured timepoints.")
    order = recordings.roi_order
    labels = None if order is None else resolve_roi_order(order).labels
    return in_order(path, ROISeries(signals, labels, t_r), **wanted)


def _told(error: Exception) -> str:
    shape = re.search(r"axis of (\(.*?\))|labels of (\d+) rows", str(error))
    return f", {shape[0].removeprefix('axis of ').removeprefix('labels of ')}" if shape else ""


def _order_of_atlas(atlas: Any, asked: str | Path) -> str:
    """The order of the parcels of a label image: by their names, that of the file, or where they lie.

    Raises:
        ValueError: if nothing tells.
    """
    from .atlas_images import check_atlas_order

    if atlas.labels is not None:
        return order_of_labels(atlas.labels)
    if str(asked) in ROI_ORDERS:
        return str(asked)
    declared, n_rois = declared_order(Path(asked).name), len(atlas.ids)
    if declared is not None and n_rois_of(declared) == n_rois:
        return declared
    for order in (*ROI_ORDERS, *ATLASES):
        if n_rois_of(order) == n_rois and np.isfinite(label_centres(order)).all():
            with contextlib.suppress(ROISeriesReadError):
                check_atlas_order(atlas, order, str(asked))
                return order
    raise ValueError(
        f"{asked}: roi_order (--roi-order) is missing: the label image does not tell the names of its {n_rois} "
        f"parcels. Use one of {', '.join(ROI_ORDERS)}, the list of labels (a text file with one a line), or a "
        "table of numbers and names (atlas_names, --atlas-names)."
    )


def _check_atlas(atlas: Any, asked: str | Path, roi_order: ROIOrder, n_rois: int | None) -> None:
    """Refuse a label image that does not hold the parcels of an order, or holds them elsewhere."""
    from .atlas_images import check_atlas_order

    if atlas.labels is not None and (matched_rows(atlas.labels, resolve_roi_order(roi_order).labels) >= 0).any():
        check_atlas_order(atlas, atlas.labels, str(asked))  # whose rows are put into the order
        return
    highest = len(atlas.ids)
    if n_rois is not None and highest != n_rois:
        raise ValueError(
            f"{asked}: the label image goes up to label {highest}, but roi_order has {n_rois} parcels. "
            "Use the label image that belongs to the roi_order."
        )
    check_atlas_order(atlas, roi_order, str(asked))


def _checked_size(roi_order: ROIOrder, n_rois: int | None, time_axis: int | None) -> int | None:
    """The number of ROIs; refuses an order that is most likely a misspelt known one.

    Raises:
        ValueError: if sizes contradict each other, or an unknown name looks like a known order or has no size.
    """
    resolved = resolve_roi_order(roi_order)
    if n_rois is not None and (isinstance(n_rois, bool) or not isinstance(n_rois, int) or n_rois < 1):
        raise ValueError(f"Expected n_rois (--n-rois) to be a whole number from 1 up, got {n_rois!r}.")
    if resolved.known:
        return n_rois_of(roi_order, n_rois)
    name = str(resolved.name)
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    near = []
    for order in (*ROI_ORDERS, "tian-s3", "buckner7"):
        known = re.sub(r"[^a-z0-9]", "", order)
        alike = difflib.SequenceMatcher(None, plain, known).ratio() > 0.75 or (len(plain) > 3 and plain in known)
        # schaefer100-7net of 100 parcels is another order; schafer400-7net of 400 is not.
        same_size = n_rois is not None and n_rois == n_rois_of(order)
        numbers, sizes = re.findall(r"\d+", name), re.findall(r"\d+", order)
        # schaefer400 alone, which may be either order of its networks
        begun = n_rois is None and numbers and "+" not in order and numbers == sizes[: len(numbers)]
        if alike and (same_size or numbers == sizes or begun):
            near.append(order)
    if near or (n_rois is None and time_axis is None):
        fix = f"Did you mean {' or '.join(near)}?" if near else f"Known are {', '.join(ROI_ORDERS)}."
        raise ValueError(
            f"roi_order {name!r} (--roi-order) is not known. {fix} For an order of your own give the list of its "
            + ("labels, or a name that is less like these." if near else "labels, or n_rois (--n-rois) with its name.")
        )
    return n_rois


# --- the front door ---


def load_dataset(
    path: str | Path | Any,
    *,
    roi_order: ROIOrder | None = None,
    t_r: float | None = None,
    split: str | None = None,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    streaming: bool = False,
    **options: Any,
) -> Any:
    """Load scans as an Arrow dataset in numpy format: one row a scan.

    Args:
        path: a folder of ROI series, or a folder that `brain-transformers prepare`, `save_to_disk` or
            [`export_parquet`](brain_transformers.data.export_parquet) wrote; or a layout of pybids, whose files are
            taken.
        roi_order: order of the rows; by default what the files tell. For a saved dataset it is checked.
        t_r: repetition time in seconds; by default what the files say. For a saved dataset it is checked.
        split: `"train"`, `"validation"` or `"test"`, for folders with sub-folders of these names.
        cache_dir: where to put the Arrow files.
        num_proc: processes that read files.
        streaming: read rows as they are asked for, of a dataset that is prepared; machines share them with
            `datasets.distributed.split_dataset_by_node`.
        options: further options of `ROISeriesFolderBuilder`: n_rois, pattern, name_pattern, participants, time_axis,
            key, atlas, cleaning, on_error.

    Returns:
        A `Dataset` (`IterableDataset` if streaming); a dictionary of those if the folder has several splits and none
        was chosen.

    Raises:
        ValueError: if files tell no order and roi_order is missing, or roi_order, t_r or options contradict a saved
            dataset.
        ROISeriesReadError: if files could not be read; the message lists all of them.
    """
    if hasattr(path, "get_files"):
        path, options["listing"] = files_of_layout(path)
    folder = Path(path)
    prepared = is_saved(folder) or bool(parquet_files(folder))
    if prepared or streaming:
        if options:
            raise ValueError(
                f"{path} is a dataset that is prepared already, so {', '.join(sorted(options))} would change nothing. "
                "Leave them out, or load the folder of scans."
            )
        if streaming or not is_saved(folder):
            return load_export(folder, split, streaming, cache_dir)
        return load_saved(folder, roi_order, split, t_r)
    builder = ROISeriesFolderBuilder(folder, roi_order=roi_order, t_r=t_r, cache_dir=cache_dir, **options)
    names = list(builder.config.files)
    if split is not None and split not in names:
        raise ValueError(f"Expected split to be one of {names} for {path}, got {split!r}.")
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split or (names[0] if len(names) == 1 else None))


def load_coordinates(path: str | Path, *, n_rois: int | None = 424) -> datasets.Dataset:
    """Load parcel centres as a dataset with columns `index`, `x`, `y`, `z` (mm MNI) in numpy format.

    Args:
        path: a table that `read_coordinates` reads, such as `A424_Coordinates.dat`.
        n_rois: number of rows that is expected; `None` takes any.

    Raises:
        ROISeriesReadError: if the table is not one of coordinates.
    """
    table = read_coordinates(path, n_rois=n_rois)
    columns = {"index": np.arange(1, len(table) + 1), **dict(zip("xyz", table.T))}
    return datasets.Dataset.from_dict(columns).with_format("numpy")


def dataset_from_arrays(
    signals: Sequence[np.ndarray],
    *,
    roi_order: ROIOrder,
    t_r: float | Sequence[float] | None = None,
    subject: Sequence[str] | None = None,
    session: Sequence[str] | None = None,
    run: Sequence[str] | None = None,
    frame_mask: Sequence[Any] | None = None,
    **columns: Sequence[Any],
) -> datasets.Dataset:
    """Make the same dataset from arrays in memory.

    Args:
        signals: scans, each (n_rois, n_timepoints).
        roi_order: order of their rows.
        t_r: repetition time in seconds, one or one a scan.
        subject, session, run: names, one a scan.
        frame_mask: for each scan (n_timepoints,), 1 for frames that count and 0 for those that were cut, or `None`.
        columns: further columns, such as `age=[...]`.

    Raises:
        ValueError: if arrays are not 2-D, do not fit the order, or a column has another length.
    """
    n_scans = len(signals)
    if not n_scans:
        raise ValueError("Expected at least one scan, got none.")
    expected = n_rois_of(roi_order)
    arrays = []
    for number, scan in enumerate(signals):
        array = np.asarray(scan)
        if array.ndim != 2 or (expected and array.shape[0] != expected) or array.shape[1] < 2:
            shape = f"({expected or 'n_rois'}, n_timepoints)"
            raise ValueError(
                f"Expected scan {number} of shape {shape}, got {array.shape}. Pass scan.T if it is transposed."
            )
        if array.dtype.kind not in "fiub":
            raise ValueError(f"Expected scan {number} of real numbers, got dtype {array.dtype}.")
        arrays.append(np.ascontiguousarray(array, dtype=np.float32))
    if computed := sorted({"signals", "n_rois", "n_timepoints", "subject_known"} & set(columns)):
        raise ValueError(f"Column {computed[0]} comes from the scans themselves. Give yours another name.")
    masks = [None] * n_scans if frame_mask is None else list(frame_mask)
    for number, (mask, array) in enumerate(zip(masks, arrays)):
        frames_that_count(mask, array.shape[1], f"scan {number}")
    cells: dict[str, Any] = {
        **{name: [None] * n_scans for name in NAME_COLUMNS},
        "signals": arrays,
        "n_rois": [array.shape[0] for array in arrays],
        "n_timepoints": [array.shape[1] for array in arrays],
        "t_r": [known_t_r(value) for value in (t_r if isinstance(t_r, (Sequence, np.ndarray)) else [t_r] * n_scans)],
        "roi_order": [roi_order_text(roi_order)] * n_scans,
        "subject": subject if subject is not None else [str(number) for number in range(n_scans)],
        "subject_known": [subject is not None] * n_scans,
        "source_file": [""] * n_scans,
        "frame_mask": [np.zeros(0, bool) if mask is None else np.asarray(mask).astype(bool) for mask in masks],
        **{name: values for name, values in (("session", session), ("run", run)) if values is not None},
        **columns,
    }
    for name, values in cells.items():
        if len(values) != n_scans:
            raise ValueError(f"Expected {n_scans} values in {name}, got {len(values)}.")
    own = SERIES.features()
    extra = pa.table({name: pa.array(list(values)) for name, values in columns.items() if name not in own})
    features = SERIES.features(datasets.Features.from_arrow_schema(extra.schema))
    table = datasets.table.InMemoryTable(arrow_table(cells, features))
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features)).with_format("numpy")
