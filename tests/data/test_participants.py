"""What a gap is, and what a table of participants says of each scan."""

import numpy as np
import pytest

from brain_transformers.data.errors import ROISeriesReadError
from brain_transformers.data.participants import (
    files_as_people,
    is_gap,
    read_participants,
    say_files_as_people,
    table_cell,
)


@pytest.mark.parametrize(
    "value", [None, float("nan"), np.float32("nan"), "", " ", "NA", "n/a", "N/A", "NaN", "null", "."]
)
def test_gaps_are_known_in_every_spelling(value):
    assert is_gap(value)


@pytest.mark.parametrize("value", ["None", "none", "-", "?"])
def test_words_are_gaps_only_among_numbers(value):
    assert is_gap(value, among_numbers=True)
    assert not is_gap(value)


@pytest.mark.parametrize("value", [0, 0.0, "0", False, "-9", "999", "no", "nano", "+", b"F"])
def test_values_are_no_gaps(value):
    assert not is_gap(value, among_numbers=True)


def table(tmp_path, text, name="participants.tsv", encoding="utf-8", **options):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return read_participants(path, **options)


def test_a_gap_keeps_whole_numbers_whole_and_words_words(tmp_path):
    people = table(
        tmp_path,
        "participant_id\tsex\tage\tscore\tgroup\tsite\nsub-1\t0\t31\t1.5\tnone\t01\n"
        "sub-2\tNA\tn/a\t-\tpatient\t02\nsub-3\t1\t40\t2\tNA\t01\n",
    )
    assert people.kinds == {"sex": "int64", "age": "int64", "score": "float64", "group": "string", "site": "string"}
    assert people.values("1", None) == {"sex": 0, "age": 31, "score": 1.5, "group": "none", "site": "01"}
    assert people.values("sub-2", None) == {"sex": None, "age": None, "score": None, "group": "patient", "site": "02"}
    assert people.values("4", None) is None
    assert "column group has 'none' beside words" in people.notes[0]


def test_numbers_that_no_type_holds_are_names_and_stray_words_are_said(tmp_path):
    people = table(
        tmp_path,
        "participant_id\tcode\tage\tweight\n"
        + "".join(f"{n}\t{n}{'5' * 19}\t{20 + n}\t7{n},5\n" for n in range(1, 9))
        + "9\t1\t35y\t70,1\n",
    )
    assert people.kinds == {"code": "string", "age": "string", "weight": "string"}
    assert people.values("3", None)["code"] == "3" + "5" * 19
    assert any("column age is text, since 1 of 9 cells are no numbers (first: '35y')" in note for note in people.notes)
    assert any("decimal commas" in note for note in people.notes)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_of_spreadsheets_are_read(tmp_path, encoding):
    people = table(tmp_path, 'participant_id\tage\r\n"sub-01"\t31\r\n\r\n\t\r\n', encoding=encoding)
    assert people.rows == {("01", None): {"age": 31}}


def test_comma_separated_tables_are_read_by_their_name(tmp_path):
    assert table(tmp_path, "participant_id,age\n01,31\n", "people.csv").values("01", None) == {"age": 31}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id\tage\n1\t2\n", "expected a tab-separated table with a column participant_id, got id, age"),
        ("participant_id\tage\n01\t2\nsub-01\t3\n", "'01' has more than one row.*session_id"),
        ("participant_id\tage\n1\t01\t2\n", r"expected 2 cells.*got 3 in line 2.*row.names"),
        ("participant_id\tage\tage\n01\t2\t3\n", "a name of its own for every column"),
        ("participant_id\tage\n", "and rows"),
        ("participant_id\tag\0e\n01\t2\n", "NUL bytes"),
        ("", "participant_id"),
        ('participant_id\tage\n01\t"3\n02\t4\n', "cannot be read as a table of participants"),
    ],
)
def test_tables_that_would_be_misread_are_refused_by_name(tmp_path, text, message):
    with pytest.raises(ROISeriesReadError, match=message) as error:
        table(tmp_path, text)
    assert "participants.tsv" in str(error.value)


