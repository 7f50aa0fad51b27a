"""What labs write where a value is missing, the tables of participants, and what rows say of their subjects.

A leaf: every reader of text asks here what a gap is, so that a cell means the same in a series and in a label.
"""

import csv
import functools
import io
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ROISeriesReadError

SESSION_COLUMNS = ("session_id", "session", "ses")
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"

GAPS: frozenset[str] = frozenset({"", "n/a", "#n/a", "na", "nan", "-nan", "<na>", "nat", "null", "."})
"""Spellings that are a gap wherever they stand, in small letters (BIDS, R, pandas, SQL, spreadsheets, SAS)."""

GAPS_AMONG_NUMBERS: frozenset[str] = frozenset({"none", "-", "--", "?"})
"""Spellings that are a gap only in a column of numbers. Beside words they are words: no diagnosis, a negative test."""


def is_gap(value: object, among_numbers: bool = False) -> bool:
    """Whether a value says that there is none: `None`, NaN of any kind, or one of the spellings of a gap.

    Args:
        value: a cell of a table, as text or as a value.
        among_numbers: whether all other values of its column are numbers, so that `GAPS_AMONG_NUMBERS` are gaps too.
    """
    if value is None:
        return True
    text = (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip().lower()
    return text in GAPS or (among_numbers and text in GAPS_AMONG_NUMBERS)


@dataclass
class Participants:
    """Tables of participants: typed values by subject and, where a table has sessions, by session.

    Attributes:
        kinds: column -> `"int64"`, `"float64"` or `"string"`.
        rows: (subject, session) -> values by column; the session is `None` for values of all sessions. Names are
            without `sub-` and `ses-`.
        notes: what the user has to know, as sentences.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    rows: dict[tuple[str, str | None], dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @functools.cached_property
    def sessions(self) -> dict[str, list[str]]:
        """Sessions of each subject, without `sub-` and `ses-`."""
        result: dict[str, list[str]] = {}
        for subject, session in self.rows:
            result.setdefault(subject, []).extend([session] if session is not None else [])
        return result

    def values(self, subject: str | None, session: str | None) -> dict[str, Any] | None:
        """The values of a scan, `None` if there is no row for it.

        Raises:
            ROISeriesReadError: if the scan has no session and the table has several for its subject.
        """
        if subject is None:
            return None
        name, visit = subject.removeprefix("sub-"), session.removeprefix("ses-") if session else None
        sessions = self.sessions.get(name, [])
        if visit is None and len(sessions) > 1:
            raise ROISeriesReadError(
                f"its name says no session, and the participants table has {len(sessions)} of {name} "
                f"({', '.join(sessions[:5])}), so it cannot be told whose values it has. Put ses- into the name, or "
                "say where it stands with name_pattern (--name-pattern) and (?P<session>...)."
            )
        if visit is not None and visit not in sessions:
            # A spreadsheet drops zeros in front: 1 is 01 where the person has no other 1.
            same = [session for session in sessions if session.lstrip("0") == visit.lstrip("0")]
            visit = same[0] if len(same) == 1 else visit
        visits = sessions if visit is None else [visit]
        found = [row for key in (None, *visits) if (row := self.rows.get((name, key))) is not None]
        if not found:
            return None
        result: dict[str, Any] = dict.fromkeys(self.kinds)
        for row in found:
            result.update({column: value for column, value in row.items() if not is_gap(value)})
        return result


def read_participants(path: Path | None, taken: Collection[str] = (), sessions: Sequence[Path] = ()) -> Participants:
    """Read a participants table and the sessions tables of single subjects.

    A column `session`, `session_id` or `ses` makes the values those of a session; otherwise a subject has one row.
    Whole numbers stay whole beside gaps.

    Args:
        path: tab-separated with a column participant_id, or comma-separated if its name ends in `.csv`; `None` for
            none.
        taken: names that a column cannot have; it is called `participant_<name>` then.
        sessions: `sub-<label>_sessions.tsv` of single subjects.

    Raises:
        ROISeriesReadError: if a table is damaged, has no column participant_id or several rows for one scan.
    """
    cells: dict[tuple[str, str | None], dict[str, str]] = {}
    result = Participants()
    if path is not None:
        _add_rows(path, None, cells, result.notes)
    for table in sessions:
        _add_rows(table, table.name.removeprefix("sub-").rsplit("_sessions", 1)[0], cells, result.notes)
    result.rows = {key: {} for key in cells}
    columns = dict.fromkeys(name for row in cells.values() for name in row)
    for column in columns:
        kind, values, note = _typed(column, [row.get(column, "") for row in cells.values()])
        name = column
        while name in taken or (name != column and name in columns):
            name = f"participant_{name}"
        result.kinds[name] = kind
        result.notes += [f"{path or sessions[0]}: {note}"] if note else []
        for key, value in zip(cells, values):
            result.rows[key][name] = value
    return result


def _add_rows(
    path: Path, subject: str | None, cells: dict[tuple[str, str | None], dict[str, str]], notes: list[str]
) -> None:
    """Add the rows of a table by subject and session; `subject` is whose sessions a table tells."""
    header, table = _read_table(path)
    names = {name.lower(): name for name in reversed(header)}
    person = names.get("participant_id")
    visit = next((names[name] for name in SESSION_COLUMNS if name in names), None)
    if (person is None and subject is None) or (visit is None and subject is not None):
        wanted = "participant_id" if subject is None else "session_id"
        hint = f" Rename the column {names['subject']} to {wanted}." if subject is None and "subject" in names else ""
        raise ROISeriesReadError(
            f"{path}: expected a tab-separated table with a column {wanted}, got {', '.join(header[:8]) or 'nothing'}."
            + hint
        )
    nameless = 0
    for row in table:
        name = (subject if person is None or subject is not None else row[person]).removeprefix("sub-")  # type: ignore[union-attr]
        if subject is None and is_gap(name):
            nameless += 1
            continue
        session = None if visit is None or is_gap(row[visit]) else row[visit].removeprefix("ses-")
        values = {column: cell for column, cell in row.items() if column not in (person, visit)}
        before = cells.get((name, session))
        if before is not None and any(before.get(column, cell) != cell for column, cell in values.items()):
            which = f"participant {name!r}" + (f", session {session!r}" if session else "")
            raise ROISeriesReadError(
                f"{path}: {which} has more than one row. Give a row a session, with a column session_id (ses-01, as "
                "in the names of the scans), or leave one row."
            )
        cells.setdefault((name, session), {}).update(values)
    if nameless:
        notes.append(f"{path}: {nameless} rows have no participant_id and are left out.")


def _read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a text table, cells stripped."""
    if not path.is_file():
        raise ROISeriesReadError(f"{path}: there is no such table of participants.")
    try:
        data = path.read_bytes()
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if "\0" in text:
            raise csv.Error("it holds NUL bytes")  # where a name of a column would end for Arrow
        separator = "," if path.suffix.lower() == ".csv" and "\t" not in text.split("\n", 1)[0] else "\t"
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except (OSError, UnicodeError, csv.Error, MemoryError) as error:
        raise ROISeriesReadError(
            f"{path}: cannot be read as a table of participants ({error}). Save it as tab-separated UTF-8 text."
        ) from error
    header = [name.strip() for name in lines[0]] if lines else []
    while header and not header[-1]:
        header.pop()
    if len(set(header)) != len(header) or "" in header:
        twice = sorted({name for name in header if header.count(name) > 1 or not name})
        raise ROISeriesReadError(
            f"{path}: expected a name of its own for every column, got {twice[0]!r} twice or empty."
        )
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        row = [cell.strip() for cell in line]
        while len(row) > len(header) and not row[-1]:
            row.pop()
        if not any(row):
            continue
        if len(row) > len(header):
            raise ROISeriesReadError(
                f"{path}: expected {len(header)} cells, as the header has, got {len(row)} in line {number}. Row names "
                "are one too many (R: row.names = FALSE)."
            )
        rows.append(dict(zip(header, row + [""] * (len(header) - len(row)))))
    if not rows:
        raise ROISeriesReadError(f"{path}: expected a header with participant_id and rows, got {len(lines)} lines.")
    return header, rows


def _typed(name: str, cells: list[str]) -> tuple[str, list[Any], str]:
    """Kind and values of a column, and what is odd about it.

    Whole numbers where all are, `None` for gaps; else numbers, NaN for gaps; else text, `None` for gaps.
    """
    # A column of many rows has few different cells.
    distinct = dict.fromkeys(cells)
    given = [cell for cell in distinct if not is_gap(cell)]
    numbers = {cell for cell in given if _is_number(cell)}
    # "none" and "-" say that there is no number, but they are words beside words.
    odd = sorted(cell for cell in given if cell not in numbers)
    if numbers and all(is_gap(cell, among_numbers=True) for cell in odd):
        whole = all(re.fullmatch(r"[-+]?\d+", cell) for cell in numbers)
        convert, gap = (int, None) if whole else (float, float("nan"))
        values = {cell: convert(cell) if cell in numbers else gap for cell in distinct}
        return "int64" if whole else "float64", [values[cell] for cell in cells], _codes(name, numbers)
    note = ""
    decimal = [cell for cell in odd if re.fullmatch(r"[-+]?\d+,\d+", cell)]
    known, strange = set(given), set(odd)
    n_given, n_odd = sum(cell in known for cell in cells), sum(cell in strange for cell in cells)
    if decimal and len(decimal) == len(odd):
        note = f"column {name} is text: its numbers have decimal commas (first: {decimal[0]!r}); write points."
    elif numbers and n_odd <= max(1, n_given // 5):
        note = f"column {name} is text, since {n_odd} of {n_given} cells are no numbers (first: {odd[0]!r})."
    elif words := [cell for cell in odd if is_gap(cell, among_numbers=True)]:
        note = (
            f"column {name} has {words[0]!r} beside words and keeps it as a word; write n/a where a value is missing."
        )
    return "string", [cell if cell in known else None for cell in cells], note


def _codes(name: str, numbers: set[str]) -> str:
    """A word on numbers that often stand for a missing value, where all others are of another kind."""
    codes = {cell for cell in numbers if re.fullmatch(r"-9{2,5}(\.0*)?|9{3,5}(\.0*)?", cell)}
    others = [float(cell) for cell in numbers - codes]
    odd = sorted(cell for cell in codes if others and min(others) >= 0 and not 0 <= float(cell) <= 3 * max(others))
    if not odd:
        return ""
    return f"column {name} has {odd[0]}, which is taken as a number; write n/a if it stands for a missing value."


def _is_number(cell: str) -> bool:
    # "007" is a name, and so is what no type holds: 20 digits are an identifier.
    if not re.fullmatch(_NUMBER, cell) or re.fullmatch(r"[-+]?0\d+", cell):
        return False
    if re.fullmatch(r"[-+]?\d+", cell):
        return len(cell) < 19
    return math.isfinite(float(cell))


# --- what rows say of their subjects ---


def files_as_people(rows: Any) -> int:
    """How many scans have no subject but their own file, so that each counts as a person.

    Args:
        rows: a dataset, a table of embeddings (pandas) or a list of rows. Where they have no column `subject_known`, a
            subject that is the path of the file is none.
    """
    names = list(rows.column_names if hasattr(rows, "column_names") else rows[0] if isinstance(rows, list) else rows)

    def values(name: str) -> list[str]:
        if hasattr(rows, "with_format"):
            return list(map(str, rows.with_format(None).select_columns([name])[name]))
        return [str(row[name]) for row in rows] if isinstance(rows, list) else list(map(str, rows[name]))

    if "subject_known" in names:
        return sum(value.lower() in ("false", "0", "0.0") for value in values("subject_known"))
    if not {"subject", "source_file"} <= set(names):
        return 0
    return sum(file.startswith(f"{subject}.") for subject, file in zip(values("subject"), values("source_file")))


def say_files_as_people(rows: Any) -> str:
    """A sentence for whoever keeps people apart, empty where something says whose scan each is."""
    count = files_as_people(rows)
    if not count:
        return ""
    return (
        f"each of {count} files counts as a person of its own, since nothing says whose scan it is. If a person has "
        "several, scores are too good: prepare the scans with --name-pattern"
    )


def table_cell(value: object) -> str:
    """A text for a cell of a table: one line, and nothing that a spreadsheet takes for a formula.

    Control characters become escapes (a tab is `\\t`); text that begins like a formula and is no number gets an
    apostrophe in front.
    """
    text = "".join(
        letter.encode("unicode_escape").decode() if not letter.isprintable() and letter != " " else letter
        for letter in str(value)
    )
    return f"'{text}" if text[:1] in "=+-@" and text and not re.fullmatch(_NUMBER, text) else text
