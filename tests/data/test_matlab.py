"""MATLAB files of versions 5 to 7.3 as they are saved, cut and damaged; the same matrix gives the same array."""

import struct
import zlib

import numpy as np
import pytest

from brain_transformers.data.matlab import read_mat
from brain_transformers.data.readers import ROISeriesReadError, read_roi_series

scipy_io = pytest.importorskip("scipy.io")
h5py = pytest.importorskip("h5py")

LABELS = [f"parcel-{number}" for number in range(5)]


@pytest.fixture
def series():
    return np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)


def save_v73(path, **arrays):
    """As MATLAB does: column by column, text as numbers, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in arrays.items():
            if isinstance(value, list):
                cells = file.create_group("#refs#")
                references = []
                for number, text in enumerate(value):
                    cells[f"c{number}"] = np.array([[ord(letter)] for letter in text], dtype=np.uint16)
                    cells[f"c{number}"].attrs["MATLAB_class"] = np.bytes_("char")
                    references.append(cells[f"c{number}"].ref)
                file.create_dataset(name, data=np.array([references], dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
                file[name].attrs["MATLAB_class"] = np.bytes_("cell")
            else:
                file[name] = np.asarray(value).T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


@pytest.mark.parametrize("compressed", [False, True])
def test_version_7_and_7_3_give_the_same_arrays(tmp_path, series, compressed):
    square = np.arange(25.0).reshape(5, 5)
    cell = np.array(LABELS, dtype=object)
    scipy_io.savemat(tmp_path / "v7.mat", {"a": series, "square": square, "names": cell}, do_compression=compressed)
    save_v73(tmp_path / "v73.mat", a=series, square=square, names=LABELS)
    old, new = read_mat(tmp_path / "v7.mat"), read_mat(tmp_path / "v73.mat")
    assert set(old) == set(new) == {"a", "square", *(f"names{{{number}}}" for number in range(1, 6))}
    for name, value in old.items():
        np.testing.assert_array_equal(value, new[name])
    # Where shape does not decide, an axis is the same axis in both.
    for name in ("v7.mat", "v73.mat"):
        read = read_roi_series(tmp_path / name, n_rois=5, time_axis=1, key="square")
        np.testing.assert_array_equal(read.signals, square)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "bool"])
def test_arrays_equal_those_that_scipy_reads(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 100, (4, 7, 3)).astype(dtype)
    path = tmp_path / "scan.mat"
    scipy_io.savemat(
        path, {"x": values, "whole": values.astype("f8"), "text": np.array(["ab", "cde"]), "name": "rest"}
    )
    found, expected = read_mat(path), scipy_io.loadmat(path)
    np.testing.assert_array_equal(found["x"], expected["x"])
    np.testing.assert_array_equal(found["whole"], values)
    assert found["text"].tolist() == ["ab", "cde"]
    assert found["name"].tolist() == ["rest"]


def test_structs_and_cells_are_found_by_their_names(tmp_path, series):
    path = tmp_path / "scan.mat"
    runs = np.empty(2, dtype=object)
    runs[0], runs[1] = series, series + 1
    scipy_io.savemat(path, {"data": {"ts": series, "TR": 2.0, "names": np.array(LABELS, dtype=object)}})
    read = read_roi_series(path, roi_order=LABELS)
    np.testing.assert_array_equal(read.signals, series)
    assert read.t_r == 2.0
    assert read.roi_labels == tuple(LABELS)
    scipy_io.savemat(path, {"runs": runs})
    with pytest.raises(ROISeriesReadError, match=r"scan\.mat: expected one .*runs\{1\}.*runs\{2\}.*key \(--key\)"):
        read_roi_series(path, n_rois=5)
    np.testing.assert_array_equal(read_roi_series(path, n_rois=5, key="runs{2}").signals, series + 1)


@pytest.mark.parametrize("version", ["v7", "v73"])
def test_labels_in_cells_are_compared(tmp_path, series, version):
    path = tmp_path / "scan.mat"
    turned = LABELS[::-1]
    if version == "v7":
        scipy_io.savemat(path, {"ts": series, "labels": np.array(turned, dtype=object)})
    else:
        save_v73(path, ts=series, labels=turned)
    with pytest.warns(UserWarning, match=r"scan\.mat: rows stand in another order"):
        read = read_roi_series(path, roi_order=LABELS)
    np.testing.assert_array_equal(read.signals, read_roi_series(path).signals[::-1])
    assert read_roi_series(path, roi_order=turned).roi_labels == tuple(turned)


def test_sparse_matrices_are_refused_in_words_however_deep_they_lie(tmp_path, series):
    sparse = pytest.importorskip("scipy.sparse")
    path = tmp_path / "scan.mat"
    scipy_io.savemat(path, {"ts": sparse.csc_matrix(series)})
    with pytest.raises(ROISeriesReadError, match=r"scan\.mat: .*ts is sparse: save full"):
        read_roi_series(path, n_rois=5)
    scipy_io.savemat(path, {"data": {"ts": sparse.csc_matrix(series), "full": series}})
    np.testing.assert_array_equal(read_roi_series(path, n_rois=5).signals, series)
    # Row indices far outside: what crashed the interpreter.
    content = bytearray(path.read_bytes())
    at = content.find(struct.pack("<II", 5, 4 * 60))
    content[at + 8 : at + 8 + 240] = b"\x7f" * 240
    path.write_bytes(content)
    np.testing.assert_array_equal(read_roi_series(path, n_rois=5).signals, series)


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(kind, shape, *more, name=b"ts"):
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<ii", *shape)) + element(1, name)
    return element(14, head + b"".join(more))


@pytest.mark.parametrize(
    "body",
    [
        matrix(6, (5, 12), element(9, bytes(8))),
        matrix(6, (-5, 12), element(9, bytes(8))),
        matrix(6, (2**31 - 1, 2**31 - 1), element(9, bytes(8))),
        matrix(1, (2**31 - 1, 2**31 - 1)),
        matrix(2, (2**31 - 1, 2**31 - 1), element(5, struct.pack("<i", 0)), element(1, b"")),
        matrix(2, (2**31 - 1, 2**31 - 1), element(5, struct.pack("<i", 4)), element(1, b"")),
        matrix(6, (5, 12), struct.pack("<II", 9, 2**31) + bytes(64)),
        element(15, zlib.compress(bytes(1 << 28))),
        element(15, zlib.compress(matrix(6, (5, 12), element(9, bytes(480))))[:20]),
        b"\xff" * 64,
    ],
)
def test_damage_is_one_error_that_names_the_file(tmp_path, body):
    path = tmp_path / "scan.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + body)
    with pytest.raises(ROISeriesReadError, match=r"scan\.mat: "):
        read_roi_series(path, n_rois=5)


def test_version_4_is_refused_with_the_way_on(tmp_path, series):
    scipy_io.savemat(tmp_path / "scan.mat", {"ts": series}, format="4")
    with pytest.raises(ROISeriesReadError, match=r"scan\.mat: .*-v7"):
        read_roi_series(tmp_path / "scan.mat", n_rois=5)


def test_texts_of_any_length_are_labels(tmp_path, series):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "scan.mat", "w") as file:
        file["ts"], file["labels"] = series, LABELS[::-1]
    with pytest.warns(UserWarning, match=r"scan\.mat: rows stand in another order"):
        read_roi_series(tmp_path / "scan.mat", roi_order=LABELS)
    assert read_roi_series(tmp_path / "scan.mat", roi_order=LABELS[::-1]).roi_labels == tuple(LABELS[::-1])


def test_two_repetition_times_in_a_file_are_refused(tmp_path, series):
    scipy_io.savemat(tmp_path / "scan.mat", {"ts": series, "TR": 2.0, "tr": 3.0})
    with pytest.raises(ROISeriesReadError, match=r"scan\.mat: expected one repetition time, got tr = 3, TR = 2"):
        read_roi_series(tmp_path / "scan.mat", n_rois=5)
