"""CIFTI is read with its names and time step, and dense series over parcels of a label file; the rest is refused."""

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
    with pytest.warns(UserWarning, match="rows stand in another order"):
        np.testing.assert_array_equal(read_roi_series(path, roi_order=NAMES[::-1]).signals, values.T[::-1])
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
    with pytest.raises(FileNotFoundError, match=r"sub-01_task-rest_bold\.dtseries\.nii: dense CIFTI.*dlabel.nii"):
        load_dataset(tmp_path, roi_order=NAMES, cache_dir=tmp_path / "cache")


def test_another_unit_and_a_cut_file_are_refused(tmp_path):
    path = tmp_path / "scan.ptseries.nii"
    write(path, (nib.cifti2.SeriesAxis(0, 0.8, 60, "HERTZ"), parcels()))
    with pytest.raises(ROISeriesReadError, match=r"scan\.ptseries\.nii: .*seconds"):
        read_roi_series(path, n_rois=6)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ROISeriesReadError, match=r"scan\.ptseries\.nii: "):
        read_roi_series(path, n_rois=6)


# --- dense series ---

GRID = (5, 6, 4)
RAS = np.array([[2.0, 0, 0, -4], [0, 2, 0, -6], [0, 0, 2, -2], [0, 0, 0, 1]])
LAS = np.array([[-2.0, 0, 0, 4], [0, 2, 0, -6], [0, 0, 2, -2], [0, 0, 0, 1]])
PARCELS = {"Left_A": 3, "Left_B": 7, "Right_A": 11, "Thalamus": 20}


def surface(vertices, name, n_vertices=40):
    return nib.cifti2.BrainModelAxis.from_surface(np.asarray(vertices), n_vertices, name)


def voxels(ijk, affine, name="thalamus_left"):
    return nib.cifti2.BrainModelAxis(name=name, voxel=np.asarray(ijk), affine=affine, volume_shape=GRID, nvertices={})


def label_file(path, models, ids, n_maps=1):
    table = {0: ("???", (0, 0, 0, 0)), **{number: (name, (1, 0, 0, 1)) for name, number in PARCELS.items()}}
    axis = nib.cifti2.LabelAxis([f"map {number}" for number in range(n_maps)], [table] * n_maps)
    nib.Cifti2Image(np.tile(np.asarray(ids, np.float32), (n_maps, 1)), header=(axis, models)).to_filename(path)
    return path


@pytest.fixture
def dense(tmp_path):
    """A label file over all vertices, and a series without medial wall in another order, its voxels mirrored."""
    left = [3] * 15 + [7] * 15 + [0] * 10
    right = [11] * 40
    ijk = np.array([[x, y, z] for x in range(2) for y in range(2, 5) for z in (1, 2)])
    models = surface(range(40), "cortex_left") + surface(range(40), "cortex_right") + voxels(ijk, LAS)
    atlas = label_file(tmp_path / "atlas.dlabel.nii", models, left + right + [20] * len(ijk))

    kept_left, kept_right = np.arange(2, 40), np.arange(0, 38)
    mirrored = ijk[::-1] * [-1, 1, 1] + [4, 0, 0]
    axes = surface(kept_right, "cortex_right") + surface(kept_left, "cortex_left") + voxels(mirrored, RAS)
    rng = np.random.default_rng(0)
    own = {name: rng.normal(size=30) for name in PARCELS}
    rows = [own["Right_A"]] * 38 + [own["Left_A"]] * 13 + [own["Left_B"]] * 15 + [rng.normal(size=30)] * 10
    rows += [own["Thalamus"]] * len(ijk)
    values = np.array(rows) + rng.normal(size=(len(rows), 1))
    path = tmp_path / "sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii"

    def save(models=axes, series=None, values=values):
        series = nib.cifti2.SeriesAxis(0, 0.72, 30) if series is None else series
        nib.Cifti2Image(values.T.astype(np.float32), header=(series, models)).to_filename(path)
        return path

    expected = [values[38:51], values[51:66], values[:38], values[76:]]
    return save, atlas, np.array([part.mean(axis=0) for part in expected]), axes


