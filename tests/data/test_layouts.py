"""Folders of labs: labels, repetition times and cut frames come out right without a word from the user."""

import json
import re
import warnings

import numpy as np
import pytest

pytest.importorskip("datasets")
pytest.importorskip("nibabel")

from brain_transformers.atlases.parcel_tables import parcel_table
from brain_transformers.atlases.roi_orders import permutation, roi_labels, whole_atlases
from brain_transformers.cli.main import main
from brain_transformers.data import load_dataset
from brain_transformers.data.readers import ROISeriesReadError, read_roi_series
from brain_transformers.processing.rows import unpack_row
from tests.data.lab_folders import (
    LABELS_4S,
    LABELS_TIAN,
    PARCELS,
    abcd_session,
    fmriprep_run,
    hcp_run,
    label_file,
    label_image,
    series,
    ukb_tables,
    write_json,
    write_outliers,
    write_ptseries,
    write_table,
    xcpd_run,
)


@pytest.fixture
def load(tmp_path):
    """Rows of a folder, and what was warned of."""

    def call(folder, **options):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            rows = load_dataset(folder, cache_dir=tmp_path / "cache", **options)
        return list(rows), " | ".join(str(one.message) for one in said)

    return call


# --- XCP-D ---


@pytest.mark.parametrize("cifti", [False, True])
def test_xcpd_tables_tell_labels_and_time(tmp_path, load, cifti):
    signals = series(456, 40)
    signals[7] = np.nan  # under the minimal coverage
    xcpd_run(tmp_path / "xcpd", "sub-01_task-rest", signals, t_r=2.5, cifti=cifti)
    (row,), said = load(tmp_path / "xcpd")
    read, order, t_r = unpack_row(row)
    assert t_r == 2.5
    assert json.loads(order) == LABELS_4S
    np.testing.assert_allclose(read, np.nan_to_num(signals) if cifti else signals, rtol=1e-5)
    assert row["subject"] == "01"
    assert row["source_file"].endswith(".ptseries.nii" if cifti else ".tsv")
    assert "cut for motion" not in said
    # The cortex alone, in either edition.
    for edition in ("schaefer400-7net", "schaefer400-17net"):
        (row,), said = load(tmp_path / "xcpd", roi_order=edition)
        index = permutation(LABELS_4S, edition).index
        np.testing.assert_allclose(unpack_row(row)[0], read[index])
        assert str(row["roi_order"]) == edition
        assert "56 of 456 parcels (Cerebellar_Region1" in said


def test_a_cifti_series_tells_its_time_step_and_names(tmp_path, load):
    signals = series(456, 30)
    write_ptseries(tmp_path / "xcpd" / "sub-01_task-rest_atlas-4S456Parcels.ptseries.nii", signals, LABELS_4S, 0.72)
    (row,), _ = load(tmp_path / "xcpd")
    assert float(row["t_r"]) == 0.72
    np.testing.assert_array_equal(unpack_row(row)[0], signals)


def test_the_repetition_time_is_in_the_denoised_sidecar_that_the_table_names(tmp_path, load):
    table = xcpd_run(tmp_path / "xcpd", "sub-01_task-rest", series(456, 30), t_r=0.8)
    sidecar = next(table.parent.glob("*denoised_bold.json"))
    other = table.parent / "sub-01_task-other_desc-denoised_bold.json"
    sidecar.rename(other)
    (row,), _ = load(tmp_path / "xcpd")
    assert np.isnan(row["t_r"])  # of another run
    write_json(
        table.with_suffix(".json"), {"SamplingFrequency": "TR", "Sources": [f"bids::sub-01/func/{other.stem}.nii.gz"]}
    )
    (row,), _ = load(tmp_path / "xcpd")
    assert float(row["t_r"]) == 0.8


