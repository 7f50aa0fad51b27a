"""A saved dataset is read back whole, or one error names the file that is damaged."""

import json
import subprocess
import sys

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")

from brain_transformers.data.builders import dataset_from_arrays, load_dataset  # noqa: E402
from brain_transformers.data.errors import ROISeriesReadError  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    scans = [rng.normal(size=(3, 8 + number)) for number in range(4)]
    made = dataset_from_arrays(scans, roi_order=["a", "b", "c"], t_r=0.8, subject=list("wxyz"), age=[1, None, 3, 4])
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_whole_datasets_load_with_their_gaps(folder):
    loaded = load_dataset(folder)
    assert set(loaded) == {"train", "test"}
    assert loaded["train"].with_format(None)["age"][:] == [1, None, 3, 4]
    assert load_dataset(folder, split="test").num_rows == 4
    with pytest.raises(ValueError, match="Expected split to be one of"):
        load_dataset(folder, split="validation")


_READ_DAMAGED = """
import pathlib, sys
import numpy as np
from brain_transformers.data.builders import load_dataset

folder = pathlib.Path(sys.argv[1])
path = next((folder / "train").glob("*.arrow"))
whole = path.read_bytes()
refused = 0
for seed in range(60):
    rng = np.random.default_rng(seed)
    content = bytearray(whole)
    for place in rng.integers(0, len(content), 8):
        content[place : place + 4] = rng.bytes(4)
    path.write_bytes(content)
    try:
        for row in load_dataset(folder, split="train"):
            pass
    except ValueError as error:
        assert str(folder) in str(error), error
        refused += 1
print(refused)
"""


def test_options_that_would_change_nothing_are_refused(folder):
    assert load_dataset(folder, t_r=0.8)["train"].num_rows == 4
    with pytest.raises(ValueError, match=r"expected rows with t_r=2 s, got 0\.8"):
        load_dataset(folder, t_r=2.0)
    with pytest.raises(ValueError, match="pattern would change nothing"):
        load_dataset(folder, pattern="*.npy")


def test_damaged_arrow_files_never_reach_a_reader_of_values(folder):
    # In a process of its own: what is not refused may end the interpreter.
    command = [sys.executable, "-c", _READ_DAMAGED, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    assert int(done.stdout) > 20


def test_a_cut_off_arrow_file_is_named(folder):
    path = next((folder / "test").glob("*.arrow"))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ROISeriesReadError, match=rf"{path.name}: the Arrow file is damaged or cut off.*prepare"):
        load_dataset(folder)
    assert load_dataset(folder, split="train").num_rows == 4


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dataset_dict.json", "{"),
        ("dataset_dict.json", '{"splits": ["../train"]}'),
        ("dataset_dict.json", '{"splits": 3}'),
        ("train/state.json", "[]"),
        ("train/state.json", "[" * 100_000),
        ("train/state.json", '{"_data_files": [{"filename": "../../other.arrow"}]}'),
        ("train/state.json", '{"_data_files": [{"filename": "gone.arrow"}]}'),
        ("train/dataset_info.json", '{"features": {"signals": {"_type": "Nothing"}}}'),
        ("train/dataset_info.json", '{"features": 7}'),
        ("train/dataset_info.json", b"\xff\xfe\x00"),
    ],
)
def test_damaged_descriptions_are_one_error_that_names_the_file(folder, file, content):
    path = folder / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ROISeriesReadError, match="prepare") as error:
        load_dataset(folder)
    assert str(path.parent) in str(error.value)


def test_rows_that_are_no_scans_are_refused(folder, tmp_path):
    state = json.loads((folder / "train" / "state.json").read_text())
    assert state["_data_files"]
    rows = load_dataset(folder, split="train").with_format(None)
    for column, values, message in (
        ("n_timepoints", [8, 9, 10, 99], "not n_rois x n_timepoints values"),
        ("n_rois", [0, 3, 3, 3], "fewer than 1 ROI"),
        ("n_rois", ["3"] * 4, "n_rois of type string"),
    ):
        rows.remove_columns(column).add_column(column, values).save_to_disk(
            str(tmp_path / column / values[-1].__str__())
        )
        with pytest.raises(ROISeriesReadError, match=message):
            load_dataset(tmp_path / column / values[-1].__str__())
    rows.remove_columns("roi_order").save_to_disk(str(tmp_path / "others"))
    with pytest.raises(ValueError, match="expected a dataset of scans with columns"):
        load_dataset(tmp_path / "others")
