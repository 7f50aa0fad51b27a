"""Tables of numbers: what is a name and what is a measurement, also where names are numbers."""

import gzip

import numpy as np
import pytest

from brain_transformers.data.readers import ROISeriesReadError, read_roi_series

N_ROIS, N_TIMEPOINTS = 7, 20
HEADERS = {
    "nilearn's floats": [f"{number}.0" for number in range(1, 8)],
    "regions": ["2001", "2002", "2101", "2102", "2111", "2112", "2201"],
    "a gap": ["1", "2", "4", "5", "6", "7", "8"],
    "not sorted": ["4001", "2002", "4101", "2102", "4111", "2112", "4201"],
    "counted": [str(number) for number in range(7)],
    "quoted": [f'"{number}"' for number in range(1, 8)],
    "made unique by pandas": ["1", "1.1", "2", "2.1", "2.2", "3", "3.1"],
    "text": [f"V{number}" for number in range(7)],
}


@pytest.fixture
def series():
    return np.random.default_rng(0).normal(1000, 20, (N_ROIS, N_TIMEPOINTS)).round(3)


def text(rows, header=None, names=None, separator=",", corner=None):
    lines = [[repr(float(value)) for value in row] for row in rows]
    if names is not None:
        lines = [[name, *line] for name, line in zip(names, lines)]
    if header is not None:
        lines = [([] if corner is None else [corner]) + list(header), *lines]
    return "\n".join(separator.join(line) for line in lines) + "\n"


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("whole", [False, True])
def test_a_header_of_region_numbers_is_no_timepoint(tmp_path, series, header, whole):
    values = series.round() if whole else series
    (tmp_path / "scan.csv").write_text(text(values.T, HEADERS[header]))
    if whole and header == "not sorted":
        with pytest.raises(ROISeriesReadError, match="header of region numbers or a timepoint"):
            read_roi_series(tmp_path / "scan.csv", n_rois=N_ROIS)
        return
    read = read_roi_series(tmp_path / "scan.csv", n_rois=N_ROIS)
    np.testing.assert_array_equal(read.signals, values.astype(np.float32))
    assert read.roi_labels == tuple(name.strip('"') for name in HEADERS[header])


@pytest.mark.parametrize("first", [[900] * 7, [1000, 990, 1010, 1003, 987, 1001, 1012], [0.5, 1, 7, 3, 2, 9, 4]])
def test_a_first_frame_stays_one(tmp_path, series, first):
    values = np.column_stack([first, series.round()])
    (tmp_path / "scan.csv").write_text(text(values.T))
    np.testing.assert_array_equal(
        read_roi_series(tmp_path / "scan.csv", n_rois=N_ROIS).signals, values.astype(np.float32)
    )


def test_few_names_that_pandas_made_unique_are_no_timepoint(tmp_path):
    values = np.random.default_rng(0).normal(2, 2, size=(4, 30))
    (tmp_path / "scan.csv").write_text(text(values.T, ["1", "1.1", "2", "2.1"]))
    with pytest.raises(ROISeriesReadError, match="header of region numbers or a timepoint"):
        read_roi_series(tmp_path / "scan.csv", n_rois=4)


def test_what_may_be_both_is_refused(tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 30))
    (tmp_path / "scan.csv").write_text(text(values.T, ["1", "2"]))
    with pytest.raises(
        ROISeriesReadError, match=r"scan\.csv: the first row .*header of region numbers or a timepoint"
    ):
        read_roi_series(tmp_path / "scan.csv", n_rois=2)


@pytest.mark.parametrize("corner", ["", "time", "Unnamed: 0", "n/a"])
@pytest.mark.parametrize("header", ["text", "regions", "counted"])
@pytest.mark.parametrize("step", [1, 0.72])
def test_numbered_rows_are_no_data(tmp_path, series, corner, header, step):
    names = [f"{number * step:.6g}" for number in range(N_TIMEPOINTS)]
    (tmp_path / "scan.csv").write_text(text(series.T, HEADERS[header], names, corner=corner))
    read = read_roi_series(tmp_path / "scan.csv", n_rois=N_ROIS)
    np.testing.assert_array_equal(read.signals, series.astype(np.float32))
    assert read.roi_labels == tuple(HEADERS[header])


def test_rows_of_parcels_named_by_numbers(tmp_path, series):
    (tmp_path / "scan.tsv").write_text(
        text(series, [str(k) for k in range(N_TIMEPOINTS)], HEADERS["regions"], "\t", "label")
    )
    read = read_roi_series(tmp_path / "scan.tsv", n_rois=N_ROIS)
    np.testing.assert_array_equal(read.signals, series.astype(np.float32))
    assert read.roi_labels == tuple(HEADERS["regions"])
    (tmp_path / "scan.tsv").write_text(text(series, None, HEADERS["regions"], "\t"))
    np.testing.assert_array_equal(
        read_roi_series(tmp_path / "scan.tsv", n_rois=N_ROIS).signals, series.astype(np.float32)
    )


def test_exports_of_r_and_of_spreadsheets(tmp_path, series):
    expected = series.astype(np.float32)
    names = [f'"{number}"' for number in range(1, N_TIMEPOINTS + 1)]
    plain = text(series.T, HEADERS["text"], None, "\t")
    rows = text(series.T, None, names, "\t")
    (tmp_path / "scan.tsv").write_text(plain.split("\n", 1)[0] + "\n" + rows)
    read = read_roi_series(tmp_path / "scan.tsv", n_rois=N_ROIS)
    np.testing.assert_array_equal(read.signals, expected)
    assert read.roi_labels == tuple(HEADERS["text"])
    (tmp_path / "scan.tsv").write_text(plain.replace("\n", "\t\n"))
    np.testing.assert_array_equal(read_roi_series(tmp_path / "scan.tsv", n_rois=N_ROIS).signals, expected)
    cut = text(series.T, None, None, "\t")
    (tmp_path / "scan.tsv").write_text(cut[cut.index("\t") + 1 :])
    with pytest.raises(ROISeriesReadError, match=r"scan\.tsv: expected 6 columns in every row, got 7"):
        read_roi_series(tmp_path / "scan.tsv", n_rois=N_ROIS)


