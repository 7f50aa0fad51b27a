"""Parquet that streams and is shared by machines, and raw images as a column."""

from pathlib import Path

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")
nib = pytest.importorskip("nibabel")

from datasets.distributed import split_dataset_by_node  # noqa: E402

import brain_transformers as bt  # noqa: E402
from brain_transformers.data import export_parquet, save_dataset, with_images  # noqa: E402
from brain_transformers.data.errors import ROISeriesReadError  # noqa: E402
from brain_transformers.processing.rows import unpack_row  # noqa: E402

LABELS = ["LH_Vis", "RH_Vis", "LH_SomMot"]


def scans(n: int) -> "datasets.Dataset":
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 20 + number)).astype(np.float32) for number in range(n)]
    subjects = [f"{number:02d}" for number in range(n)]
    return bt.dataset_from_arrays(arrays, roi_order=LABELS, t_r=2.0, subject=subjects, age=list(range(20, 20 + n)))


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_a_stream_gives_the_same_rows_and_machines_share_it(tmp_path: Path, form: str) -> None:
    rows, folder = scans(10), tmp_path / "dataset"
    parts = datasets.DatasetDict({"train": rows.select(range(8)), "test": rows.select([8, 9])})
    if form == "parquet":
        export_parquet(parts, folder, n_files=4)
        assert len(list(folder.glob("data/train-0000?-of-00004.parquet"))) == 4
    else:
        save_dataset(parts, folder)
    stream = bt.load_dataset(folder, streaming=True)
    assert set(stream) == {"train", "test"}
    for got, expected in zip(stream["train"], rows, strict=False):
        np.testing.assert_array_equal(unpack_row(got)[0], unpack_row(expected)[0])
        for name in ("subject", "age", "roi_order"):
            assert got[name] == expected[name]
    streams = [bt.load_dataset(folder, split="train", streaming=True) for _ in range(2)]
    shares = [[row["subject"] for row in split_dataset_by_node(one, rank, 2)] for rank, one in enumerate(streams)]
    assert sorted(shares[0] + shares[1]) == list(rows["subject"])[:8]
    assert len(shares[0]) == len(shares[1]) == 4
    # Not streamed, it is the dataset that it was.
    whole = bt.load_dataset(folder, split="train", cache_dir=tmp_path / "cache")
    assert whole.features == rows.features
    np.testing.assert_array_equal(whole[3]["signals"], rows[3]["signals"])


def test_rows_of_a_stream_go_through_the_collator(tmp_path: Path) -> None:
    import torch

    rows = scans(6)
    _, extractor = bt.new_model(
        "brainlm-tiny",
        rows,
        tables={"coordinates": np.eye(3)},
        n_timepoints=20,
        patch_size=5,
        coordinate_init_scale=0.02,
    )
    export_parquet(rows, tmp_path / "parquet")
    loader = torch.utils.data.DataLoader(
        bt.load_dataset(tmp_path / "parquet", streaming=True), batch_size=3, collate_fn=bt.ScanCollator(extractor)
    )
    batches = [batch["signals"] for batch in loader]
    expected = bt.ScanCollator(extractor)([rows[number] for number in range(6)])["signals"]
    torch.testing.assert_close(torch.cat(batches), expected)


def test_what_cannot_be_exported_or_streamed_is_said(tmp_path: Path) -> None:
    cells = {"volumes": "a.npy", "shape": [1, 2, 2, 2], "dtype": "int8", "scale": 1.0, "offset": 0.0}
    cells |= {"normalization": "zscore", "background": "min"}
    frames = datasets.Dataset.from_list([cells])
    with pytest.raises(ValueError, match="4-D volumes name files that lie beside them"):
        export_parquet(frames, tmp_path / "parquet")
    assert not (tmp_path / "parquet").exists()
    with pytest.raises(ValueError, match="read as a whole before they stream"):
        bt.load_dataset(tmp_path, streaming=True)
    (tmp_path / "other" / "data").mkdir(parents=True)
    datasets.Dataset.from_dict({"text": ["x"]}).to_parquet(tmp_path / "other/data/train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="expected rows of scans"):
        bt.load_dataset(tmp_path / "other", cache_dir=tmp_path / "cache")


def test_images_of_rows_are_a_column_to_share(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 4, 4, 5)).astype(np.float32)
    (tmp_path / "bids").mkdir()
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "bids" / "sub-01_bold.nii.gz")
    rows = scans(1).remove_columns("source_file").add_column("source_file", ["sub-01_bold.nii.gz"])
    shared = with_images(rows, tmp_path / "bids")
    assert isinstance(shared.features["image"], datasets.Nifti)
    np.testing.assert_allclose(shared[0]["image"].get_fdata(), values)
    assert shared[0]["subject"] == "00"
    with pytest.raises(FileNotFoundError, match="1 of 1 images are not there"):
        with_images(rows, tmp_path)
    with pytest.raises(ValueError, match="come from NIfTI images"):
        with_images(scans(2), tmp_path)


def test_a_damaged_file_is_told_with_its_folder(tmp_path: Path) -> None:
    export_parquet(scans(4), tmp_path / "parquet")
    (file,) = (tmp_path / "parquet" / "data").iterdir()
    file.write_bytes(file.read_bytes()[:-200])
    for streaming in (False, True):
        with pytest.raises(ROISeriesReadError, match=r"parquet: cannot be read as Parquet files of scans"):
            bt.load_dataset(tmp_path / "parquet", streaming=streaming, cache_dir=tmp_path / "cache")
