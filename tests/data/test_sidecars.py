"""The repetition time: from the right sidecar, never from two sources that disagree."""

import json

import numpy as np
import pytest

from brain_transformers.data.readers import ROISeriesReadError, read_roi_series
from brain_transformers.data.sidecars import scan_t_r

NAME = "sub-01_ses-2_task-rest_run-1_space-MNI152NLin6Asym_desc-preproc_bold"


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "bids" / "sub-01" / "ses-2" / "func" / f"{NAME}.nii.gz"
    path.parent.mkdir(parents=True)
    return path


def write(path, value):
    path.write_text(json.dumps({"RepetitionTime": value, "TaskName": "rest"}))


def test_sidecars_are_inherited_and_the_nearest_counts(scan):
    root = scan.parents[3]
    assert scan_t_r(scan) is None
    write(root.parent / "task-rest_bold.json", 9.0)  # above the dataset
    write(root / "task-nback_bold.json", 8.0)
    write(root / "sub-02_task-rest_bold.json", 8.0)
    write(root / "task-rest_events.json", 8.0)
    assert scan_t_r(scan) is None
    write(root / "task-rest_bold.json", 3.0)
    assert scan_t_r(scan) == 3.0
    write(scan.parents[1] / "sub-01_ses-2_bold.json", 2.5)
    assert scan_t_r(scan) == 2.5
    write(scan.parent / "sub-01_ses-2_task-rest_run-1_bold.json", 2.0)
    assert scan_t_r(scan) == 2.0
    write(scan.with_name(f"{NAME}.json"), 0.8)
    assert scan_t_r(scan) == 0.8
    write(scan.with_name(f"{NAME}.json"), "n/a")
    assert scan_t_r(scan) == 2.0


def test_tables_of_parcels_ask_the_image_of_their_run(scan):
    table = scan.with_name("sub-01_ses-2_task-rest_run-1_space-fsLR_seg-4S456Parcels_stat-mean_timeseries.tsv")
    table.with_suffix(".json").write_text(json.dumps({"SamplingFrequency": "TR"}))
    write(scan.parent / "sub-01_ses-2_task-rest_run-2_space-fsLR_desc-denoised_bold.json", 9.0)
    assert scan_t_r(table) is None
    write(scan.parent / "sub-01_ses-2_task-rest_run-1_space-fsLR_desc-denoised_bold.json", 2.0)
    assert scan_t_r(table) == 2.0
    write(scan.parent / "sub-01_ses-2_task-rest_run-1_space-fsLR_desc-other_bold.json", 0.8)
    with pytest.raises(ROISeriesReadError, match=r"timeseries\.tsv: .*2 s from .*0\.8 s from "):
        scan_t_r(table)


def test_a_sampling_frequency_tells_the_time_too(scan):
    table = scan.with_name("sub-01_ses-2_task-rest_run-1_seg-4S456Parcels_timeseries.tsv")
    for content, expected in (
        ({"SamplingFrequency": 0.5}, 2.0),
        ({"SamplingFrequency": 1 / 0.72}, 0.72),
        ({"SamplingFrequency": 1.389, "RepetitionTime": 0.72}, 0.72),
        ({"SamplingFrequency": 0}, None),
    ):
        table.with_suffix(".json").write_text(json.dumps(content))
        assert scan_t_r(table) == expected
    for content, message in (
        ({"SamplingFrequency": 2, "RepetitionTime": 2.0}, "RepetitionTime 2 s and SamplingFrequency 2 Hz"),
        ({"SamplingFrequency": 1000}, "SamplingFrequency of 1000 Hz is 0.001 s"),
    ):
        table.with_suffix(".json").write_text(json.dumps(content))
        with pytest.raises(ROISeriesReadError, match=message):
            scan_t_r(table)


def test_names_with_dots_have_sidecars_too(tmp_path):
    write(tmp_path / "subject.01.rest.json", 1.4)
    assert scan_t_r(tmp_path / "subject.01.rest.tsv.gz") == 1.4
    assert scan_t_r(tmp_path / "subject.02.rest.tsv.gz") is None


@pytest.mark.parametrize(
    "value",
    [[2.0, 3.0], "2.0", -1, 720, 72, 1e999, True, {"value": 2}, [], "fast", 0.00072, pytest.param(10**400, id="huge")],
)
def test_what_is_no_time_in_seconds_is_one_error_that_names_the_sidecar(scan, value):
    write(scan.with_name(f"{NAME}.json"), value)
    with pytest.raises(ROISeriesReadError, match=rf"{NAME}\.json: RepetitionTime is .*seconds"):
        scan_t_r(scan)
    with pytest.warns(UserWarning, match=rf"t_r=0\.72 is used as given, but: .*{NAME}\.json"):
        assert scan_t_r(scan, given=0.72) == 0.72


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("n/a", None), ([1.5] * 4, 1.5), (float("nan"), None)])
def test_gaps_tell_nothing_and_a_list_of_equal_times_is_one(scan, value, expected):
    write(scan.with_name(f"{NAME}.json"), value)
    assert scan_t_r(scan) == expected


def test_header_and_sidecar_must_agree(scan):
    write(scan.with_name(f"{NAME}.json"), 2.0)
    assert scan_t_r(scan, header=0.0) == 2.0
    assert scan_t_r(scan, header=2.0005) == 2.0
    with pytest.raises(
        ROISeriesReadError, match=rf"{NAME}\.nii\.gz: .*1 s from its header and 2 s from .*{NAME}\.json"
    ):
        scan_t_r(scan, header=1.0)
    with pytest.warns(UserWarning, match=r"t_r=1 s was given and is used, but .* 2 s"):
        assert scan_t_r(scan, given=1.0) == 1.0
    with pytest.raises(ValueError, match="seconds"):
        scan_t_r(scan, given=720)


def test_readers_compare_what_a_file_says_with_its_sidecar(tmp_path):
    np.savez(tmp_path / "scan.npz", series=np.random.default_rng(0).normal(size=(3, 20)), t_r=0.72)
    assert read_roi_series(tmp_path / "scan.npz", n_rois=3).t_r == 0.72
    write(tmp_path / "scan.json", 2.0)
    with pytest.raises(ROISeriesReadError, match=r"scan\.npz: expected one repetition time"):
        read_roi_series(tmp_path / "scan.npz", n_rois=3)
    np.savez(tmp_path / "scan.npz", series=np.random.default_rng(0).normal(size=(3, 20)), t_r=720)
    with pytest.raises(ROISeriesReadError, match=r"scan\.npz: .* 720 s"):
        read_roi_series(tmp_path / "scan.npz", n_rois=3)
