"""Parcellated CIFTI is read with its names and time step; other kinds are refused with the way on."""

import numpy as np
import pytest

from brain_transformers import load_dataset
from brain_transformers.data import parcellate
from brain_transformers.data.readers import ROISeriesReadError, read_roi_series

nib = pytest.importorskip("nibabel")

NAMES = [f"L_V{number}_ROI" for number in range(1, 7)]


def parcels():
    surface = nib.cifti2.BrainModelAxis.from_surface
    models = [(name, surface(np.arange(5 * k, 5 * k + 5), 100, "CortexLeft")) for k, name in enumerate(NAMES)]
    return nib.cifti2.ParcelsAxis.from_brain_models(models)


def write(path, axes, n_columns=6):
    values = np.random.default_rng(0).normal(size=(60, n_columns)).astype(np.float32)
    nib.Cifti2Image(values, header=axes).to_filename(path)
    return values


def test_series_names_and_time_step_are_read(tmp_path):
    path = tmp_path / "sub-01_task-rest_timeseries.ptseries.nii"
    values = write(path, (nib.cifti2.SeriesAxis(0, 0.8, 60), parcels()))
    read = read_roi_series(path, n_rois=6)
    np.testing.assert_array_equal(read.signals, values.T)
    assert read.roi_labels == tuple(NAMES)
    assert read.t_r == 0.8
    with pytest.raises(ROISeriesReadError, match="another order"):
        read_roi_series(path, roi_order=NAMES[::-1])
    row = load_dataset(tmp_path, roi_order=NAMES, cache_dir=tmp_path / "cache")[0]
    assert (row["subject"], row["t_r"], row["n_rois"]) == ("01", 0.8, 6)


def test_other_kinds_are_named_with_the_way_on(tmp_path):
    dense = nib.cifti2.BrainModelAxis.from_surface(np.arange(6), 100, "CortexLeft")
    scalars = nib.cifti2.ScalarAxis([f"map {number}" for number in range(60)])
    for name, axes in (
        ("scan.dtseries.nii", (nib.cifti2.SeriesAxis(0, 0.8, 60), dense)),
        ("scan.ptseries.nii", (nib.cifti2.SeriesAxis(0, 0.8, 60), dense)),
        ("scan.pscalar.nii", (scalars, parcels())),
    ):
        write(tmp_path / name, axes)
        with pytest.raises(ROISeriesReadError, match=rf"{name}: .*CIFTI.*wb_command -cifti-parcellate"):
            read_roi_series(tmp_path / name, n_rois=6)
    with pytest.raises(ROISeriesReadError, match="CIFTI"):
        parcellate(tmp_path / "scan.dtseries.nii", nib.Nifti1Image(np.ones((2, 2, 2), np.int16), np.eye(4)))


def test_a_folder_of_dense_series_says_what_they_are(tmp_path):
    dense = nib.cifti2.BrainModelAxis.from_surface(np.arange(6), 100, "CortexLeft")
    write(tmp_path / "sub-01_task-rest_bold.dtseries.nii", (nib.cifti2.SeriesAxis(0, 0.8, 60), dense))
    with pytest.raises(
        FileNotFoundError, match=r"sub-01_task-rest_bold\.dtseries\.nii: dense CIFTI.*cifti-parcellate"
    ):
        load_dataset(tmp_path, roi_order=NAMES, cache_dir=tmp_path / "cache")


def test_another_unit_and_a_cut_file_are_refused(tmp_path):
    path = tmp_path / "scan.ptseries.nii"
    write(path, (nib.cifti2.SeriesAxis(0, 0.8, 60, "HERTZ"), parcels()))
    with pytest.raises(ROISeriesReadError, match=r"scan\.ptseries\.nii: .*seconds"):
        read_roi_series(path, n_rois=6)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ROISeriesReadError, match=r"scan\.ptseries\.nii: "):
        read_roi_series(path, n_rois=6)
