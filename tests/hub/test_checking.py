"""`check`: what scans are, and what a model's processor would do about each."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import brain_transformers as bt
from brain_transformers.cli.main import main
from brain_transformers.data.builders import dataset_from_arrays
from brain_transformers.data.saved_datasets import save_dataset
from brain_transformers.hub.sharing import save_model_folder
from brain_transformers.processing.filtering import band_pass_filter
from brain_transformers.processing.roi_series import ROISeriesFeatureExtractor

pytest.importorskip("scipy")
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from lab_folders import LABELS_4S, series, xcpd_run

T_R, N_ROIS = 0.72, 50
WRONG = {
    "mean-free": lambda x: x - x.mean(axis=1, keepdims=True),
    "z-scored": lambda x: (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True),
    "percent change": lambda x: 100 * (x / x.mean(axis=1, keepdims=True) - 1),
    "band-passed": lambda x: band_pass_filter(x, T_R, [0.01, 0.1]),
    "global-scaled": lambda x: (x - x.mean()) / x.std(),
    "int16 raw": lambda x: x.astype(np.int16),
    "log": np.log,
    "sign-flipped": lambda x: -x,
}


@pytest.fixture(scope="module")
def scans() -> list[np.ndarray]:
    rows = bt.synthetic_scans(8, n_timepoints=400, t_r=T_R, roi_order="tian-s3", seed=2)
    return [row["signals"].reshape(N_ROIS, -1).astype(np.float64) for row in rows]


@pytest.fixture(scope="module")
def processor(scans) -> ROISeriesFeatureExtractor:
    """One that scales by the levels of parcels, as Harmonix-F does."""
    options = {"n_rois": N_ROIS, "n_timepoints": 200, "patch_size": 20, "roi_order": "tian-s3", "t_r": T_R}
    return ROISeriesFeatureExtractor(**options, normalization="robust-means").fit(scans, roi_order="tian-s3")


@pytest.fixture(scope="module")
def model(scans, tmp_path_factory) -> Path:
    dataset = dataset_from_arrays(scans, roi_order="tian-s3", t_r=T_R)
    made, extractor = bt.new_model("brainlm-tiny", dataset)
    return save_model_folder(made, tmp_path_factory.mktemp("models") / "model", extractor=extractor)


def write(folder: Path, scans: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in scans.items():
        np.save(folder / f"sub-{name.replace(' ', '').replace('-', '')}_bold.npy", values)
    return folder


def test_wrong_scales_are_named_and_real_ones_are_not(scans, processor, tmp_path):
    folder = write(tmp_path / "wrong", {name: how(scans[0]) for name, how in WRONG.items()})
    report = bt.check(folder, processor, roi_order="tian-s3", t_r=T_R, progress=False)
    found = {scan.facts["subject"]: scan for scan in report.scans}
    for name in WRONG:
        scan = found[name.replace(" ", "").replace("-", "")]
        assert name in scan.facts["units"], name
        assert scan.status == "warning", name
    zero_mean = {"mean-free", "z-scored", "percent change", "band-passed"}
    for name in WRONG:
        text = " ".join(text for _, text in found[name.replace(" ", "").replace("-", "")].findings)
        assert ("zero-mean input" in text and "IQR of the means" in text) == (name in zero_mean), name
    assert not report.ok(strict=True)
    assert report.ok()
    right = write(tmp_path / "right", {f"{number:02d}": scan for number, scan in enumerate(scans)})
    report = bt.check(right, processor, roi_order="tian-s3", t_r=T_R, progress=False)
    assert report.counts == {"ok": 8, "warning": 0, "refused": 0}
    assert report.ok(strict=True)
    # A model that z-scores every parcel has no use for its level, and says so instead of a warning.
    plain = ROISeriesFeatureExtractor(
        n_rois=N_ROIS, n_timepoints=200, patch_size=20, roi_order="tian-s3", normalization="zscore"
    )
    report = bt.check(folder, plain, roi_order="tian-s3", t_r=T_R, progress=False)
    warned = {scan.facts["units"] for scan in report.scans if scan.status == "warning"}
    assert warned == {"band-passed, mean-free", "log", "sign-flipped"}


def test_every_scan_of_a_folder_is_listed_with_what_would_become_of_it(scans, processor, tmp_path):
    holes = scans[0].copy()
    holes[:, 100:160] = np.nan
    holes[3] = 0.0
    holes[5] = np.nan
    folder = write(tmp_path, {"holes": holes, "short": scans[1][:, :15], "good": scans[2], "other": scans[3][:20]})
    (folder / "sub-broken_bold.npy").write_bytes(b"\x93NUMPY\x01\x00 nothing")
    (folder / "sub-good_confounds.tsv").write_text("a\tb\n1\t2\n")
    report = bt.check(folder, processor, roi_order="tian-s3", t_r=T_R, progress=False)
    statuses = {"good": "ok", "holes": "warning", "short": "refused", "broken": "refused", "other": "refused"}
    assert {scan.facts["subject"]: scan.status for scan in report.scans} == statuses
    found = {scan.facts["subject"]: scan for scan in report.scans}
    holes_facts = found["holes"].facts
    assert [holes_facts[key] for key in ("cut_frames", "constant_parcels", "missing_parcels")] == [60, 1, 1]
    assert (holes_facts["n_windows"], holes_facts["t_r"], holes_facts["minutes"]) == (2, T_R, 4.8)
    assert holes_facts["observed_tokens"] == 0.85
    assert "at least one patch of 20 timepoints, got 15" in found["short"].findings[0][1]
    assert "cannot be read" in found["broken"].findings[0][1]
    assert "sub-good_confounds.tsv" in report.left_out
    # No path of this machine, and not a name that another scan has not.
    assert str(tmp_path) not in str([scan.findings for scan in report.scans])
    one = bt.check(folder / "sub-good_bold.npy", processor, roi_order="tian-s3", t_r=T_R, progress=False)
    assert [scan.facts["subject"] for scan in one.scans] == ["good"]


def test_order_and_time_are_told_and_what_is_done_about_them(scans, tmp_path):
    order = "schaefer400-7net+tian-s3+buckner7"
    other = bt.synthetic_scans(2, n_timepoints=200, t_r=T_R, roi_order="tian-s3+schaefer400-17net")
    report = bt.check(other, "brain-semantoks-base", progress=False)
    remarks = [text for status, text in report.scans[0].findings if status == "ok"]
    assert "rows put into the model's order by their labels" in remarks
    assert any(
        "lacks 7 of the 457 parcels" in text for status, text in report.scans[0].findings if status == "warning"
    )
    assert any("resampled from 0.72 s to 2 s" in text for text in remarks)
    assert any("synthetic" in note for note in report.notes)
    assert report.expects["scans"].startswith(f"series of 457 parcels, '{order}'")
    wrong = bt.check([scans[0]], "brainlm-13m", roi_order="tian-s3", t_r=T_R, progress=False)
    assert "no label in common" in wrong.scans[0].findings[0][1]
    assert any("is fitted on training scans" in note for note in wrong.notes)


def test_folders_of_labs_need_no_order(tmp_path):
    cut = np.zeros(120, dtype=int)
    cut[[10, 11, 40]] = 1
    signals = series(456, 120)
    xcpd_run(tmp_path / "xcp_d", "sub-01_task-rest", signals - signals.mean(axis=1, keepdims=True), LABELS_4S, cut=cut)
    report = bt.check(tmp_path / "xcp_d", "harmonix-f-base", progress=False)
    (scan,) = report.scans
    assert (scan.facts["cut_frames"], scan.facts["t_r"], scan.facts["mean_free"]) == (3, 2.0, True)
    assert scan.status == "warning"
    assert any("zero-mean input" in text for _, text in scan.findings)
    assert any(status == "ok" and "gaps at their true times" in text for status, text in scan.findings)


def test_datasets_are_checked_by_what_they_hold(scans, processor, tmp_path):
    dataset = dataset_from_arrays(scans, roi_order="tian-s3", t_r=T_R, subject=[f"p{n}" for n in range(8)])
    save_dataset(dataset.train_test_split(2, seed=0), tmp_path / "saved")
    report = bt.check(tmp_path / "saved", processor, progress=False)
    assert sorted({scan.facts["split"] for scan in report.scans}) == ["test", "train"]
    assert report.counts["ok"] == 8
    with pytest.raises(ValueError, match="is prepared already: roi_order would change nothing"):
        bt.check(tmp_path / "saved", processor, roi_order="tian-s3")
    with pytest.raises(ValueError, match=r"expected rows with volumes.*got series of ROIs"):
        bt.check(dataset, "brain-mt-tiny", progress=False)
    with pytest.raises(ValueError, match="expected scans, got none"):
        bt.check(dataset.select([]), processor, progress=False)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        bt.check(tmp_path / "nothing", processor)
    with pytest.raises(ValueError, match="brainlm-13n"):
        bt.check(dataset, "brainlm-13n")


def test_memory_holds_no_scans(scans, processor):
    def many():
        for number in range(120):
            scan = scans[number % 8].copy()
            scan[number % 50] = 0.0
            yield {"signals": scan, "roi_order": "tian-s3", "t_r": T_R, "subject": f"{number:03d}"}

    report = bt.check(many(), processor, progress=False)
    assert len(report.scans) == 120
    assert len(report.carpets) == 6
    assert {len(names) for _, text, names in report.findings() if "constant" in text} == {120}


def test_the_report_is_a_table_and_a_page(scans, model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder = write(tmp_path / "scans", {"<b>x": scans[0], "flipped": -scans[1], "short": scans[2][:, :5]})
    options = ["--model", str(model), "--roi-order", "tian-s3", "--t-r", str(T_R)]
    output = tmp_path / "report"
    assert main(["check", str(folder), *options, "--output", str(output)]) == 1
    assert "3 scans of" in capsys.readouterr().out
    with (output / "scans.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["status"] for row in rows] == ["ok", "warning", "refused"]
    assert rows[1]["units"] == "sign-flipped"
    assert "upside down" in rows[1]["findings"]
    page = (output / "report.html").read_text()
    assert len(re.findall("<img", page)) == 2
    assert all(
        words in page for words in ("upside down", "What the model expects", "robust, fitted on 8 training scans")
    )
    assert "sub-<b>" not in page
    assert "http" not in re.sub(r"data:image[^\"]*", "", page)
    # An earlier report is not replaced unless that is asked for, and nothing else ever is.
    assert main(["check", str(folder), *options, "--output", str(output)]) == 2
    assert main(["check", str(folder), *options, "--output", str(output), "--overwrite"]) == 1
    (output / "mine.txt").write_text("mine")
    assert main(["check", str(folder), *options, "--output", str(output), "--overwrite"]) == 2


def test_the_exit_status_is_for_scripts(scans, model, tmp_path):
    good, flipped = (write(tmp_path / name, {"01": scan}) for name, scan in (("a", scans[0]), ("b", -scans[0])))
    options = ["--model", str(model), "--roi-order", "tian-s3", "--t-r", str(T_R)]
    assert main(["check", str(good), *options, "--strict"]) == 0
    assert main(["check", str(flipped), *options]) == 0
    assert main(["check", str(flipped), *options, "--strict"]) == 1
    short = write(tmp_path / "c", {"01": scans[0][:, :5]})
    assert main(["check", str(short), *options]) == 1
    for wrong in (["--model", "brainlm-13n"], ["--model", str(tmp_path / "no")]):
        assert main(["check", str(good), *wrong]) == 2
    assert main(["check", str(tmp_path / "no"), *options]) == 2
    shutil.rmtree(short)
    command = [sys.executable, "-m", "brain_transformers", "check", str(good), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "1 scan of" in done.stdout) == (0, True), done.stderr[-2000:]