@pytest.mark.parametrize("interpolated", [False, True])
def test_cut_volumes_are_gaps_at_their_true_times(tmp_path, load, interpolated):
    signals, cut = series(456, 40), np.zeros(40, dtype=bool)
    cut[[0, 11, 12, 39]] = True
    table = xcpd_run(tmp_path / "x", "sub-01_task-rest", signals if interpolated else signals[:, ~cut], cut=cut)
    (row,), said = load(tmp_path / "x")
    read = unpack_row(row)[0]
    assert np.isnan(read[:, cut]).all()
    np.testing.assert_allclose(read[:, ~cut], signals[:, ~cut], rtol=1e-5)
    assert (
        f"4 of 40 volumes were cut for motion (sub-01_task-rest_outliers.tsv; {'the file' if interpolated else 'they'}"
        in said
    )
    np.testing.assert_array_equal(read_roi_series(table).frame_mask, ~cut)


def test_a_table_of_outliers_that_does_not_fit_is_refused(tmp_path, load):
    table = xcpd_run(tmp_path / "x", "sub-01_task-rest", series(456, 40))
    write_outliers(table.parent / "sub-01_task-rest_outliers.tsv", np.arange(50) < 3)
    with pytest.raises(ROISeriesReadError, match=r"expected 50 volumes, or the 47 that .* keeps of them, got 40"):
        load(tmp_path / "x")
    (table.parent / "sub-01_task-rest_outliers.tsv").write_text("framewise_displacement\n" + "0.3\n" * 40)
    with pytest.raises(ROISeriesReadError, match="expected one column of 0 and 1"):
        load(tmp_path / "x")


def test_one_atlas_of_several_is_taken_and_the_subcortex_is_joined(tmp_path, load):
    cortex, subcortex = series(456, 40), series(50, 40, seed=1)
    for run in ("sub-01_task-rest", "sub-02_task-rest"):
        xcpd_run(tmp_path / "x", run, cortex)
        xcpd_run(tmp_path / "x", run, subcortex, LABELS_TIAN, atlas="Tian")
        xcpd_run(tmp_path / "x", run, series(9, 40), [f"Default_{n}" for n in "abcdefghi"], atlas="Gordon")
    rows, said = load(tmp_path / "x")
    assert len(rows) == 2
    assert (
        "2 runs come as tables of several atlases (4S456Parcels, Gordon, Tian); 4S456Parcels+Tian are joined" in said
    )
    assert "--atlas Gordon" in said
    read, order, _ = unpack_row(rows[0])
    np.testing.assert_allclose(read, np.concatenate([cortex, subcortex]), rtol=1e-5)
    assert permutation(order, "tian-s3+schaefer400-17net").missing == ()
    assert whole_atlases(order) == "schaefer400-7net+tian-s3"
    rows, _ = load(tmp_path / "x", roi_order="tian-s3+schaefer400-17net")
    read = unpack_row(rows[0])[0]
    np.testing.assert_allclose(read[:50], subcortex, rtol=1e-5)
    np.testing.assert_allclose(read[50:], cortex[permutation(LABELS_4S, "schaefer400-17net").index], rtol=1e-5)
    rows, _ = load(tmp_path / "x", atlas="gordon")
    assert {int(row["n_rois"]) for row in rows} == {9}
    with pytest.raises(
        ValueError, match=r"that of the tables here \(4S456Parcels, Gordon, Tian;.* got 'Gordon\+Glasser'"
    ):
        load(tmp_path / "x", atlas="Gordon+Glasser", roi_order=["a", "b"])


def test_a_run_without_the_chosen_atlas_is_left_out_and_never_mixed(tmp_path, load):
    for subject, atlases in (("01", ("4S456Parcels", "Gordon")), ("02", ("Gordon",))):
        for atlas in atlases:
            labels = LABELS_4S if atlas == "4S456Parcels" else [f"Default_{n}" for n in "abc"]
            xcpd_run(tmp_path / "x", f"sub-{subject}_task-rest", series(len(labels), 30), labels, atlas=atlas)
    rows, said = load(tmp_path / "x")
    assert [str(row["subject"]) for row in rows] == ["01"]
    assert "1 runs have no table of 4S456Parcels and are left out" in said


