"""From folders of scans to Arrow datasets: one row a scan, in its own order, repetition time and units.

`signals` is one flat float32 list a row, next to `n_rois` and `n_timepoints`: with the numpy format that reads as fast
as a memory map, while nested lists cost a hundred times more.
"""

import contextlib
import difflib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import digest, no_space
from ..optional import require
from ..processing import roi_orders
from ..processing.roi_orders import ROI_ORDERS, ROIOrder, resolve_roi_order, roi_order_text
from ..processing.time import check_t_r, known_t_r
from ..version import __version__
from .derivatives import FoundScans, find_scans
from .errors import ROISeriesReadError
from .participants import Participants, read_participants
from .readers import ROISeries, read_coordinates, read_roi_series
from .saved_datasets import check_arrow_file, is_saved, load_saved
from .scan_names import NAME_COLUMNS, SPLITS
from .sidecars import scan_t_r

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from datasets.builder import Key
else:
    # Base classes come from here, so whoever imports this module needs them, and learns which extra brings them.
    datasets = require("datasets", extra="data", purpose="datasets of scans")
    pa = require("pyarrow", extra="data", purpose="datasets of scans")
    Key = require("datasets.builder", extra="data", purpose="datasets of scans").Key

_MAX_LISTED = 20
# Relative difference of repetition times that is worth a word.
_T_R_TOLERANCE = 0.005


def _scan_features(extra: Mapping[str, Any]) -> datasets.Features:
    return datasets.Features(
        {
            "signals": datasets.List(datasets.Value("float32")),
            "n_rois": datasets.Value("int64"),
            "n_timepoints": datasets.Value("int64"),
            "t_r": datasets.Value("float64"),
            "roi_order": datasets.Value("string"),
            **{column: datasets.Value("string") for column in NAME_COLUMNS},
            "subject_known": datasets.Value("bool"),
            "source_file": datasets.Value("string"),
            **extra,
        }
    )


def _signals_column(arrays: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.cumsum([0, *(array.size for array in arrays)])
    flat = np.concatenate([array.reshape(-1) for array in arrays]) if len(arrays) != 1 else arrays[0].reshape(-1)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, pa.float32()))


# --- builders ---


@dataclass
class ROISeriesConfig(datasets.BuilderConfig):
    """Options of `ROISeriesFolderBuilder`; see there."""

    folder: str = ""
    files: dict[str, list[str]] = field(default_factory=dict)
    fingerprint: str = ""
    roi_order: str = ""
    n_rois: int | None = None
    t_r: float | None = None
    time_axis: int | None = None
    key: str | None = None
    name_pattern: str | None = None
    atlas: str | None = None
    cleaning: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def told_as_itself() -> Iterator[None]:
    """A damaged file or a missing optional package is told as such, not as a failure of the builder."""
    try:
        yield
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, (ImportError, ROISeriesReadError)):
            raise error.__cause__ from None
        raise


