"""Reading ROI series and coordinate tables from real files of every format."""

import gzip
import json
import zipfile

import numpy as np
import pytest

from brain_transformers.atlases.roi_orders import permutation, roi_labels
from brain_transformers.data.readers import ROISeriesReadError, read_coordinates, read_roi_series

N_ROIS, N_TIMEPOINTS = 94, 31


@pytest.fixture
def signals():
    return np.random.default_rng(0).normal(9600, 100, (N_ROIS, N_TIMEPOINTS)).astype(np.float32)


def text(table, separator, header=None, names=None):
    lines = [] if header is None else [separator.join(header)]
    for number, row in enumerate(table):
        cells = [repr(float(value)) for value in row]
        lines.append(separator.join(([names[number]] if names is not None else []) + cells))
    return "\n".join(lines) + "\n"


def write(path, signals):
    """The same scan as people keep it in each format."""
    scipy_io = pytest.importorskip("scipy.io")
    labels = list(roi_labels("aal2-94"))
    name = path.name
    if name == "scan.npy":
        np.save(path, signals.T)
    elif name == "scan.npz":
        np.savez(path, series=signals, t_r=0.72, fc=np.eye(3))
    elif name == "scan.mat":
        scipy_io.savemat(path, {"tc": signals.astype(np.float64), "TR": 0.72})
    elif name == "scan73.mat":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w", userblock_size=512) as file:
            file["tc"] = signals.T.astype(np.float64)
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    elif name == "header.tsv":
        path.write_text(text(signals.T, "\t", labels))
    elif name == "plain.csv":
        path.write_text(text(signals.T, ","))
    elif name == "pandas.csv":
        path.write_text(text(signals.T, ",", ["", *labels], [str(row) for row in range(N_TIMEPOINTS)]))
    elif name == "named_rows.csv.gz":
        header = ["label_name", *map(str, range(N_TIMEPOINTS))]
        path.write_bytes(gzip.compress(text(signals, ",", header, labels).encode()))
    elif name == "scan.dat":
        path.write_text(text(signals.T, "\t"))


FORMATS = [
    "scan.npy",
    "scan.npz",
    "scan.mat",
    "scan73.mat",
    "header.tsv",
    "plain.csv",
    "pandas.csv",
    "named_rows.csv.gz",
    "scan.dat",
]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_scan(tmp_path, signals, name):
    write(tmp_path / name, signals)
    series = read_roi_series(tmp_path / name, roi_order="aal2-94")
    np.testing.assert_array_equal(series.signals, signals)
    assert series.signals.flags.c_contiguous
    assert series.signals.dtype == np.float32
    if name in ("header.tsv", "pandas.csv", "named_rows.csv.gz"):
        assert series.roi_labels == roi_labels("aal2-94")
    if name in ("scan.npz", "scan.mat"):
        assert series.t_r == 0.72


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.83])
def test_cut_off_files_are_one_error_that_names_the_file(tmp_path, signals, name, share):
    path = tmp_path / name
    write(path, signals)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ROISeriesReadError, match=name.replace(".", r"\.")):
        read_roi_series(path, roi_order="aal2-94")


def test_what_is_no_series_is_refused(tmp_path, signals):
    with pytest.raises(ROISeriesReadError, match="no such file"):
        read_roi_series(tmp_path / "none.npy", n_rois=3)
    (tmp_path / "words.csv").write_text("a,b\nx,y\n")
    with pytest.raises(ROISeriesReadError, match=r"words\.csv: .*numbers"):
        read_roi_series(tmp_path / "words.csv", n_rois=2)
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(ROISeriesReadError, match=r"pickle\.npy"):
        read_roi_series(tmp_path / "pickle.npy", n_rois=1)
    (tmp_path / "scan.xyz").write_text("1")
    with pytest.raises(ROISeriesReadError, match="expected one of"):
        read_roi_series(tmp_path / "scan.xyz", n_rois=1)