def test_joined_runs_are_left_out_beside_the_single_ones(tmp_path, load):
    for run in ("_run-1", "_run-2", ""):
        xcpd_run(tmp_path / "x", f"sub-01_task-rest{run}", series(456, 30 if run else 60))
    rows, said = load(tmp_path / "x")
    assert [str(row["run"]) for row in rows] == ["1", "2"]
    assert "1 files hold several runs end to end and are left out" in said


def test_joined_runs_alone_are_cut_at_their_seams_or_refused(tmp_path, load):
    signals = series(456, 70)
    table = xcpd_run(tmp_path / "x", "sub-01_task-rest", signals)
    for run, length in (("2", 40), ("10", 30)):
        write_outliers(table.parent / f"sub-01_task-rest_run-{run}_outliers.tsv", np.zeros(length))
    rows, said = load(tmp_path / "x")
    assert [(str(row["run"]), int(row["n_timepoints"])) for row in rows] == [("2", 40), ("10", 30)]
    np.testing.assert_allclose(np.concatenate([unpack_row(row)[0] for row in rows], axis=1), signals, rtol=1e-5)
    assert "they are cut at the seams, a scan a run" in said
    write_outliers(table.parent / "sub-01_task-rest_run-10_outliers.tsv", np.zeros(31))
    with pytest.raises(ROISeriesReadError, match=r"run-2: 40, run-10: 31\), got 70, so it cannot be told where"):
        load(tmp_path / "x")


# --- UK Biobank ---


def test_two_tables_of_a_scan_are_joined_in_the_order_that_their_names_declare(tmp_path, load):
    cortex, subcortex = series(400, 30), series(50, 30, seed=1)
    for person in ("1000001", "1000002"):
        ukb_tables(tmp_path / "ukb" / person / "i2", {"Schaefer17n400p": cortex, "Tian_Subcortex_S3_3T": subcortex})
    rows, _ = load(tmp_path / "ukb", t_r=0.735)
    assert [(str(row["subject"]), str(row["session"])) for row in rows] == [("1000001", "i2"), ("1000002", "i2")]
    read, order, t_r = unpack_row(rows[0])
    assert (order, t_r) == ("tian-s3+schaefer400-17net", 0.735)
    np.testing.assert_allclose(read, np.concatenate([subcortex, cortex]), rtol=1e-5)
    rows, _ = load(tmp_path / "ukb", t_r=0.735, roi_order="schaefer400-17net+tian-s3")
    np.testing.assert_allclose(unpack_row(rows[0])[0], np.concatenate([cortex, subcortex]), rtol=1e-5)
    rows, _ = load(tmp_path / "ukb", t_r=0.735, roi_order="schaefer400-17net")
    np.testing.assert_allclose(unpack_row(rows[0])[0], cortex, rtol=1e-5)
    for order in ("schaefer400-7net", "schaefer400-7net+tian-s3"):
        with pytest.raises(ROISeriesReadError, match="its name declares the order 'schaefer400-17net'"):
            load(tmp_path / "ukb", t_r=0.735, roi_order=order)


def test_a_layout_of_uk_biobank_with_other_identifiers(tmp_path, load):
    for person in ("100307", "100408"):
        ukb_tables(tmp_path / "hcp" / person, {"Schaefer17n400p": series(400, 30)})
    rows, _ = load(tmp_path / "hcp", t_r=0.72)
    assert [str(row["subject"]) for row in rows] == ["100307", "100408"]
    assert {str(row["roi_order"]) for row in rows} == {"schaefer400-17net"}


def test_tables_of_different_lengths_are_not_joined(tmp_path, load):
    tables = {"Schaefer17n400p": series(400, 30), "Tian_Subcortex_S3_3T": series(50, 29)}
    ukb_tables(tmp_path / "ukb" / "1000001", tables)
    with pytest.raises(ROISeriesReadError, match="got 30 and 29 timepoints"):
        load(tmp_path / "ukb")