class ROISeriesFolderBuilder(datasets.ArrowBasedBuilder):
    """Build an Arrow dataset from a folder of ROI series, or of 4-D BOLD images and an atlas.

    Rows hold `signals` (flat float32, reshape to (n_rois, n_timepoints)), `n_rois`, `n_timepoints`, `t_r` (seconds,
    NaN if unknown), `roi_order`, what the name says (`subject`, `session`, `run`, `task`, `acq`, `dir`, `space`,
    `desc`), `subject_known` (false where a file counts as a person, since nothing says whose scan it is),
    `source_file` and the columns of participants.tsv. The cache is rebuilt when any file, or this package, changes.

    Which files are scans is told by their names: tables of BIDS and XCP-D that are no series are left out, and images
    that are not in the atlas's space; several images of one run are refused. `left_out` names the files and reasons,
    `notes` holds what was warned of.

    A file that cannot be read does not cost the others: all are read, and then `as_dataset` raises one error that
    lists the bad ones (`on_error="raise"`), or leaves them out with a warning (`on_error="skip"`; they are in
    `skipped`).

    Args:
        folder: where the files are, at any depth. Sub-folders train, validation (or val) and test become splits.
        roi_order: order of the files' ROIs.
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
        atlas: label image or name, for 4-D BOLD images; see `parcellate`.
        cleaning: what else `parcellate` does with images, such as `{"confounds": {"strategy": ["motion", "wm_csf"]},
            "low_pass": 0.1}`; nothing by default.
        on_error: `"raise"` or `"skip"`.
        cache_dir: where to put the Arrow files.

    Raises:
        FileNotFoundError: if the folder or files of a known format are missing.
        ValueError: if an option does not exist or contradicts another, it cannot be told whose scans they are, several
            files are one run, or no scan has a row in the participants table.
    """

    BUILDER_CONFIG_CLASS = ROISeriesConfig
    # Rows are megabytes; the default of 1000 would hold gigabytes before writing.
    DEFAULT_WRITER_BATCH_SIZE = 16

    def __init__(
        self,
        folder: str | Path,
        *,
        roi_order: ROIOrder,
        n_rois: int | None = None,
        t_r: float | None = None,
        pattern: str | None = None,
        name_pattern: str | None = None,
        participants: str | Path | None = None,
        time_axis: int | None = None,
        key: str | None = None,
        atlas: str | Path | None = None,
        cleaning: Mapping[str, Any] | None = None,
        on_error: str = "raise",
        cache_dir: str | Path | None = None,
    ) -> None:
        if cleaning and atlas is None:
            raise ValueError("Expected cleaning with BOLD images and an atlas, got no atlas. Leave it out for series.")
        if on_error not in ("raise", "skip"):
            raise ValueError(f'Expected on_error to be "raise" or "skip", got {on_error!r}.')
        if time_axis not in (None, 0, 1):
            raise ValueError(f"Expected time_axis to be 0 or 1, got {time_axis!r}.")
        root = Path(folder).resolve()
        if not root.is_dir():
            if root.is_file():
                raise NotADirectoryError(f"{folder} is a file; give the folder with the scans, such as {root.parent}.")
            raise FileNotFoundError(f"{folder}: there is no such folder.")
        n_rois = _checked_size(roi_order, n_rois, time_axis)
        default = root / "participants.tsv"
        table = Path(participants) if participants is not None else default if default.is_file() else None
        taken = {*_scan_features({}), "read_error"}
        people = read_participants(table, taken)
        found = find_scans(
            root,
            images=atlas is not None,
            pattern=pattern,
            name_pattern=name_pattern,
            participants=set(people.sessions),
            other_files=[Path(file) for file in (table, atlas) if file is not None],
            skip_unusable=on_error == "skip",
        )
        self._participants = read_participants(table, taken, found.sessions) if found.sessions else people
        self.left_out, self.notes = found.left_out, [*found.notes, *self._participants.notes]
        self._names, self._unusable = found.names, found.unusable
        self._match_participants(root, found, table)
        if table is None and (other := _other_table(root)) is not None:
            self.notes.append(
                f"{other} is not used. If it is of these people, pass it as participants (--participants)."
            )
        if self._unusable and on_error == "raise":
            raise ROISeriesReadError(_listed(self._unusable.values(), len(found.names)))
        self._on_error = on_error
        self.skipped: dict[str, str] = {}
        self._atlas_image = None if atlas is None else self._load_atlas(atlas, roi_order, n_rois)
        sources = [root / name for names in found.files.values() for name in names]
        sources += [*found.sidecars, *_outer_sidecars(root), *found.sessions]
        if cleaning and "confounds" in cleaning:
            sources += sorted(root.rglob("*desc-confounds*.tsv"))
        if atlas is not None and Path(atlas).is_file():
            sources.append(Path(atlas).resolve())
        t_r = None if t_r is None else check_t_r(t_r, "t_r (--t-r)")
        try:
            super().__init__(
                cache_dir=None if cache_dir is None else str(cache_dir),
                dataset_name=re.sub(r"\W+", "_", root.name) or "scans",
                folder=str(root),
                files=found.files,
                fingerprint=_fingerprint(root, sources + ([table] if table is not None else [])),
                roi_order=roi_order_text(roi_order),
                n_rois=n_rois,
                t_r=t_r,
                time_axis=time_axis,
                key=key,
                name_pattern=name_pattern,
                atlas=None if atlas is None else str(atlas),
                cleaning=dict(cleaning or {}),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # The description of an earlier call's cache is read here.
            place = cache_dir if cache_dir is not None else datasets.config.HF_DATASETS_CACHE
            raise ROISeriesReadError(
                f"{place}: the cache of {root} cannot be read ({type(error).__name__}: {error}). Delete it, or choose "
                "another cache_dir, and call this again."
            ) from error
        for note in self.notes:
            warnings.warn(note, UserWarning, stacklevel=2)

    def _match_participants(self, root: Path, found: FoundScans, table: Path | None) -> None:
        """Note scans without values of their person; refuse a table that says nothing of any scan."""
        if not self._participants.rows:
            return
        unmatched, n_scans = [], 0
        for name in (name for names in found.files.values() for name in names):
            said = found.names[name].columns
            try:
                values = self._participants.values(said["subject"], said["session"])
            except ROISeriesReadError as error:
                found.unusable[name] = f"{root / name}: {error}"
                continue
            n_scans += 1
            if values is None:
                unmatched.append(f"{said['subject']}" + (f" (session {said['session']})" if said["session"] else ""))
        missing = sorted(set(unmatched))
        if not missing:
            return
        hint = self._hint_on_ids(missing)
        if len(unmatched) == n_scans and table is not None:
            raise ValueError(
                f"{table}: none of {n_scans} scans has a row in it. The scans are of {', '.join(missing[:5])}; the "
                f"table has {', '.join(_row_names(self._participants)[:5])}. {hint}Make the names the same, say where "
                "the subject stands in the path with name_pattern (--name-pattern), or move the table away."
            )
        self.notes.append(
            f"{len(missing)} subjects have no row in the participants table (first: {missing[:5]}); their columns are "
            f"empty. {hint}".rstrip()
        )

    @property
    def people(self) -> set[str]:
        """Subjects of the participants table, without `sub-`."""
        return set(self._participants.sessions)

    def _hint_on_ids(self, missing: list[str]) -> str:
        """What may be wrong with identifiers that nearly match."""
        near = {name.lstrip("0").lower(): name for name in self._participants.sessions}
        for name in (person.split(" (session", 1)[0] for person in missing):
            if (other := near.get(name.lstrip("0").lower())) not in (None, name):
                return f"{other} of the table may be {name} (a spreadsheet drops zeros in front). "
        return ""

    @staticmethod
    def _load_atlas(atlas: str | Path, roi_order: ROIOrder, n_rois: int | None) -> Any:
        from .parcellation import check_atlas_order, load_atlas

        name = resolve_roi_order(roi_order).name
        if str(atlas) in ROI_ORDERS and name != str(atlas) and not Path(atlas).exists():
            raise ValueError(
                f"The atlas {atlas} has its parcels in the order of its name, but roi_order is {name or 'a list'!r}. "
                f"Use roi_order={str(atlas)!r} (--roi-order)."
            )
        image = load_atlas(atlas)
        highest = int(np.asarray(image.dataobj).max())
        if n_rois is not None and highest != n_rois:
            raise ValueError(
                f"{atlas}: the label image goes up to label {highest}, but roi_order has {n_rois} parcels. "
                "Use the label image that belongs to the roi_order."
            )
        check_atlas_order(image, roi_order, str(atlas))
        return image

    def _info(self) -> datasets.DatasetInfo:
        kinds = {column: datasets.Value(kind) for column, kind in self._participants.kinds.items()}
        extra = {**kinds, "read_error": datasets.Value("string")}
        return datasets.DatasetInfo(features=_scan_features(extra))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        # Only `files` is a list here: num_proc splits every list of these arguments.
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"files": list(names)})
            for split, names in self.config.files.items()
        ]

    def _generate_shards(self, files: list[str]) -> Iterator[str]:
        yield from files

    def _generate_tables(self, files: list[str]) -> Iterator[tuple[Key, pa.Table]]:
        schema = self.info.features.arrow_schema
        for number, name in enumerate(files):
            path = Path(self.config.folder) / name
            error, series = self._unusable.get(name, ""), ROISeries(np.empty((0, 0), dtype=np.float32))
            try:
                series = series if error else self._read(path)
            except ROISeriesReadError as problem:
                error = str(problem)
            except ImportError:
                raise  # a missing package, not a bad file
            except Exception as problem:
                if no_space(problem):
                    raise
                # What a reader did not foresee costs this file, not the others.
                error = f"{path}: cannot be read; it may be damaged ({type(problem).__name__}: {problem})."
            said = self._names[name]
            person = {} if error else self._participants.values(said.columns["subject"], said.columns["session"]) or {}
            cells: dict[str, Any] = {
                "n_rois": series.signals.shape[0],
                "n_timepoints": series.signals.shape[1],
                "t_r": self.config.t_r if self.config.t_r is not None else series.t_r,
                "roi_order": self.config.roi_order,
                **said.columns,
                "subject_known": said.known,
                "source_file": name,
                **{column: person.get(column) for column in self._participants.kinds},
                "read_error": error.encode("utf-8", "replace").decode(),
            }
            columns = [
                _signals_column([series.signals])
                if item.name == "signals"
                else pa.array([cells[item.name]], item.type)
                for item in schema
            ]
            yield Key(number, 0), pa.Table.from_arrays(columns, schema=schema)

    def _read(self, path: Path) -> ROISeries:
        config = self.config
        if config.t_r is not None:
            _refuse_other_t_r(path, config.t_r)
        if self._atlas_image is not None:
            from .parcellation import parcellate

            options = {"n_rois": config.n_rois, "t_r": config.t_r, **config.cleaning}
            return parcellate(path, self._atlas_image, **options)
        series = read_roi_series(
            path,
            roi_order=config.roi_order,
            n_rois=config.n_rois,
            t_r=config.t_r,
            time_axis=config.time_axis,
            key=config.key,
        )
        _refuse_matrix(path, series.signals)
        return series

    def download_and_prepare(self, *args: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        """Read the files and write the Arrow cache, with up to `num_proc` processes.

        Raises:
            ImportError: if a format needs a package that is not installed.
        """
        longest = max(len(files) for files in self.config.files.values())
        num_proc = None if num_proc is None or min(num_proc, longest) < 2 else min(num_proc, longest)
        with told_as_itself():
            super().download_and_prepare(*args, num_proc=num_proc, **kwargs)

    def as_dataset(self, *args: Any, **kwargs: Any) -> datasets.Dataset | datasets.DatasetDict:
        """The dataset in numpy format, or a dictionary of splits; bad files are reported or left out here.

        Raises:
            ROISeriesReadError: if files could not be read and `on_error="raise"`, or none could.
        """
        self.skipped = {}
        fix = f"Delete the folder {self.cache_dir}, which is a cache, and call this again."
        try:
            result = super().as_dataset(*args, **kwargs)
        except (pa.ArrowException, OSError) as error:
            raise ROISeriesReadError(f"{self.cache_dir}: the cache cannot be read ({error}). {fix}") from error
        names = list(result) if isinstance(result, dict) else [""]
        splits = list(result.values()) if isinstance(result, dict) else [result]
        for file in (file["filename"] for dataset in splits for file in dataset.cache_files):
            check_arrow_file(Path(file), fix)
        for dataset in splits:
            for name, problem in zip(column_of(dataset, "source_file"), column_of(dataset, "read_error")):
                if problem:
                    self.skipped[name] = problem
        total = sum(len(dataset) for dataset in splits)
        if self.skipped:
            everything_is_bad = len(self.skipped) == total
            if self._on_error == "raise" or everything_is_bad:
                hint = "" if everything_is_bad else ' on_error="skip" (--on-error skip) goes on without these.'
                raise ROISeriesReadError(_listed(self.skipped.values(), total, hint))
            listing = _listed(self.skipped.values(), total).replace("cannot be used.", "were left out:", 1)
            warnings.warn(listing, UserWarning, stacklevel=2)
        good = {split: self._good_rows(dataset) for split, dataset in zip(names, splits)}
        _say_t_r([value for dataset in good.values() for value in column_of(dataset, "t_r")])
        return datasets.DatasetDict(good) if isinstance(result, dict) else good[names[0]]

    def _good_rows(self, dataset: datasets.Dataset) -> datasets.Dataset:
        errors = column_of(dataset, "read_error")
        dataset = dataset.remove_columns("read_error")
        if any(errors):
            dataset = dataset.select([row for row, error in enumerate(errors) if not error])
        return dataset.with_format("numpy")


def _checked_size(roi_order: ROIOrder, n_rois: int | None, time_axis: int | None) -> int | None:
    """The number of ROIs; refuses an order that is most likely a misspelt known one.

    Raises:
        ValueError: if sizes contradict each other, or an unknown name looks like a known order or has no size.
    """
    resolved = resolve_roi_order(roi_order)
    if n_rois is not None and (isinstance(n_rois, bool) or not isinstance(n_rois, int) or n_rois < 1):
        raise ValueError(f"Expected n_rois (--n-rois) to be a whole number from 1 up, got {n_rois!r}.")
    if resolved.known:
        if n_rois is not None and n_rois != len(resolved.labels):
            raise ValueError(
                f"roi_order has {len(resolved.labels)} ROIs but n_rois is {n_rois}. Give one of them, or make them "
                "agree."
            )
        return len(resolved.labels)
    name = str(resolved.name)
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    near = []
    for order in (*ROI_ORDERS, "tian-s3", "buckner7"):
        known = re.sub(r"[^a-z0-9]", "", order)
        alike = difflib.SequenceMatcher(None, plain, known).ratio() > 0.75 or (len(plain) > 3 and plain in known)
        # schaefer100-7net of 100 parcels is another order; schafer400-7net of 400 is not.
        same_size = n_rois is not None and n_rois == len(resolve_roi_order(order).labels)
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


def _other_table(root: Path) -> Path | None:
    """A participants table near the folder, such as that of the BIDS dataset whose derivatives it holds."""
    places = [*list(root.parents)[:3], *(root / split for split in SPLITS)]
    return next((place / "participants.tsv" for place in places if (place / "participants.tsv").is_file()), None)


def _row_names(people: Participants) -> list[str]:
    return [f"{subject} (session {session})" if session else subject for subject, session in people.rows]


def _listed(errors: Iterable[str], total: int, hint: str = "") -> str:
    lines = list(errors)
    shown = lines[:_MAX_LISTED] + ([f"... and {len(lines) - _MAX_LISTED} more"] if len(lines) > _MAX_LISTED else [])
    return f"{len(lines)} of {total} files cannot be used.{hint}\n  " + "\n  ".join(shown)


def _refuse_other_t_r(path: Path, t_r: float) -> None:
    """Refuse a repetition time that contradicts a sidecar; headers are often wrong, and are only warned of."""
    try:
        told = scan_t_r(path)
    except ROISeriesReadError:
        return  # a damaged sidecar: the reader warns, and takes what is given
    if told is not None and abs(told - t_r) > 1e-3:
        raise ROISeriesReadError(
            f"{path}: expected one repetition time, got t_r={t_r:g} s (--t-r) and {told:g} s from its sidecar. Leave "
            "t_r out, or repair the sidecar."
        )


def _refuse_matrix(path: Path, signals: np.ndarray) -> None:
    """Refuse a matrix of ROIs by ROIs: no recording has as many timepoints as ROIs and is its own mirror image, has
    one value along its diagonal, or nothing on one side of it."""
    if not signals.shape[0] == signals.shape[1] > 2:
        return
    diagonal, filled = np.diag(signals), np.nan_to_num(signals)
    mirrored = np.allclose(signals, signals.T, rtol=1e-4, atol=1e-5, equal_nan=True)
    one_value = np.isnan(diagonal).all() or bool((np.abs(diagonal - diagonal[0]) < 1e-5).all())
    one_sided = not np.triu(filled, 1).any() or not np.tril(filled, -1).any()
    if mirrored or one_value or one_sided:
        ones = bool((np.abs(diagonal - 1) < 1e-3).all())
        kind = "correlation matrix" if ones else "symmetric matrix" if mirrored else "matrix"
        raise ROISeriesReadError(
            f"{path}: expected a series in time, got a {kind} of {len(signals)} ROIs. Leave such files out with "
            "pattern (--pattern)."
        )


def _say_t_r(values: Sequence[float | None]) -> None:
    """Warn where scans differ in their repetition time, or some have none."""
    known = [value for value in values if value is not None and value == value]
    if not known:
        return
    counts = Counter(known)
    parts = [f"{count} have {value:g} s" for value, count in counts.most_common(5)]
    parts += [f"{len(values) - len(known)} have none"] if len(known) < len(values) else []
    if len(known) < len(values) or max(known) - min(known) > _T_R_TOLERANCE * min(known):
        warnings.warn(
            f"The scans differ in their repetition time: {', '.join(parts)}. Each row keeps its own.",
            UserWarning,
            stacklevel=3,
        )


@dataclass
class CoordinatesConfig(datasets.BuilderConfig):
    """Options of `CoordinatesBuilder`; see there."""

    path: str = ""
    fingerprint: str = ""
    n_rois: int | None = None


class CoordinatesBuilder(datasets.ArrowBasedBuilder):
    """Build the dataset of parcel centres, columns `index` (1, 2, ...), `x`, `y`, `z` (mm MNI), one row a parcel.

    Args:
        path: a table that `read_coordinates` reads.
        n_rois: number of rows that is expected; `None` takes any.
        cache_dir: where to put the Arrow file.
    """

    BUILDER_CONFIG_CLASS = CoordinatesConfig

    def __init__(self, path: str | Path, *, n_rois: int | None = 424, cache_dir: str | Path | None = None) -> None:
        table = Path(path).resolve()
        if not table.is_file():
            raise FileNotFoundError(f"{path}: there is no such table of coordinates.")
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            dataset_name="coordinates",
            path=str(table),
            n_rois=n_rois,
            fingerprint=_fingerprint(table.parent, [table]),
        )

    def _info(self) -> datasets.DatasetInfo:
        columns = {"index": datasets.Value("int64"), **{axis: datasets.Value("float32") for axis in "xyz"}}
        return datasets.DatasetInfo(features=datasets.Features(columns))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name="train", gen_kwargs={"paths": [self.config.path]})]

    def _generate_shards(self, paths: list[str]) -> Iterator[str]:
        yield from paths

    def _generate_tables(self, paths: list[str]) -> Iterator[tuple[Key, pa.Table]]:
        for number, path in enumerate(paths):
            table = read_coordinates(path, n_rois=self.config.n_rois)
            columns = {
                "index": np.arange(1, len(table) + 1),
                **{axis: table[:, column] for column, axis in enumerate("xyz")},
            }
            yield Key(number, 0), pa.table(columns)


