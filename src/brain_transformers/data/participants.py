"""What labs write where a value is missing, and the tables of participants.

A leaf: every reader of text asks here what a gap is, so that a cell means the same in a series and in a label.
"""

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
