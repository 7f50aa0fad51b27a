"""From a folder with one file a scan to an Arrow dataset with one row a scan, whatever a scan of its kind is."""

import contextlib
import os
import re
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..files import digest, no_space, to_json, write_file
from ..foreign import read_json
from ..optional import require
from ..version import __version__
from .derivatives import FoundScans, find_scans
from .errors import ROISeriesReadError
from .participants import Participants, read_participants
from .row_kinds import RowKind, arrow_table, column_of, counted
from .saved_datasets import check_arrow_file
from .scan_names import SPLITS

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
# What reading a file told, for `as_dataset`; users do not see these columns.
_TOLD = ("read_error", "read_note")


@dataclass
class ScanFolderConfig(datasets.BuilderConfig):
    """What the rows of a folder follow from; `options` are those of its kind."""

    folder: str = ""
    files: dict[str, list[str]] = field(default_factory=dict)
    fingerprint: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def told_as_itself() -> Iterator[None]:
    """A damaged file or a missing optional package is told as such, not as a failure of the builder."""
    try:
        yield
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, (ImportError, ROISeriesReadError)):
            raise error.__cause__ from None
        raise


class ScanFolderBuilder(datasets.ArrowBasedBuilder):
    """Build an Arrow dataset from a folder with one file a scan; the base class of all kinds of rows.

    A subclass sets `kind` and writes [`read`](ScanFolderBuilder.read). Rows hold the columns of the kind, what the
    name says (`subject`, `session`, `run`, `task`, `acq`, `dir`, `space`, `desc`), `subject_known` (false where a file
    counts as a person, since nothing says whose scan it is), `source_file` and the columns of participants.tsv. The
    cache is rebuilt when any file, or this package, changes.

    A file that cannot be read does not cost the others: all are read, and then `as_dataset` raises one error that
    lists the bad ones (`on_error="raise"`), or leaves them out with a warning (`on_error="skip"`; they are in
    `skipped`). What readers warn of is said once for all files. `left_out` names the files that are no scans and
    why, `notes` holds what was warned of.

    Args:
        folder: where the files are, at any depth. Sub-folders train, validation (or val) and test become splits.
        images: BIDS suffix of the images that are looked for, `None` for tables and arrays.
        options: of the kind, whatever `read` needs; they are part of the cache's name.
        pattern, name_pattern, participants, on_error, cache_dir: see [`ROISeriesFolderBuilder`].
        sources: further files that the rows follow from.
        finding: options of [`find_scans`](brain_transformers.data.derivatives.find_scans) that the kind has.
    """

    BUILDER_CONFIG_CLASS = ScanFolderConfig
    # Rows are megabytes; the default of 1000 would hold gigabytes before writing.
    DEFAULT_WRITER_BATCH_SIZE = 16
    kind: ClassVar[RowKind]

    def __init__(
        self,
        folder: str | Path,
        *,
        images: str | None,
        options: dict[str, Any],
        pattern: str | None = None,
        name_pattern: str | None = None,
        participants: str | Path | None = None,
        on_error: str = "raise",
        sources: Sequence[str | Path] = (),
        cache_dir: str | Path | None = None,
        **finding: Any,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'Expected on_error to be "raise" or "skip", got {on_error!r}.')
        root = Path(folder).resolve()
        if not root.is_dir():
            if root.is_file():
                raise NotADirectoryError(f"{folder} is a file; give the folder with the scans, such as {root.parent}.")
            raise FileNotFoundError(f"{folder}: there is no such folder.")
        default = root / "participants.tsv"
        table = Path(participants) if participants is not None else default if default.is_file() else None
        taken = {*self.kind.features(), *_TOLD}
        people = read_participants(table, taken)
        others = [Path(file) for file in (table, *sources) if file is not None]
        found = find_scans(
            root,
            images=images,
            pattern=pattern,
            name_pattern=name_pattern,
            participants=set(people.sessions),
            other_files=others,
            skip_unusable=on_error == "skip",
            **finding,
        )
        self._participants = read_participants(table, taken, found.sessions) if found.sessions else people
        self.left_out, self.notes = found.left_out, [*found.notes, *self._participants.notes]
        self._names, self._unusable, self._parts = found.names, found.unusable, found.parts
        self._match_participants(root, found, table)
        if table is None and (other := _other_table(root)) is not None:
            self.notes.append(
                f"{other} is not used. If it is of these people, pass it as participants (--participants)."
            )
        if self._unusable and on_error == "raise":
            raise ROISeriesReadError(_listed(self._unusable.values(), len(found.names)))
        self._on_error = on_error
        self.skipped: dict[str, str] = {}
        parts = [name for part in found.parts.values() for name in (*part.files, *(table for _, table in part.runs))]
        files = [root / name for name in [*(name for names in found.files.values() for name in names), *parts]]
        files += [*found.sidecars, *_outer_sidecars(root), *found.sessions, *others]
        try:
            super().__init__(
                cache_dir=None if cache_dir is None else str(cache_dir),
                dataset_name=re.sub(r"\W+", "_", root.name) or "scans",
                folder=str(root),
                files=found.files,
                fingerprint=fingerprint(root, files),
                options={**options, "name_pattern": name_pattern},
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

    @abstractmethod
    def read(self, path: Path) -> dict[str, Any]:
        """The cells of the kind's columns for one file.

        Raises:
            ROISeriesReadError: if it cannot be used; the message names it.
        """

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
        people = {name.split(" (session", 1)[0] for name in missing}
        hint = self._hint_on_ids(people)
        if len(unmatched) == n_scans and table is not None:
            raise ValueError(
                f"{table}: none of {n_scans} scans has a row in it. The scans are of {', '.join(missing[:5])}; the "
                f"table has {', '.join(_row_names(self._participants)[:5])}. {hint}Make the names the same, say where "
                "the subject stands in the path with name_pattern (--name-pattern), or move the table away."
            )
        self.notes.append(
            f"{counted(len(people), 'subject')} without a row in the participants table (first: "
            f"{', '.join(missing[:5])}); their columns are empty. {hint}".rstrip()
        )

    @property
    def people(self) -> set[str]:
        """Subjects of the participants table, without `sub-`."""
        return set(self._participants.sessions)

    def _hint_on_ids(self, people: Iterable[str]) -> str:
        """What may be wrong with identifiers that nearly match."""
        near = {name.lstrip("0").lower(): name for name in self._participants.sessions}
        for name in sorted(people):
            if (other := near.get(name.lstrip("0").lower())) not in (None, name):
                return f"{other} of the table may be {name} (a spreadsheet drops zeros in front). "
        return ""

    def _bad_files(self, name: str, problem: str) -> str:
        """Of the tables of a scan those that an error names; all if it names none."""
        parts = self._parts.get(name)
        if parts is None or len(parts.files) < 2 or parts.run is not None:
            return name
        return " + ".join([file for file in parts.files if Path(file).name in problem] or parts.files)

    def _info(self) -> datasets.DatasetInfo:
        kinds = {**self._participants.kinds, **dict.fromkeys(_TOLD, "string")}
        extra = {column: datasets.Value(kind) for column, kind in kinds.items()}
        return datasets.DatasetInfo(features=self.kind.features(extra))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        # Only `files` is a list here: num_proc splits every list of these arguments.
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"files": list(names)})
            for split, names in self.config.files.items()
        ]

    def _generate_shards(self, files: list[str]) -> Iterator[str]:
        yield from files

    def _generate_tables(self, files: list[str]) -> Iterator[tuple[Key, pa.Table]]:
        for number, name in enumerate(files):
            said = self._names[name]
            error, note = self._unusable.get(name, ""), ""
            cells: dict[str, Any] = dict.fromkeys(self.kind.columns)
            if not error:
                cells, error, note = self._tried(Path(self.config.folder) / name)
            person = {} if error else self._participants.values(said.columns["subject"], said.columns["session"]) or {}
            cells |= {
                **said.columns,
                "subject_known": said.known,
                "source_file": name,
                **{column: person.get(column) for column in self._participants.kinds},
                "read_error": error.encode("utf-8", "replace").decode(),
                "read_note": note.encode("utf-8", "replace").decode(),
            }
            yield Key(number, 0), arrow_table({name: [cell] for name, cell in cells.items()}, self.info.features)

    def open(self, path: Path) -> dict[str, Any]:
        """The scan of one file as a row that a processor takes; unlike `read`, nothing is written beside it.

        Raises:
            ROISeriesReadError: if it cannot be used; the message names it.
        """
        return self.read(path)

    def opened(self) -> Iterator[tuple[str, dict[str, Any], str, list[str]]]:
        """Each file as (split, its row, why it cannot be used, what its reader warned of), one at a time; no dataset
        is made."""
        for split, files in self.config.files.items():
            for name in files:
                error, note = self._unusable.get(name, ""), ""
                cells: dict[str, Any] = {}
                if not error:
                    cells, error, note = self._tried(Path(self.config.folder) / name, self.open)
                row = {**cells, **self._names[name].columns, "source_file": name}
                yield (split if len(self.config.files) > 1 else ""), row, error, note.splitlines()

    def _tried(
        self, path: Path, read: Callable[[Path], dict[str, Any]] | None = None
    ) -> tuple[dict[str, Any], str, str]:
        """The cells of a file, why there are none, and what its reader warned of."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                cells, error = (read or self.read)(path), ""
            except ROISeriesReadError as problem:
                cells, error = dict.fromkeys(self.kind.columns), str(problem)
            except ImportError:
                raise  # a missing package, not a bad file
            except Exception as problem:
                if no_space(problem):
                    raise
                # What a reader did not foresee costs this file, not the others.
                cells = dict.fromkeys(self.kind.columns)
                error = f"{path}: cannot be read; it may be damaged ({type(problem).__name__}: {problem})."
        return (
            cells,
            error,
            "\n".join(
                " ".join(str(one.message).removeprefix(f"{self.config.folder}{os.sep}").split("\n"))
                for one in said
                if one.category is UserWarning
            ),
        )

    def download_and_prepare(self, *args: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        """Read the files and write the Arrow cache, with up to `num_proc` processes.

        Raises:
            ImportError: if a format needs a package that is not installed.
        """
        longest = max(len(files) for files in self.config.files.values())
        num_proc = None if num_proc is None or min(num_proc, longest) < 2 else min(num_proc, longest)
        with told_as_itself():
            super().download_and_prepare(*args, num_proc=num_proc, **kwargs)

    def made_of(self) -> dict[str, Any]:
        """What the rows follow from: options, files and tables, and the code that reads them."""
        config = self.config
        options = {name: value for name, value in config.options.items() if not name.endswith("_folder")}
        files = {"files": sum(map(len, config.files.values())), "names": digest(config.files)}
        return {
            "kind": self.kind.name,
            **options,
            "scans": {**files, "state": config.fingerprint},
            "version": __version__,
        }

    def rows(self, read: Callable[["ScanFolderBuilder"], Any]) -> Any:
        """Everything, as `read` reads it; builders that join several ask it for each of these."""
        return read(self)

    def as_dataset(self, *args: Any, **kwargs: Any) -> datasets.Dataset | datasets.DatasetDict:
        """The dataset in numpy format, or a dictionary of splits; bad files are reported or left out here.

        Raises:
            ROISeriesReadError: if files could not be read and `on_error="raise"`, or none could.
        """
        fix = f"Delete the folder {self.cache_dir}, which is a cache, and call this again."
        try:
            result = super().as_dataset(*args, **kwargs)
        except (pa.ArrowException, OSError) as error:
            raise ROISeriesReadError(f"{self.cache_dir}: the cache cannot be read ({error}). {fix}") from error
        splits = dict(result) if isinstance(result, dict) else {"": result}
        for file in (file["filename"] for dataset in splits.values() for file in dataset.cache_files):
            check_arrow_file(Path(file), fix)
        return self.finished(result)

    def finished(self, result: datasets.Dataset | datasets.DatasetDict) -> datasets.Dataset | datasets.DatasetDict:
        """Rows as they were read, without those of bad files, which are reported; in numpy format.

        Raises:
            ROISeriesReadError: if files could not be read and `on_error="raise"`, or none could.
        """
        self.skipped = {}
        splits = dict(result) if isinstance(result, dict) else {"": result}
        told = {split: [column_of(dataset, name) for name in _TOLD] for split, dataset in splits.items()}
        for split, dataset in splits.items():
            names = zip(column_of(dataset, "source_file"), told[split][0])
            self.skipped.update({self._bad_files(name, problem): problem for name, problem in names if problem})
        total = sum(map(len, splits.values()))
        if self.skipped:
            everything_is_bad = len(self.skipped) == total
            if self._on_error == "raise" or everything_is_bad:
                hint = "" if everything_is_bad else ' on_error="skip" (--on-error skip) goes on without these.'
                raise ROISeriesReadError(_listed(self.skipped.values(), total, hint))
            listing = _listed(self.skipped.values(), total).replace("cannot be used.", "were left out:", 1)
            warnings.warn(listing, UserWarning, stacklevel=2)
        _say_once([note for _, notes in told.values() for note in notes])
        good = {}
        for split, dataset in splits.items():
            rows = [row for row, error in enumerate(told[split][0]) if not error]
            dataset = dataset.remove_columns(list(_TOLD))
            good[split] = (dataset if len(rows) == len(dataset) else dataset.select(rows)).with_format("numpy")
        if "t_r" in self.kind.columns:
            _say_t_r([value for part in good.values() for value in column_of(part, "t_r")])
        return datasets.DatasetDict(good) if isinstance(result, dict) else good[""]


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


def _say_once(notes: Iterable[str]) -> None:
    """Warn of each thing that readers say once, however many files it is said of, and with whatever numbers."""
    kinds: dict[str, list[str]] = {}
    for text in notes:
        # A message begins with the file's path, and differs in numbers and in what stands in brackets.
        lines = reversed(text.splitlines())  # of a scan of several tables the first one counts
        of_scan = {re.sub(r"\(.*?\)|\d+(\.\d+)?", "", note.split(": ", 1)[-1]): note for note in lines}
        for kind, note in of_scan.items():
            kinds.setdefault(kind, []).append(note)
    for alike in kinds.values():
        others = f" So it is for {counted(len(alike) - 1, 'other scan')}." if len(alike) > 1 else ""
        warnings.warn(f"{alike[0]}{others}", UserWarning, stacklevel=3)


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


def _outer_sidecars(root: Path) -> list[Path]:
    """JSON files above the folder, which may say something of its scans where it is a part of a BIDS dataset."""
    above = [root, *root.parents][:9]
    outermost = max(
        (number for number, place in enumerate(above) if (place / "dataset_description.json").is_file()), default=0
    )
    outermost = max([outermost, *(number + 1 for number, place in enumerate(above) if place.name.startswith("sub-"))])
    return [path for place in above[1 : outermost + 1] for path in sorted(place.glob("*.json"))]


def scan_file(
    folder: str | Path, made_of: Any, write: Callable[[Path], Mapping[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    """A `.npy` file of a scan, and what is known of it; one that is there already is not written again.

    Args:
        folder: where it goes.
        made_of: what it follows from, see [`digest`].
        write: writes the file and tells what is known of it.
    """
    file, beside = (Path(folder) / f"{digest(made_of)}{end}" for end in (".npy", ".json"))
    if not (file.is_file() and beside.is_file()):
        # Last: with it the file counts as written.
        write_file(beside, to_json(write(file)))
    return file, read_json(beside, "what is known of a scan", ROISeriesReadError, f"Delete {beside.parent}.")


def fingerprint(root: Path, files: Sequence[Path]) -> str:
    """Of the files as they are on disk, and of the code that reads them, so that a repaired reader reads again."""
    rooms = (Path(__file__).parents[1] / name for name in ("atlases", "processing", "data"))
    code = [path.read_bytes() for room in rooms for path in sorted(room.glob("*.py"))]
    stats = [(os.path.relpath(path, root), path.stat()) for path in files if path.exists()]
    return digest([__version__, code, [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]])