# --- the front door ---


def load_dataset(
    path: str | Path,
    *,
    roi_order: ROIOrder | None = None,
    t_r: float | None = None,
    split: str | None = None,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    **options: Any,
) -> datasets.Dataset | datasets.DatasetDict:
    """Load scans as an Arrow dataset in numpy format: one row a scan.

    Args:
        path: a folder of ROI series, or a folder that `brain-transformers prepare` or `save_to_disk` wrote.
        roi_order: order of the files' ROIs. Required for a folder of series; for a saved dataset it is checked.
        t_r: repetition time in seconds; by default what the files say. For a saved dataset it is checked.
        split: `"train"`, `"validation"` or `"test"`, for folders with sub-folders of these names.
        cache_dir: where to put the Arrow files.
        num_proc: processes that read files.
        options: further options of `ROISeriesFolderBuilder`: n_rois, pattern, name_pattern, participants, time_axis,
            key, atlas, cleaning, on_error.

    Returns:
        A `Dataset`; a `DatasetDict` if the folder has several splits and none was chosen.

    Raises:
        ValueError: if roi_order is missing, or roi_order, t_r or options contradict a saved dataset.
        ROISeriesReadError: if files could not be read; the message lists all of them.
    """
    folder = Path(path)
    if is_saved(folder):
        if options:
            raise ValueError(
                f"{path} is a dataset that is prepared already, so {', '.join(sorted(options))} would change nothing. "
                "Leave them out, or load the folder of scans."
            )
        return load_saved(folder, roi_order, split, t_r)
    if roi_order is None:
        raise ValueError(
            f"{path}: roi_order is missing. Files do not tell the order of their rows; name it, for example "
            'roi_order="schaefer400-7net", or give the list of labels.'
        )
    builder = ROISeriesFolderBuilder(folder, roi_order=roi_order, t_r=t_r, cache_dir=cache_dir, **options)
    names = list(builder.config.files)
    if split is not None and split not in names:
        raise ValueError(f"Expected split to be one of {names} for {path}, got {split!r}.")
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split or (names[0] if len(names) == 1 else None))