def test_a_count_of_rows_in_place_of_a_parcel_is_refused(tmp_path, series):
    names = [str(number) for number in range(N_TIMEPOINTS)]
    (tmp_path / "scan.csv").write_text(text(series.T[:, 1:], HEADERS["text"][1:], names, corner="time"))
    with pytest.raises(ROISeriesReadError, match=r"scan\.csv: the first of 7 columns counts the rows"):
        read_roi_series(tmp_path / "scan.csv", n_rois=N_ROIS)


def test_infinite_and_too_large_values_are_missing_with_a_warning(tmp_path):
    (tmp_path / "scan.csv").write_text("a,b\n1.5,1e999\n2.5,-inf\n3.5,1e300\n1.0,2.0\n")
    with pytest.warns(UserWarning, match=r"scan\.csv: 3 values are infinite"):
        signals = read_roi_series(tmp_path / "scan.csv", n_rois=2).signals
    np.testing.assert_array_equal(signals, np.array([[1.5, 2.5, 3.5, 1], [np.nan, np.nan, np.nan, 2]], np.float32))


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,2\n3,1_000\n",
        "a,b\n1,2\n3,٣\n",
        "a,b\n1,2\n3\n",
        "a,b\n1,2\n3,\x00\n",
        "a,b\nn/a,\nn/a,\nNA,\n",
        "\n\n",
        "[" * 100_000,
    ],
)
def test_what_is_no_table_of_numbers_is_refused_by_name(tmp_path, content):
    (tmp_path / "scan.csv").write_text(content)
    with pytest.raises(ROISeriesReadError, match=r"scan\.csv: "):
        read_roi_series(tmp_path / "scan.csv", n_rois=2)


def test_encodings_line_ends_and_quotes(tmp_path, series):
    table = text(series.T, [f'"V1, part {number}"' for number in range(N_ROIS)])
    expected = series.astype(np.float32)
    for content in (table.encode("utf-16"), b"\xef\xbb\xbf" + table.encode(), table.replace("\n", "\r\n").encode()):
        (tmp_path / "scan.csv").write_bytes(content)
        read = read_roi_series(tmp_path / "scan.csv", n_rois=N_ROIS)
        np.testing.assert_array_equal(read.signals, expected)
        assert read.roi_labels is not None
        assert read.roi_labels[3] == "V1, part 3"


@pytest.mark.parametrize(("content", "message"), [(b"1,2\n" * (1 << 21), "lines"), (b"1,2," * (1 << 23), "a line of")])
def test_texts_of_too_many_lines_or_cells_are_no_scans(tmp_path, content, message):
    (tmp_path / "scan.csv.gz").write_bytes(gzip.compress(content, 1))
    with pytest.raises(ROISeriesReadError, match=rf"scan\.csv\.gz: .*{message}"):
        read_roi_series(tmp_path / "scan.csv.gz", n_rois=2)


def test_a_bomb_is_stopped(tmp_path):
    (tmp_path / "scan.csv.gz").write_bytes(gzip.compress(b"1,2\n" * (1 << 26), 1))
    with pytest.raises(ROISeriesReadError, match=r"scan\.csv\.gz: .*grows to more than"):
        read_roi_series(tmp_path / "scan.csv.gz", n_rois=2)


def test_lines_that_end_in_a_comma_do_not_shift_the_columns_of_a_shorter_header(tmp_path, series):
    lines = text(series.T, HEADERS["text"]).splitlines()
    (tmp_path / "scan.csv").write_text("\n".join([lines[0], *(line + "," for line in lines[1:])]) + "\n")
    read = read_roi_series(tmp_path / "scan.csv", n_rois=N_ROIS)
    np.testing.assert_array_equal(read.signals, series.astype(np.float32))
    assert read.roi_labels == tuple(HEADERS["text"])


def test_a_count_below_the_header_is_no_timepoint(tmp_path, series):
    lines = text(series.T, HEADERS["text"]).splitlines()
    (tmp_path / "scan.csv").write_text("\n".join([lines[0], "1,2,3,4,5,6,7", *lines[1:]]))
    with pytest.raises(ROISeriesReadError, match=r"scan\.csv: the row below the header \(1, 2, 3, \.\.\.\)"):
        read_roi_series(tmp_path / "scan.csv", n_rois=N_ROIS)


def test_what_separates_cells_is_seen_or_named(tmp_path, series):
    (tmp_path / "tabs.csv").write_text(text(series.T, HEADERS["text"], separator="\t"))
    np.testing.assert_array_equal(read_roi_series(tmp_path / "tabs.csv", n_rois=N_ROIS).signals, series.astype("f4"))
    european = text(series.T, HEADERS["text"], separator=";").replace(".", ",")
    for content in (european, text(series.T, separator=";")):
        (tmp_path / "scan.csv").write_text(content)
        with pytest.raises(ROISeriesReadError, match=r"scan\.csv: expected cells separated by commas, got semicolons"):
            read_roi_series(tmp_path / "scan.csv", n_rois=N_ROIS)