def test_orientation_is_decided_or_refused_and_never_guessed(tmp_path):
    path = tmp_path / "scan.npy"
    square = np.random.default_rng(0).normal(size=(94, 94))
    np.save(path, square)
    with pytest.raises(ROISeriesReadError, match="time cannot be told"):
        read_roi_series(path, roi_order="aal2-94")
    assert read_roi_series(path, roi_order="aal2-94", time_axis=0).signals.shape == (94, 94)
    # A matrix of ROIs by ROIs is none, whatever axis is said to be time.
    for time_axis in (0, 1):
        np.save(path, np.corrcoef(square))
        with pytest.raises(ROISeriesReadError, match="got a correlation matrix of 94 ROIs"):
            read_roi_series(path, roi_order="aal2-94", time_axis=time_axis)
    np.save(path, np.zeros((90, 300)))
    with pytest.raises(ROISeriesReadError, match="expected 94 ROIs on one axis"):
        read_roi_series(path, roi_order="aal2-94")
    with pytest.raises(ROISeriesReadError, match="number of ROIs is not known"):
        read_roi_series(path)
    with pytest.raises(ROISeriesReadError, match="got shape"):
        read_roi_series(path, n_rois=90, time_axis=0)


def test_several_arrays_need_a_key(tmp_path, signals):
    path = tmp_path / "scan.npz"
    np.savez(path, one=signals, two=signals + 1)
    with pytest.raises(ROISeriesReadError, match=r"Name the array with key \(--key\)"):
        read_roi_series(path, roi_order="aal2-94")
    np.testing.assert_array_equal(read_roi_series(path, roi_order="aal2-94", key="two").signals, signals + 1)


@pytest.mark.parametrize("other", ["schaefer400-7net", "tian-s3+schaefer400-17net"])
def test_rows_of_another_order_are_put_into_the_declared_one_by_their_labels(tmp_path, other):
    labels = roi_labels(other)
    values = np.random.default_rng(0).normal(size=(len(labels), 20)).astype(np.float32)
    path = tmp_path / "scan.tsv"
    path.write_text(text(values.T, "\t", labels))
    own = read_roi_series(path)
    np.testing.assert_array_equal(own.signals, values)
    assert own.roi_order == other
    with pytest.warns(UserWarning, match="taken by their labels"):
        read = read_roi_series(path, roi_order="schaefer400-17net")
    assert read.roi_order == "schaefer400-17net"
    np.testing.assert_array_equal(read.signals, values[permutation(other, "schaefer400-17net").index])


def test_names_of_another_resolution_are_other_parcels(tmp_path):
    # Schaefer-100 calls its parcels as Schaefer-400 does.
    labels = [*roi_labels("schaefer400-7net")[:9], *roi_labels("schaefer400-7net")[200:209]]
    path = tmp_path / "scan.tsv"
    path.write_text(text(np.random.default_rng(0).normal(size=(30, 18)), "\t", labels))
    read = read_roi_series(path)
    with pytest.raises(ValueError, match=r"no label in common with it \(18 are called as Schaefer's parcels are"):
        permutation(read.roi_order, "schaefer400-7net+tian-s3+buckner7")
    with pytest.raises(ROISeriesReadError, match="got 18 with other labels"):
        read_roi_series(path, roi_order="schaefer400-7net")


def test_the_name_of_a_file_declares_an_order_and_is_not_contradicted(tmp_path):
    values = np.random.default_rng(0).normal(size=(400, 20)).astype(np.float32)
    path = tmp_path / "sub-01_atlas-Schaefer2018400Parcels17Networks_ts.npy"
    np.save(path, values.T)
    read = read_roi_series(path)
    assert read.roi_order == "schaefer400-17net"
    np.testing.assert_array_equal(read.signals, values)
    with pytest.raises(ROISeriesReadError, match="its name declares the order 'schaefer400-17net'"):
        read_roi_series(path, roi_order="schaefer400-7net")
    np.save(tmp_path / "sub-01_run-7_ts.npy", values)
    with pytest.raises(ROISeriesReadError, match="number of ROIs is not known"):
        read_roi_series(tmp_path / "sub-01_run-7_ts.npy")


def half_known(names):
    """As a lab names parcels that it has merged or added."""
    return [name if number % 6 else f"own {number}" for number, name in enumerate(names)]