def load_coordinates(
    path: str | Path, *, n_rois: int | None = 424, cache_dir: str | Path | None = None
) -> datasets.Dataset:
    """Load parcel centres as a dataset with columns `index`, `x`, `y`, `z` (mm MNI) in numpy format.

    Args:
        path: a table that `read_coordinates` reads, such as `A424_Coordinates.dat`.
        n_rois: number of rows that is expected; `None` takes any.
        cache_dir: where to put the Arrow file.

    Raises:
        ROISeriesReadError: if the table is not one of coordinates.
    """
    read_coordinates(path, n_rois=n_rois)  # a bad table is one clear error here, not a wrapped one from the builder
    builder = CoordinatesBuilder(path, n_rois=n_rois, cache_dir=cache_dir)
    builder.download_and_prepare()
    return builder.as_dataset(split="train").with_format("numpy")


def dataset_from_arrays(
    signals: Sequence[np.ndarray],
    *,
    roi_order: ROIOrder,
    t_r: float | Sequence[float] | None = None,
    subject: Sequence[str] | None = None,
    session: Sequence[str] | None = None,
    run: Sequence[str] | None = None,
    **columns: Sequence[Any],
) -> datasets.Dataset:
    """Make the same dataset from arrays in memory.

    Args:
        signals: scans, each (n_rois, n_timepoints).
        roi_order: order of their rows.
        t_r: repetition time in seconds, one or one a scan.
        subject, session, run: names, one a scan.
        columns: further columns, such as `age=[...]`.

    Raises:
        ValueError: if arrays are not 2-D, do not fit the order, or a column has another length.
    """
    n_scans = len(signals)
    if not n_scans:
        raise ValueError("Expected at least one scan, got none.")
    expected = len(resolve_roi_order(roi_order).labels)
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
    given: dict[str, Any] = {
        "t_r": [known_t_r(value) for value in (t_r if isinstance(t_r, (Sequence, np.ndarray)) else [t_r] * n_scans)],
        **{name: [None] * n_scans for name in NAME_COLUMNS},
        "subject": subject if subject is not None else [str(number) for number in range(n_scans)],
        "subject_known": [subject is not None] * n_scans,
        "source_file": [""] * n_scans,
        **{name: values for name, values in (("session", session), ("run", run)) if values is not None},
        **columns,
    }
    for name, values in given.items():
        if len(values) != n_scans:
            raise ValueError(f"Expected {n_scans} values in {name}, got {len(values)}.")
    text = roi_order_text(roi_order)
    fixed = {
        "n_rois": [array.shape[0] for array in arrays],
        "n_timepoints": [array.shape[1] for array in arrays],
        "roi_order": [text] * n_scans,
    }
    base = _scan_features({}).arrow_schema
    fixed.update({name: given[name] for name in base.names if name in given})
    built = {
        name: pa.chunked_array([_signals_column([array]) for array in arrays])
        if name == "signals"
        else pa.array(list(fixed[name]), base.field(name).type)
        for name in base.names
    }
    built.update({name: pa.array(list(values)) for name, values in columns.items() if name not in built})
    table = pa.table(built)
    features = datasets.Features({**datasets.Features.from_arrow_schema(table.schema), **_scan_features({})})
    info = datasets.DatasetInfo(features=features)
    return datasets.Dataset(datasets.table.InMemoryTable(table), info=info).with_format("numpy")