def test_latin_letters_are_asked_for_as_utf8(tmp_path):
    with pytest.raises(ROISeriesReadError, match="UTF-8"):
        table(tmp_path, "participant_id\tname\n1\tJosé\n", encoding="latin-1")


def test_the_same_row_twice_is_one(tmp_path):
    assert table(tmp_path, "participant_id\tage\n01\t2\nsub-01\t2\n").values("01", None) == {"age": 2}


def test_sessions_have_their_own_values(tmp_path):
    people = table(
        tmp_path,
        "participant_id\tsession_id\tage\tsex\n01\tses-a\t17\tF\n01\tb\t18\tF\n02\tn/a\t30\tM\n03\ta\t5\tF\n",
    )
    assert people.kinds == {"age": "int64", "sex": "string"}
    assert people.values("01", "a")["age"] == 17
    assert people.values("01", "ses-b")["age"] == 18
    assert people.values("01", "c") is None
    assert table(tmp_path, "participant_id\tses\tage\n01\t1\t7\n01\t2\t8\n").values("01", "02") == {"age": 8}
    # One row for all sessions, and a scan without a session of somebody with one row.
    assert people.values("02", "b")["age"] == 30
    assert people.values("03", None)["age"] == 5
    with pytest.raises(ROISeriesReadError, match=r"says no session.*2 of 01 \(a, b\).*name_pattern"):
        people.values("01", None)


def test_sessions_tables_of_subjects_add_to_the_participants(tmp_path):
    sessions = tmp_path / "sub-01_sessions.tsv"
    sessions.write_text("session_id\tage\tmood\nses-a\t17\t3\nses-b\tn/a\t4\n")
    people = table(tmp_path, "participant_id\tage\tsex\n01\t16\tF\n02\t20\tM\n", sessions=[sessions])
    assert people.values("01", "a") == {"age": 17, "sex": "F", "mood": 3}
    assert people.values("01", "b") == {"age": 16, "sex": "F", "mood": 4}
    assert people.values("02", "a") == {"age": 20, "sex": "M", "mood": None}


def test_columns_that_rows_have_already_get_another_name(tmp_path):
    people = table(tmp_path, "participant_id\ttask\tparticipant_task\n01\tx\ty\n", taken={"task"})
    assert people.values("01", None) == {"participant_participant_task": "x", "participant_task": "y"}


def test_who_groups_by_subject_can_say_that_files_count_as_people():
    rows = [{"subject": "a", "source_file": "a.npy", "subject_known": known} for known in (False, True, False)]
    assert files_as_people(rows) == 2
    pandas = pytest.importorskip("pandas")
    assert files_as_people(pandas.DataFrame(rows)) == 2
    assert "each of 2 files counts as a person" in say_files_as_people(rows)
    assert say_files_as_people([rows[1]]) == ""
    # Datasets of earlier versions do not say it; the name does.
    assert (
        files_as_people([{"subject": "x/a", "source_file": "x/a.npy"}, {"subject": "1", "source_file": "b.npy"}]) == 1
    )


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-01x", "'-01x"),
        ("-1.5", "-1.5"),
        ("a\tb\nc", r"a\tb\nc"),
        ("sub-01 José", "sub-01 José"),
    ],
)
def test_cells_are_one_line_and_no_formula(text, cell):
    assert table_cell(text) == cell


def test_codes_for_missing_values_and_decimal_commas_are_said(tmp_path):
    rows = ["a\t-9999\t-1\t20,5", "b\t100\t-99\t3", "c\t110\t5\t4,5"]
    (tmp_path / "people.tsv").write_text("\n".join(["participant_id\tiq\tchange\tage", *rows]) + "\n")
    people = read_participants(tmp_path / "people.tsv")
    assert people.kinds == {"iq": "int64", "change": "int64", "age": "string"}
    assert len(people.notes) == 2
    assert "iq has -9999" in people.notes[0]
    assert "age is text: its numbers have decimal commas" in people.notes[1]
