"""HDF5 files that point at other files are refused, and the bytes of those never come back."""

import os
from pathlib import Path

import numpy as np
import pytest

from brain_transformers.data import SemantoksRecordings, hdf5, read_roi_series
from brain_transformers.data.readers import ROISeriesReadError

h5py = pytest.importorskip("h5py")

N_SCANS, N_ROIS, N_TIMEPOINTS = 3, 5, 40


@pytest.fixture
def secret(tmp_path):
    """Another file of the user, with the right number of bytes to pass for signals."""
    path = tmp_path / "secret.bin"
    path.write_bytes(np.full(N_SCANS * N_ROIS * N_TIMEPOINTS, 41.5, dtype=np.float32).tobytes())
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["signals"] = np.full((N_SCANS, N_ROIS, N_TIMEPOINTS), 41.5, dtype=np.float32)
    return path


def add_series(group, name, how, secret, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if how == "external storage":
        group.create_dataset(name, shape, "f4", external=[(str(secret), 0, values.nbytes)])
    elif how == "external link":
        group[name] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "/signals")
    elif how == "soft link":
        group.file["elsewhere"] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "/")
        group[name] = h5py.SoftLink("/elsewhere/signals")
    elif how == "virtual":
        layout = h5py.VirtualLayout(shape, "f4")
        layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "signals", shape)
        group.create_virtual_dataset(name, layout)
    elif how == "claim":
        group.create_dataset(name, (10**6, *shape[1:]), "f4", chunks=(1, *shape[1:]))
    else:
        group[name] = values


def write(path, secret, how, where="timeseries"):
    with h5py.File(path, "w") as file:
        group = file.create_group("timeseries")
        shape = (N_SCANS, N_ROIS, N_TIMEPOINTS)
        add_series(group, "schaefer400", how if where == "timeseries" else "", secret, shape)
        if where == "group":
            del file["timeseries"]
            file["timeseries"] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "/")
        add_series(file, "ts_len", how, secret, (N_SCANS,)) if where == "ts_len" else None
        file["long_subject_id"] = np.array([b"a", b"b", b"c"])


@pytest.mark.parametrize("how", ["external storage", "external link", "soft link", "virtual"])
def test_data_in_other_files_are_refused(tmp_path, secret, how):
    write(tmp_path / "scans.h5", secret, how)
    with pytest.raises(ROISeriesReadError, match=r"scans\.h5: timeseries/schaefer400 .*(not read|not followed)"):
        SemantoksRecordings(tmp_path / "scans.h5")
    with h5py.File(tmp_path / "scan.mat", "w") as file:
        add_series(file, "series", how, secret, (N_SCANS, N_ROIS, N_TIMEPOINTS)[1:])
    with pytest.raises(ROISeriesReadError, match=r"scan\.mat: (series|elsewhere) .*(not read|not followed)"):
        read_roi_series(tmp_path / "scan.mat", n_rois=N_ROIS)


@pytest.mark.parametrize(("where", "how"), [("group", "external link"), ("ts_len", "external storage")])
def test_every_part_of_a_path_and_every_column_is_looked_at(tmp_path, secret, where, how):
    write(tmp_path / "scans.h5", secret, how, where)
    with pytest.raises(ROISeriesReadError, match=r"scans\.h5: "):
        SemantoksRecordings(tmp_path / "scans.h5")


def test_sizes_are_held_against_the_file(tmp_path, secret):
    write(tmp_path / "scans.h5", secret, "claim")
    with pytest.raises(ROISeriesReadError, match=r"scans\.h5: .*claims"):
        SemantoksRecordings(tmp_path / "scans.h5")


def test_what_is_in_the_file_is_read(tmp_path, secret):
    write(tmp_path / "scans.h5", secret, "")
    with SemantoksRecordings(tmp_path / "scans.h5") as recordings:
        assert [recording.signals.shape for recording in recordings] == [(N_ROIS, N_TIMEPOINTS)] * N_SCANS
        assert recordings[-1].subject == "c"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__setitem__("ts_len", np.array([40, 41, 3])), "ts_len"),
        (lambda file: file.__setitem__("ts_len", np.array([[40], [40], [3]])), "ts_len with one value a scan"),
        (lambda file: file["timeseries"].__setitem__("tian3", np.zeros((3, 2, 39))), "number of timepoints"),
        (lambda file: file["timeseries"].__setitem__("tian3", np.zeros((3, 2))), "n_scans, n_rois, n_timepoints"),
        (lambda file: file["timeseries"].__setitem__("tian3", np.array([b"x"])), "n_scans, n_rois, n_timepoints"),
        (lambda file: file["timeseries"].create_group("tian3"), "a group"),
    ],
)
def test_columns_of_another_form_are_named(tmp_path, secret, change, message):
    write(tmp_path / "scans.h5", secret, "")
    with h5py.File(tmp_path / "scans.h5", "a") as file:
        change(file)
    with pytest.raises(ROISeriesReadError, match=rf"scans\.h5: .*{message}"):
        SemantoksRecordings(tmp_path / "scans.h5")


def test_the_file_that_a_link_points_at_is_not_even_opened(tmp_path, secret):
    os.mkfifo(tmp_path / "pipe.h5")  # opening it would wait for ever
    with h5py.File(tmp_path / "scan.mat", "w") as file:
        file["series"] = np.random.default_rng(0).normal(size=(20, N_ROIS))
        file["more"] = h5py.ExternalLink(str(tmp_path / "pipe.h5"), "/signals")
        group = file.create_group("timeseries")
        group["schaefer400"] = h5py.ExternalLink(str(tmp_path / "pipe.h5"), "/signals")
        layout = h5py.VirtualLayout((3, 5, 7), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "pipe.h5"), "signals", (3, 5, 7))
        group.create_virtual_dataset("tian3", layout)
    with pytest.raises(ROISeriesReadError, match="schaefer400 is a link"):
        SemantoksRecordings(tmp_path / "scan.mat", ["schaefer400"])
    with pytest.raises(ROISeriesReadError, match="tian3 keeps its data in other files"):
        SemantoksRecordings(tmp_path / "scan.mat", ["tian3"])


@pytest.mark.parametrize(
    ("trial", "said"),
    [("while True: pass", "comes to no end"), ("import os; os.abort()", "crashes on it")],
    ids=["endless", "crash"],
)
def test_a_file_that_the_library_itself_cannot_survive_is_refused(
    trial: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only files with a global heap are tried in a child: here, one with texts of any length.
    with h5py.File(tmp_path / "scans.h5", "w") as file:
        file["names"] = ["one", "two"]
    with hdf5.open_hdf5(tmp_path / "scans.h5") as file:
        assert file["names"].shape == (2,)
    monkeypatch.setattr(hdf5, "_TRIAL", trial)
    monkeypatch.setattr(hdf5, "_TRIAL_SECONDS", 2)
    with pytest.raises(ValueError, match=said):
        hdf5.open_hdf5(tmp_path / "scans.h5")