def test_a_dense_series_is_averaged_by_vertex_and_place(dense):
    save, atlas, expected, _ = dense
    result = parcellate(save(), atlas)
    np.testing.assert_allclose(result.signals, expected, atol=1e-6)
    assert result.roi_labels == tuple(PARCELS)
    assert result.t_r == 0.72
    np.testing.assert_allclose(result.coverage, [13 / 15, 1, 38 / 40, 1], atol=1e-6)
    assert result.provenance["image"]["space"] == "fsLR"
    kept = np.delete(np.arange(30), [4, 5])
    cleaned = parcellate(save(), atlas, detrend=True, high_pass=0.02, sample_mask=kept)
    assert np.isnan(cleaned.signals[:, 4:6]).all()
    assert np.isfinite(cleaned.signals[:, kept]).all()
    assert cleaned.frame_mask.sum() == 28


def test_parcels_that_a_dense_series_lacks_are_missing_rows(dense):
    save, atlas, _, axes = dense
    cortex = np.asarray(axes.surface_mask)
    n_rows = int(cortex.sum())
    with pytest.warns(UserWarning, match=r"1 of 4 parcels have no voxel in the image and are NaN .*'Thalamus'"):
        result = parcellate(
            save(axes[np.flatnonzero(cortex)], values=np.random.default_rng(1).normal(size=(n_rows, 30))), atlas
        )
    assert np.isnan(result.signals[3]).all()
    assert np.isfinite(result.signals[:3]).all()
    assert result.coverage[3] == 0


def test_dense_series_that_do_not_fit_are_refused_in_words(dense, tmp_path):
    save, atlas, _, axes = dense
    series = nib.cifti2.SeriesAxis
    rng = np.random.default_rng(0)

    def refused(message, atlas=atlas, **file):
        with pytest.raises(ROISeriesReadError, match=message):
            parcellate(save(**file), atlas)

    refused("seconds as its unit, got HERTZ", series=series(0, 0.72, 30, "HERTZ"))
    other = surface(range(38), "cortex_right", 60) + surface(range(38), "cortex_left", 60)
    refused("40 vertices of the atlas, got 60: another mesh", models=other, values=rng.normal(size=(76, 30)))
    refused(
        "structures of the atlas .*CORTEX_LEFT.*nothing is in both",
        models=surface(range(38), "cerebellum"),
        values=rng.normal(size=(38, 30)),
    )
    shifted = RAS.copy()
    shifted[0, 3] += 0.7
    moved = surface(range(38), "cortex_left") + voxels([[1, 2, 1], [1, 2, 2]], shifted)
    refused("on one grid", models=moved, values=rng.normal(size=(40, 30)))
    twice = surface([0, 1, 1, *range(3, 38)], "cortex_left")
    refused("some of CORTEX_LEFT twice", models=twice, values=rng.normal(size=(38, 30)))
    refused("got 2 .map 0, map 1.", atlas=label_file(tmp_path / "two.dlabel.nii", axes, [3] * len(axes), n_maps=2))
    refused("expected a dense label file", atlas=save())
    content = save().read_bytes().replace(b'IndexCount="38"', b'IndexCount="9999999999"', 1)
    content = content.replace(b"<VertexIndices>0 1 2 3 ", b"<VertexIndices>", 1)  # as long as before
    path = save()
    path.write_bytes(content)
    with pytest.raises(ROISeriesReadError, match=r"describes 10,000,000,0\d\d vertices and voxels, it holds \d\d"):
        parcellate(path, atlas)
    with pytest.raises(ROISeriesReadError, match=r"expected a label image \(NIfTI\)"):
        parcellate(nib.Nifti1Image(np.ones((2, 2, 2, 5), np.float32), np.eye(4)), atlas)