def test_a_scan_without_one_of_its_tables_and_a_damaged_one_are_named(tmp_path, load):
    tables = {"Schaefer17n400p": series(400, 30), "Tian_Subcortex_S3_3T": series(50, 30)}
    for person in ("1000001", "1000002", "1000003"):
        ukb_tables(tmp_path / "ukb" / person, tables)
    (tmp_path / "ukb/1000002/fMRI.Tian_Subcortex_S3_3T.csv.gz").write_bytes(b"broken")
    (tmp_path / "ukb/1000003/fMRI.Tian_Subcortex_S3_3T.csv.gz").unlink()
    output = tmp_path / "dataset"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(["prepare", str(tmp_path / "ukb"), "--output", str(output), "--t-r", "0.735"]) == 0
    said = " | ".join(str(one.message) for one in caught)
    assert re.search(r"1 of 3 scans have no table of Tian\S* \(first: 1000003/\S*\): its parcels are missing in", said)
    skipped = (output / "skipped_files.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in skipped] == ["1000002/fMRI.Tian_Subcortex_S3_3T.csv.gz"]


def test_names_without_an_order_are_asked_about_once(tmp_path, load):
    for person in ("1000001", "1000002"):
        ukb_tables(tmp_path / "ukb" / person, {"Schaefer17n100p": series(100, 30)})
    with pytest.raises(ValueError, match=r"roi_order \(--roi-order\) is missing. 2 scans .*first: 1000001/fMRI"):
        load(tmp_path / "ukb")


# --- images ---


def test_fmriprep_is_averaged_with_an_atlas_that_tells_its_names(tmp_path, load):
    signals = series(3, 40)
    fmriprep_run(tmp_path / "prep", "sub-01_task-rest_run-1", signals)
    atlas = label_image(tmp_path / "tpl-MNI152NLin2009cAsym_atlas-mine_dseg.nii.gz")
    (row,), said = load(tmp_path / "prep", atlas=atlas)
    read, order, t_r = unpack_row(row)
    assert (json.loads(order), t_r, str(row["run"])) == (PARCELS, 2.0, "1")
    np.testing.assert_allclose(read, signals, rtol=1e-5)
    assert "not in the template's space" in said  # the image in the scanner's space
    names = tmp_path / "names.csv"
    names.write_text("index,name\n30,C\n10,A\n20,B\n")
    (row,), _ = load(tmp_path / "prep", atlas=atlas, atlas_names=names)
    np.testing.assert_allclose(unpack_row(row)[0], signals[[2, 0, 1]], rtol=1e-5)
    assert json.loads(str(row["roi_order"])) == ["C", "A", "B"]
    (row,), _ = load(tmp_path / "prep", atlas=atlas, roi_order=PARCELS[::-1])
    np.testing.assert_allclose(unpack_row(row)[0], signals[::-1], rtol=1e-5)
    atlas.with_name("tpl-MNI152NLin2009cAsym_atlas-mine_dseg.tsv").unlink()
    with pytest.raises(ValueError, match=r"roi_order \(--roi-order\) is missing: .* its 30"):
        load(tmp_path / "prep", atlas=atlas)


def test_confounds_of_fmriprep_are_taken_by_strategy(tmp_path, load):
    fmriprep_run(tmp_path / "prep", "sub-01_task-rest", series(3, 40))
    atlas = label_image(tmp_path / "tpl-MNI152NLin2009cAsym_atlas-mine_dseg.nii.gz")
    confounds = {"strategy": ["motion", "wm_csf"], "motion": "basic", "wm_csf": "basic"}
    (row,), _ = load(tmp_path / "prep", atlas=atlas, cleaning={"confounds": confounds})
    (plain,), _ = load(tmp_path / "prep", atlas=atlas)
    assert unpack_row(row)[0].std() < 0.999 * unpack_row(plain)[0].std()


def test_what_cleaning_did_is_said(tmp_path, capsys):
    for number in (1, 2, 3):
        fmriprep_run(tmp_path / "prep", f"sub-0{number}_task-rest", series(3, 40))
        table = tmp_path / f"prep/sub-0{number}/func/sub-0{number}_task-rest_desc-confounds_timeseries.tsv"
        lines = [line.split("\t") for line in table.read_text().splitlines()]
        for frame in range(1, number):
            lines[10 * frame][lines[0].index("framewise_displacement")] = "3.0"
        table.write_text("\n".join(map("\t".join, lines)) + "\n")
    atlas = label_image(tmp_path / "tpl-MNI152NLin2009cAsym_atlas-mine_dseg.nii.gz")
    command = ["prepare", str(tmp_path / "prep"), "--output", str(tmp_path / "dataset"), "--atlas", str(atlas)]
    flags = "--confounds motion wm_csf scrub motion=basic wm_csf=basic scrub=0 std_dvars_threshold=9 --high-pass 0.01"
    assert main([*command, *flags.split()]) == 0
    said = capsys.readouterr().out
    assert "  cleaned: 8 confounds, high-pass 0.01 Hz, scrubbed 1 of 40 frames (median; up to 2)\n" in said


@pytest.mark.parametrize("dense", [False, True])
def test_hcp_results_are_found_and_the_cleaned_image_of_a_run_is_taken(tmp_path, load, dense):
    signals = series(3, 40)
    for run in ("rfMRI_REST1_LR", "rfMRI_REST1_RL", "tfMRI_WM_LR"):
        hcp_run(tmp_path / "hcp", f"100307/{run}", signals)
    atlas = label_file(tmp_path / "a.dlabel.nii") if dense else label_image(tmp_path / "MNI152_dseg.nii.gz")
    rows, said = load(tmp_path / "hcp", atlas=atlas)
    told = {(str(row["subject"]), str(row["task"]), str(row["run"]), str(row["dir"])) for row in rows}
    assert told == {("100307", "REST", "1", "LR"), ("100307", "REST", "1", "RL"), ("100307", "WM", "None", "LR")}
    for row in rows:
        read, order, t_r = unpack_row(row)
        np.testing.assert_allclose(read, signals, rtol=1e-5)
        assert (json.loads(order), t_r) == (PARCELS, 0.72)
    assert f"{9 if dense else 3} images are left out for cleaned ones of the same runs" in said


def test_abcd_bids_runs_are_cut_at_their_seams(tmp_path, load):
    signals, labels = series(5, 70), ["L_V1_ROI", "L_V2_ROI", "R_V1_ROI", "CEREBELLUM_LEFT", "BRAIN_STEM"]
    session = "sub-NDARINVAAAAAAAA_ses-baselineYear1Arm1"
    abcd_session(tmp_path / "abcd", session, signals, labels, [30, 40])
    with pytest.raises(ValueError, match=r"Choose one of each run with atlas \(--atlas \w+FreeSurferSubcortical\)"):
        load(tmp_path / "abcd")
    rows, _ = load(tmp_path / "abcd", atlas="HCP2016FreeSurferSubcortical")
    assert [(str(row["session"]), str(row["run"]), int(row["n_timepoints"])) for row in rows] == [
        ("baselineYear1Arm1", "1", 30),
        ("baselineYear1Arm1", "2", 40),
    ]
    np.testing.assert_array_equal(np.concatenate([unpack_row(row)[0] for row in rows], axis=1), signals)
    assert json.loads(str(rows[0]["roi_order"])) == labels
    assert float(rows[0]["t_r"]) == pytest.approx(0.8)


def test_a_layout_of_pybids_tells_the_files(tmp_path, load):
    for run in ("sub-01_task-rest", "sub-02_task-rest"):
        xcpd_run(tmp_path / "x", run, series(456, 30))

    class Layout:  # what pybids 0.22 has of it
        root = str(tmp_path / "x")

        def get_files(self, scope="all"):
            return {str(path): None for path in (tmp_path / "x").rglob("sub-02*") if path.is_file()}

    rows, _ = load(Layout())
    assert [str(row["subject"]) for row in rows] == ["02"]
    assert float(rows[0]["t_r"]) == 2.0


# --- files of many scans ---


def test_scans_of_a_semantoks_file_are_found_by_their_subjects(tmp_path, load):
    h5py = pytest.importorskip("h5py")
    sizes = {"schaefer400": 400, "tian3": 50, "buckner7": 7}
    values = np.random.default_rng(0).normal(size=(3, 457, 40)).astype(np.float32)
    values[1, :, 30:] = np.nan
    (tmp_path / "s").mkdir()
    with h5py.File(tmp_path / "s" / "all.h5", "w") as file:
        for name, part in zip(sizes, np.split(values, [400, 450], axis=1)):
            file[f"timeseries/{name}"] = part
        file["long_subject_id"] = np.array([b"sub-b", b"a", b"sub-b"])
    (tmp_path / "s" / "other.h5").write_bytes(b"nothing")
    (tmp_path / "s" / "participants.tsv").write_bytes(b"\xef\xbb\xbfparticipant_id\tage\r\na\t30\r\nb\tn/a\r\n")
    for where in (tmp_path / "s", tmp_path / "s" / "all.h5"):
        rows, _ = load(where, t_r=2.0)
        assert [(str(row["subject"]), int(row["n_timepoints"])) for row in rows] == [("b", 40), ("a", 30), ("b", 40)]
        np.testing.assert_array_equal(unpack_row(rows[1])[0], values[1, :, :30])
        assert {str(row["roi_order"]) for row in rows} == {"schaefer400-7net+tian-s3+buckner7"}
        assert np.nan_to_num([float(row["age"]) for row in rows]).tolist() == [0, 30, 0]  # b has no age
    (row, *_), _ = load(tmp_path / "s" / "all.h5", roi_order="schaefer400-17net", t_r=2.0)
    index = permutation("schaefer400-7net", "schaefer400-17net").index
    np.testing.assert_array_equal(unpack_row(row)[0], values[0, index])
    (tmp_path / "s" / "all.h5").unlink()
    with pytest.raises(ROISeriesReadError, match=r"other\.h5"):
        load(tmp_path / "s")


# --- rows without labels ---


def test_connectivity_tells_rows_that_are_in_the_other_edition(tmp_path, load):
    rng = np.random.default_rng(0)
    gradients = parcel_table("gradients", "schaefer400-7net", 10)
    gradients = gradients / gradients.std(axis=0)
    seven = (gradients @ rng.normal(size=(10, 100)) + 8 * rng.normal(size=(400, 100))).astype(np.float32)
    subcortex = rng.normal(size=(50, 100)).astype(np.float32)
    (tmp_path / "s").mkdir()
    np.save(tmp_path / "s" / "sub-01_ts.npy", np.concatenate([subcortex, seven]))
    with pytest.raises(
        ROISeriesReadError, match=r"that of 'schaefer400-7net' \(r 0\.\d+\) and not of 'schaefer400-17"
    ):
        load(tmp_path / "s", roi_order="tian-s3+schaefer400-17net", t_r=2.0)
    rows, _ = load(tmp_path / "s", roi_order="tian-s3+schaefer400-7net", t_r=2.0)
    assert len(rows) == 1
    # Too few frames, or no structure, tell nothing.
    for signals in (seven[:, :39], series(400, 100)):
        np.save(tmp_path / "s" / "sub-01_ts.npy", np.concatenate([subcortex[:, : signals.shape[1]], signals]))
        rows, _ = load(tmp_path / "s", roi_order="tian-s3+schaefer400-17net", t_r=2.0)
        assert len(rows) == 1


# --- plain tables ---


def test_a_header_of_parcels_beside_counted_rows(tmp_path, load):
    signals = series(400, 30)
    labels = list(roi_labels("schaefer400-17net"))
    lines = [",".join(["", *labels])]
    lines += [",".join([f"frame_{n}", *(f"{value:.6g}" for value in frame)]) for n, frame in enumerate(signals.T)]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "sub-01_ts.csv").write_text("\n".join(lines) + "\n")
    write_table(tmp_path / "s" / "sub-02_ts.tsv", signals, labels)
    rows, _ = load(tmp_path / "s")
    for row in rows:
        np.testing.assert_allclose(unpack_row(row)[0], signals, rtol=1e-5)
        assert str(row["roi_order"]) == "schaefer400-17net"
