"""What the name of a scan says of it."""

import pytest

from brain_transformers.data.scan_names import scan_name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("100307_rfMRI_REST1_LR.npy", {"subject": "100307", "task": "REST", "run": "1", "dir": "LR"}),
        (
            "100307/MNINonLinear/Results/tfMRI_WM_RL/tfMRI_WM_RL_clean.nii.gz",
            {"subject": "100307", "task": "WM", "dir": "RL", "desc": "clean"},
        ),
        ("HCD0001305_V1_MR_rfMRI_REST2_AP.npy", {"subject": "HCD0001305", "session": "V1", "run": "2", "dir": "AP"}),
        ("1000001/i2/fMRI.Schaefer17n400p.csv.gz", {"subject": "1000001", "session": "i2"}),
        ("1000001/run1.npy", {"subject": "1000001", "run": "run1"}),
        ("1000001_20227_2_0.npy", {"subject": "1000001", "session": "2"}),
        (
            "sub-01/ses-a/func/sub-01_ses-a_task-rest_acq-mb_dir-AP_run-2_space-T1w_desc-x_bold.nii.gz",
            {"subject": "01", "session": "a", "task": "rest", "acq": "mb", "dir": "AP", "run": "2", "space": "T1w"},
        ),
        ("sub-01/ses-a/task-rest.npy", {"subject": "01", "session": "a", "task": "rest"}),
        ("002_S_0295_rest_1.npy", {"subject": "002_S_0295", "run": "rest_1"}),
        ("OAS30001_MR_d0129_run-01.npy", {"subject": "OAS30001", "session": "d0129", "run": "run-01"}),
        # Labels with characters that BIDS forbids stay whole, so that people are not joined.
        ("sub-NDAR-INV1_task-rest_bold.npy", {"subject": "NDAR-INV1"}),
        ("sub-CMH_0001/func/sub-CMH_0001_task-rest_bold.npy", {"subject": "CMH_0001", "task": "rest"}),
    ],
)
def test_names_of_cohorts_and_of_bids_say_whose_scan_it_is(name, said):
    told = scan_name(name)
    assert told.known
    assert {key: told.columns[key] for key in said} == said