@pytest.mark.parametrize("form", ["text", "bytes", "table"])
def test_known_labels_are_compared_where_others_are_not_known(tmp_path, form):
    values = np.random.default_rng(0).normal(size=(400, 20))
    for edition, right in (("7", False), ("17", True)):
        labels = half_known(roi_labels(f"schaefer400-{edition}net"))
        if form == "table":
            path = tmp_path / "scan.tsv"
            path.write_text(text(values.T, "\t", labels))
        else:
            path = tmp_path / "scan.npz"
            np.savez(path, ts=values, roi_labels=np.array(labels, dtype="U" if form == "text" else "S"))
        if right:
            with pytest.warns(UserWarning, match=r"67 of 400 labels \(first: 'own 0'\) .* the others agree"):
                read = read_roi_series(path, roi_order="schaefer400-17net")
            np.testing.assert_array_equal(read.signals, values.astype(np.float32))
        else:
            with pytest.warns(UserWarning, match=r"67 of 400 parcels \(own 0, .*67 of its 400 parcels .* not in the"):
                read = read_roi_series(path, roi_order="schaefer400-17net")
            moved = permutation(labels, "schaefer400-17net").index
            np.testing.assert_array_equal(read.signals, values.astype(np.float32)[moved[moved >= 0]])
            again = permutation(read.roi_order, "schaefer400-17net").index
            assert (again[moved >= 0] == np.arange(333)).all()
            assert (again[moved < 0] == -1).all()


def test_labels_that_are_not_compared_are_said_and_numbers_are_no_labels(tmp_path, recwarn):
    values = np.random.default_rng(0).normal(size=(400, 20))
    np.savez(tmp_path / "scan.npz", ts=values, labels=[f"region {number}" for number in range(400)])
    with pytest.warns(UserWarning, match=r"scan\.npz: 400 of 400 labels"):
        read_roi_series(tmp_path / "scan.npz", roi_order="schaefer400-7net")
    recwarn.clear()
    (tmp_path / "scan.tsv").write_text(text(values.T, "\t", [str(number) for number in range(1, 401)]))
    assert read_roi_series(tmp_path / "scan.tsv", roi_order="schaefer400-7net").signals.shape == (400, 20)
    assert not recwarn.list


def test_labels_are_known_without_the_name_of_their_edition(tmp_path):
    values = np.random.default_rng(0).normal(size=(400, 20))
    short = [name.split("_", 1)[1] for name in roi_labels("schaefer400-17net")]
    (tmp_path / "scan.tsv").write_text(text(values.T, "\t", short))
    assert read_roi_series(tmp_path / "scan.tsv", roi_order="schaefer400-17net").signals.shape == (400, 20)
    assert read_roi_series(tmp_path / "scan.tsv").roi_order == "schaefer400-17net"


def test_parcels_of_the_order_are_taken_out_of_a_file_with_more(tmp_path):
    order = roi_labels("schaefer400-7net")
    names = [f"LH-Thalamus{number}" for number in range(3)] + [name.removeprefix("7Networks_") for name in order]
    values = np.random.default_rng(0).normal(size=(len(names), 20))
    path = tmp_path / "sub-01_atlas-4S456Parcels_timeseries.tsv"
    path.write_text(text(values.T, "\t", names))
    with pytest.warns(UserWarning, match=r"3 of 403 parcels \(LH-Thalamus0, LH-Thalamus1, LH-Thalamus2\)"):
        read = read_roi_series(path, roi_order="schaefer400-7net")
    np.testing.assert_array_equal(read.signals, values[3:].astype(np.float32))
    with pytest.warns(UserWarning, match="3 of 403 parcels"):
        read = read_roi_series(path, roi_order="schaefer400-17net")
    index = permutation(order, "schaefer400-17net").index
    np.testing.assert_array_equal(read.signals, values[3:][index].astype(np.float32))
    path.write_text(text(values[:-1].T, "\t", names[:-1]))
    with pytest.warns(UserWarning, match=rf"1 of its 400 parcels \({order[-1]}\) are not in the file"):
        read = read_roi_series(path, roi_order="schaefer400-7net")
    assert permutation(read.roi_order, "schaefer400-7net").missing == (order[-1],)


