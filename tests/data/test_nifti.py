"""Headers of images are believed only as far as their files reach; the right repetition time reaches the dataset."""

import gzip
import json
import tracemalloc

import numpy as np
import pytest

from brain_transformers import load_dataset
from brain_transformers.data import load_atlas, parcellate
from brain_transformers.data.readers import ROISeriesReadError

nib = pytest.importorskip("nibabel")

LABELS = ["V1", "V2"]


def image(data, t_r=2.0, unit="sec"):
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    picture = nib.Nifti1Image(data, affine)
    picture.set_sform(affine, 4)
    picture.set_qform(affine, 4)
    if data.ndim == 4:
        picture.header.set_zooms((4, 4, 4, t_r))
        picture.header.set_xyzt_units("mm", unit)
    return picture


@pytest.fixture
def atlas(tmp_path):
    labels = np.zeros((4, 4, 4), np.int16)
    labels[:2], labels[2:] = 1, 2
    nib.save(image(labels), tmp_path / "atlas.nii.gz")
    return tmp_path / "atlas.nii.gz"


def bold(path, **header):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image(np.random.default_rng(0).normal(1000, 9, (4, 4, 4, 30)).astype(np.float32), **header), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(4, 4, 4, 32000), (30000, 30000, 3000, 30), (4, 4, 4, -30)])
def test_claims_are_refused_before_memory_is_taken(tmp_path, atlas, suffix, shape):
    path = bold(tmp_path / f"sub-01_bold{suffix}")
    content = bytearray(gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes())
    content[42:50] = np.array(shape, "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(content)) if suffix == ".nii.gz" else bytes(content))
    tracemalloc.start()
    with pytest.raises(ROISeriesReadError, match=rf"sub-01_bold{suffix}: "):
        parcellate(path, atlas)
    with pytest.raises(ROISeriesReadError, match=rf"sub-01_bold{suffix}: "):
        load_atlas(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_extensions_that_no_header_has_are_refused(tmp_path, atlas, suffix):
    path = bold(tmp_path / f"sub-01_bold{suffix}")
    content = bytearray(gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes())
    content[348:360] = b"\1\0\0\0" + (2**31 - 16).to_bytes(4, "little") + (6).to_bytes(4, "little")
    content[108:112] = np.float32(2**31).tobytes()  # where the data begin
    path.write_bytes(gzip.compress(bytes(content)) if suffix == ".nii.gz" else bytes(content))
    with pytest.raises(ROISeriesReadError, match=rf"sub-01_bold{suffix}: .*claims an extension of 2,147,483,6"):
        parcellate(path, atlas)


def test_sidecar_and_header_of_an_image(tmp_path, atlas):
    folder = tmp_path / "bids"
    path = bold(folder / "sub-01" / "func" / "sub-01_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz", t_r=0)
    (folder / "task-rest_bold.json").write_text(json.dumps({"RepetitionTime": 2.5}))
    assert parcellate(path, atlas).t_r == 2.5
    row = load_dataset(folder, roi_order=LABELS, atlas=atlas, cache_dir=tmp_path / "cache")[0]
    assert row["t_r"] == 2.5
    bold(path, t_r=1.0)
    with pytest.raises(
        ROISeriesReadError, match=r"bold\.nii\.gz: .*1 s from its header and 2\.5 s from .*_bold\.json"
    ):
        parcellate(path, atlas)
    with pytest.warns(UserWarning, match=r"t_r=2\.5 is used as given"):
        assert parcellate(path, atlas, t_r=2.5).t_r == 2.5
    bold(path, t_r=2500, unit="msec")
    assert parcellate(path, atlas).t_r == 2.5


@pytest.mark.parametrize("t_r", [720, 72, -1, float("nan")])
def test_a_header_in_another_unit_is_refused(tmp_path, atlas, t_r):
    path = bold(tmp_path / "sub-01_bold.nii.gz")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[92:96] = np.array([t_r], "<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(ROISeriesReadError, match=r"sub-01_bold\.nii\.gz: .*seconds"):
        parcellate(path, atlas)