# --- files ---


def _outer_sidecars(root: Path) -> list[Path]:
    """JSON files above the folder, which may say something of its scans where it is a part of a BIDS dataset."""
    above = [root, *root.parents][:9]
    outermost = max(
        (number for number, place in enumerate(above) if (place / "dataset_description.json").is_file()), default=0
    )
    outermost = max([outermost, *(number + 1 for number, place in enumerate(above) if place.name.startswith("sub-"))])
    return [path for place in above[1 : outermost + 1] for path in sorted(place.glob("*.json"))]


def _fingerprint(root: Path, files: Sequence[Path]) -> str:
    """Of the files as they are on disk, and of the code that reads them, so that a repaired reader reads again."""
    room = Path(__file__).parent
    code = [
        path.read_bytes()
        for path in (*sorted(room.glob("*.py")), *sorted(Path(roi_orders.__file__).parent.glob("*.py")))
    ]
    stats = [(os.path.relpath(path, root), path.stat()) for path in files if path.exists()]
    return digest([__version__, code, [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]])


def column_of(dataset: datasets.Dataset, name: str) -> list[Any]:
    """A column of a dataset as Python values, of the rows it has now."""
    return dataset.select_columns([name]).with_format("arrow")[:].column(name).to_pylist() if len(dataset) else []