def test_python_objects_in_numpy_files_are_refused_with_the_fix(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 20))
    np.savez(tmp_path / "scan.npz", ts=values, labels=np.array(["a", "b", "c"], dtype=object))
    with pytest.raises(ROISeriesReadError, match=r"scan\.npz: labels: it holds Python objects.*dtype=str"):
        read_roi_series(tmp_path / "scan.npz", n_rois=3)


@pytest.mark.parametrize("shape", ["(400, 10**12)", "(2**63, 2)", "(-1, 20)", "(3, 20.0)", "(((((", "(3, 20), 'x': 1"])
def test_headers_of_numpy_files_are_held_against_the_file(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    path = tmp_path / "scan.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(480))
    with pytest.raises(ROISeriesReadError, match=r"scan\.npy: "):
        read_roi_series(path, n_rois=3)


def test_members_of_an_archive_that_grow_implausibly_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "scan.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        np.lib.format.write_array(archive.open("ts.npy", "w"), np.zeros((3, 2**22)))
    with pytest.raises(ROISeriesReadError, match=r"scan\.npz: .*claims"):
        read_roi_series(tmp_path / "scan.npz", n_rois=3)


def test_gaps_become_nan_and_sidecar_tells_t_r(tmp_path):
    (tmp_path / "sub-01_bold.tsv").write_text("a\tb\n1.5\tn/a\n2.5\t4\n")
    (tmp_path / "sub-01_bold.json").write_text(json.dumps({"RepetitionTime": 0.8}))
    series = read_roi_series(tmp_path / "sub-01_bold.tsv", n_rois=2, time_axis=0)
    np.testing.assert_array_equal(series.signals, np.array([[1.5, 2.5], [np.nan, 4]], dtype=np.float32))
    assert series.t_r == 0.8
    with pytest.warns(UserWarning, match=r"t_r=2 s was given .* 0\.8 s"):
        assert read_roi_series(tmp_path / "sub-01_bold.tsv", n_rois=2, time_axis=0, t_r=2.0).t_r == 2.0


def coordinates_table(n=424):
    rng = np.random.default_rng(0)
    return np.column_stack([np.arange(1, n + 1), rng.integers(-60, 66, (n, 3))])


@pytest.mark.parametrize("separator", ["\t", ","])
@pytest.mark.parametrize("header", [None, ["Index", "X", "Y", "Z"]])
def test_coordinates_are_read(tmp_path, separator, header):
    table = coordinates_table()
    lines = ([separator.join(header)] if header else []) + [separator.join(map(str, row)) for row in table]
    path = tmp_path / "A424_Coordinates.dat"
    path.write_text("\n".join(lines) + "\n")
    coordinates = read_coordinates(path)
    np.testing.assert_array_equal(coordinates, table[:, 1:])
    assert coordinates.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[:400], "expected 424 rows, got 400"),
        (lambda table: table[::-1], r"expected the index 1, 2, 3, \.\.\. in the first column, got 424 in row 1"),
        (lambda table: table[:, :3], "expected four columns"),
        (lambda table: table * [1, 100, 1, 1], "millimetres"),
    ],
)
def test_wrong_tables_of_coordinates_are_refused(tmp_path, change, message):
    path = tmp_path / "table.dat"
    path.write_text("\n".join("\t".join(map(str, row)) for row in change(coordinates_table())))
    with pytest.raises(ROISeriesReadError, match=message):
        read_coordinates(path)


def test_one_known_label_on_every_row_is_no_order(tmp_path):
    labels = roi_labels("schaefer400-7net")
    path = tmp_path / "scan.tsv"
    path.write_text(text(np.random.default_rng(0).normal(size=(20, 400)), "\t", [labels[0]] * 400))
    with pytest.raises(ROISeriesReadError, match="got '7Networks_LH_Vis_1' more than once"):
        read_roi_series(path, roi_order="schaefer400-7net")
