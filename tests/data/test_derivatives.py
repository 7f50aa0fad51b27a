"""Which files of a folder are scans, whose they are, and which image of a run is taken: told by names alone."""

import time

import pytest

from brain_transformers.data.derivatives import find_scans

TEMPLATE = "space-MNI152NLin6Asym"


def tree(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def find(root, *names, images=None, **options):
    return find_scans(tree(root, *names), images=images, **options)


def chosen(found):
    return [name for names in found.files.values() for name in names]


def test_a_name_that_says_nothing_is_a_person_of_its_own_and_that_is_said(tmp_path):
    found = find(tmp_path, "train/a.npy", "train/b.npy", "test/c.npy")
    assert [found.names[name].columns["subject"] for name in chosen(found)] == ["test/c", "train/a", "train/b"]
    assert not any(found.names[name].known for name in chosen(found))
    assert "each of these files counts as a person" in found.notes[0]
    assert "--name-pattern" in found.notes[0]


@pytest.mark.parametrize(
    ("names", "subjects"),
    [
        (["S01_rest_1.npy", "S01_rest_2.npy", "S02_rest_1.npy"], ["S01", "S01", "S02"]),
        (["S01/rest1.npy", "S01/rest2.npy", "S02/rest1.npy"], ["S01", "S01", "S02"]),
        (["ann_run1.npy", "ann_run2.npy", "bob_run1.npy", "bob_run2.npy"], ["ann", "ann", "bob", "bob"]),
        (["hc/p1-a.npy", "hc/p1-b.npy", "mdd/p2-a.npy"], ["p1", "p1", "p2"]),
        (["train/P7_1.npy", "train/P8_1.npy", "validation/P7_2.npy"], ["P7", "P8", "P7"]),
        (["100307_REST1x.npy", "100307_REST2x.npy"], ["100307", "100307"]),
        (["100307.rest1.npy", "100307.rest2.npy"], ["100307", "100307"]),
        (["S01R1.npy", "S01R2.npy", "S02R1.npy"], ["S01", "S01", "S02"]),
        (["REST1/100307.npy", "REST1/100408.npy", "REST2/100307.npy"], ["100307", "100408", "100307"]),
        (["run1_S01.npy", "run1_S02.npy", "run2_S01.npy", "run2_S02.npy"], ["S01", "S02", "S01", "S02"]),
        (["rest_1_AB12.npy", "nback_AB12.npy", "rest_2_AB13.npy"], ["AB12", "AB12", "AB13"]),
        (["100307.npy", "100307_retest.npy", "100408.npy"], ["100307", "100307", "100408"]),
        (["S01.npy", "S01 (1).npy", "S02.npy"], ["S01", "S01", "S02"]),
        (["ann.npy", "ann_retest.npy", "bob.npy"], ["ann", "ann", "bob"]),
        (["ann_2020-01-01.npy", "ann_2020-03-01.npy", "bob_2021-01-01.npy"], ["ann", "ann", "bob"]),
        (["20200101/p1.npy", "20200101/p2.npy", "20210101/p1.npy"], ["p1", "p2", "p1"]),
        (["LR_100307.npy", "RL_100307.npy", "LR_100408.npy"], ["100307", "100307", "100408"]),
        (["ses-1/101.npy", "ses-2/101.npy", "ses-1/102.npy"], ["101", "101", "102"]),
    ],
)
def test_names_that_begin_alike_are_refused_with_a_pattern_that_fits(tmp_path, names, subjects):
    with pytest.raises(ValueError, match="several of one person") as error:
        find(tmp_path, *names)
    pattern = str(error.value).split("Fitting here: '")[1].split("'")[0]
    found = find_scans(tmp_path, images=None, name_pattern=pattern)
    assert [found.names[name].columns["subject"] for name in names] == subjects
    assert sorted(chosen(found)) == sorted(names)
    each = str(error.value).split("another person: '")[1].removesuffix("'.")
    assert all(name.known for name in find_scans(tmp_path, images=None, name_pattern=each).names.values())


@pytest.mark.parametrize(
    "names",
    [
        ["scan_001.npy", "scan_002.npy"],
        ["1000001.npy", "1000002.npy"],
        ["A424_17.npy", "A424_18.npy"],
        ["bold_0.72_a.npy", "bold_0.72_b.npy"],
        ["0f3a91bc.npy", "0f3b77aa.npy"],
        ["S01_1.npy", "S02_1.npy", "S03_2.npy"],
        ["control_01.npy", "control_02.npy", "patient_01.npy", "patient_02.npy"],
        ["controls/001.npy", "controls/002.npy", "patients/003.npy"],
    ],
)
def test_numbered_files_are_not_taken_for_one_person(tmp_path, names):
    assert sorted(chosen(find(tmp_path, *names))) == names


def test_a_participants_table_says_which_part_is_the_person(tmp_path):
    found = find(tmp_path, "AB1_rest1.npy", "AB1_rest2.npy", "x/AB2.npy", participants={"AB1", "AB2", "AB"})
    assert [found.names[name].columns["subject"] for name in chosen(found)] == ["AB1", "AB1", "AB2"]
    assert not found.notes


def test_a_name_pattern_that_fits_nothing_or_a_part_is_never_silent(tmp_path):
    names = ("x1.npy", "x2.npy", "y3.npy")
    with pytest.raises(ValueError, match=r"finds a subject in 0 of 3 .*x1\.npy"):
        find(tmp_path, *names, name_pattern=r"sub-(?P<subject>\d+)")
    with pytest.raises(ValueError, match=r"finds a subject in 2 of 3 .*y3\.npy"):
        find(tmp_path, name_pattern=r"x(?P<subject>\d+)")
    found = find(tmp_path, name_pattern=r"x(?P<subject>\d+)", skip_unusable=True)
    assert list(found.unusable) == ["y3.npy"]
    assert not found.notes
    with pytest.raises(ValueError, match="no regular expression"):
        find(tmp_path, name_pattern="(?P<subject>[")
    with pytest.raises(ValueError, match=r"groups among subject, session.*got person"):
        find(tmp_path, name_pattern="(?P<subject>x)(?P<person>.)")


def test_native_and_raw_images_are_left_out_beside_normalised_ones(tmp_path):
    good = f"derivatives/fmriprep/sub-01/func/sub-01_task-rest_{TEMPLATE}_desc-preproc_bold.nii.gz"
    others = [
        "derivatives/fmriprep/sub-01/func/sub-01_task-rest_desc-preproc_bold.nii.gz",
        "derivatives/fmriprep/sub-01/func/sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-02/func/sub-02_task-rest_bold.nii.gz",
    ]
    found = find(tmp_path, good, *others, images="bold")
    assert chosen(found) == [good]
    assert sorted(found.left_out) == sorted(others)
    assert "4 images are left out" in found.notes[0]
    assert "Nothing else is there of 1 subjects (02)" in found.notes[0]


@pytest.mark.parametrize("name", ["sub-01_space-T1w_desc-preproc_bold.nii.gz", "sub-01_desc-preproc_bold.nii.gz"])
def test_native_images_alone_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="none of 1 images is in the template's space"):
        find(tmp_path, f"sub-01/func/{name}", images="bold")


def test_raw_bids_is_refused_and_an_unsaid_space_is_said(tmp_path):
    assert "do not say their space" in find(tmp_path, "sub-01/func/sub-01_bold.nii.gz", images="bold").notes[0]
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    with pytest.raises(ValueError, match="none of 1 images"):
        find_scans(tmp_path, images="bold")


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ([f"_echo-{n}_{TEMPLATE}_bold.nii.gz" for n in (1, 2)], "**/*echo-1[_.]*.nii.gz"),
        ([f"_{TEMPLATE}_desc-{d}_bold.nii.gz" for d in ("preproc", "denoised")], "**/*desc-denoised[_.]*.nii.gz"),
        ([f"_{TEMPLATE}_res-{n}_bold.nii.gz" for n in (1, 2)], "**/*res-1[_.]*.nii.gz"),
        ([f"_rec-{n}_{TEMPLATE}_bold.nii.gz" for n in ("a", "b")], "**/*rec-a[_.]*.nii.gz"),
    ],
)
def test_several_images_of_one_run_are_refused_with_a_pattern_that_leaves_one(tmp_path, names, pattern):
    names = [f"sub-0{person}/func/sub-0{person}_task-rest{name}" for person in (1, 2) for name in names]
    with pytest.raises(ValueError, match="2 runs come in several files") as error:
        find(tmp_path, *names, images="bold")
    assert pattern in str(error.value)
    assert len(chosen(find_scans(tmp_path, images="bold", pattern=pattern))) == 2


def test_parts_and_single_echoes_are_left_out_beside_the_whole(tmp_path):
    whole = f"sub-01_task-rest_{TEMPLATE}_bold.nii.gz"
    pieces = [f"sub-01_task-rest_echo-{n}_{TEMPLATE}_bold.nii.gz" for n in (1, 2)]
    pieces += [f"sub-01_task-rest_part-phase_{TEMPLATE}_bold.nii.gz"]
    found = find(tmp_path, whole, *pieces, images="bold")
    assert chosen(found) == [whole]
    assert sorted(found.left_out) == sorted(pieces)


def test_runs_tasks_directions_and_folders_are_different_scans(tmp_path):
    names = [
        "sub-01_task-rest_dir-AP_run-1.npy",
        "sub-01_task-rest_dir-AP_run-2.npy",
        "sub-01_task-rest_dir-PA_run-1.npy",
        "sub-01_task-nback.npy",
        "day2/sub-01_task-nback.npy",
        "sub-02_rest1.npy",
        "sub-02_rest2.npy",
    ]
    assert sorted(chosen(find(tmp_path, *names))) == sorted(names)


def test_one_run_in_two_formats_atlases_or_sites_is_refused(tmp_path):
    for number, names in enumerate(
        (
            ("sub-01_bold.npy", "sub-01_bold.csv"),
            ("sub-01_atlas-Tian_timeseries.tsv", "sub-01_atlas-Glasser_timeseries.tsv"),
            ("1000001/fMRI.Glasser.csv.gz", "1000001/fMRI.Schaefer17n100p.csv.gz"),
            ("siteA/sub-01/func/sub-01_bold.npy", "siteB/sub-01/func/sub-01_bold.npy"),
        )
    ):
        with pytest.raises(ValueError, match="1 runs come in several files") as error:
            find(tmp_path / str(number), *names)
        if "for example" in str(error.value):
            pattern = str(error.value).split('for example "')[1].split('"')[0]
            assert len(chosen(find_scans(tmp_path / str(number), images=None, pattern=pattern))) == 1
    assert "for example" not in str(error.value)  # nothing but the user's word tells the two sites apart
    assert "name_pattern" in str(error.value)


def test_one_name_in_several_folders_is_said(tmp_path):
    found = find(tmp_path, "aroma/sub-01_task-rest_bold.npy", "compcor/sub-01_task-rest_bold.npy")
    assert "1 scans have the same name in several folders (first: aroma/sub-01" in found.notes[0]
    assert not find(tmp_path / "x", *(f"{day}/sub-01_task-rest_bold.npy" for day in ("baseline", "followup"))).notes


def test_one_series_in_two_formats_is_refused_without_a_subject_too(tmp_path):
    with pytest.raises(ValueError, match=r"several files.*kq\.csv, kq\.npy.*\*\*/\*\.npy"):
        find(tmp_path, "kq.csv", "kq.npy", "zz.npy")


def test_tables_of_people_and_parameters_of_motion_are_no_series(tmp_path):
    found = find(tmp_path, "sub-01_task-rest_ts.csv", "rp_sub-01.csv", "sub-01_netmats1.csv", "phenotype/aparc.tsv")
    assert chosen(found) == ["sub-01_task-rest_ts.csv"]
    assert list(found.left_out) == ["rp_sub-01.csv", "sub-01_netmats1.csv"]


def test_tables_that_are_no_series_are_left_out_and_named(tmp_path):
    scan = "sub-01/func/sub-01_task-rest_stat-mean_timeseries.tsv"
    others = [
        "sub-01/func/sub-01_task-rest_stat-pearsoncorrelation_relmat.tsv",
        "sub-01/func/sub-01_task-rest_stat-coverage_bold.tsv",
        "sub-01/func/sub-01_task-rest_stat-alff_bold.tsv",
        "sub-01/func/sub-01_task-rest_motion.tsv",
        "sub-01/func/sub-01_task-rest_outliers.tsv",
        "sub-01/func/sub-01_task-rest_design.tsv",
        "sub-01/func/sub-01_task-rest_desc-confounds_timeseries.tsv",
        "atlas-4S_dseg.tsv",
        "group_correlation_matrix.npy",
    ]
    silent = ["sub-01/func/sub-01_task-rest_events.tsv", "participants.tsv", "sub-01/sub-01_scans.tsv"]
    found = find(tmp_path, scan, *others, *silent)
    assert chosen(found) == [scan]
    assert sorted(found.left_out) == sorted(others)
    assert f"{len(others)} files are left out" in found.notes[0]


def test_what_is_hidden_linked_or_gone_is_no_scan(tmp_path):
    root = tree(tmp_path / "root", "sub-01.npy", "._sub-01.npy", ".git/sub-02.npy", "@eaDir/sub-03.npy")
    tree(tmp_path / "else", "sub-04.npy")
    (root / "more").symlink_to(tmp_path / "else")
    (root / "loop").symlink_to(root)
    (root / "sub-05.npy").symlink_to(tmp_path / "fetched_never.npy")
    found = find_scans(root, images=None)
    assert chosen(found) == ["sub-01.npy", "sub-05.npy"]
    assert sorted(found.left_out) == ["loop/", "more/"]
    assert "datalad get" in found.unusable["sub-05.npy"]


def test_folders_and_files_that_contradict_each_other_are_unusable(tmp_path):
    found = find(tmp_path, "sub-01/func/sub-02_bold.npy", "sub-01/ses-a/func/sub-01_ses-b_bold.npy")
    assert len(found.unusable) == 2
    assert "the folder says sub-01 and the file says sub-02" in found.unusable["sub-01/func/sub-02_bold.npy"]


def test_images_without_an_atlas_and_bad_patterns_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There are 1 BOLD images .*give atlas"):
        find(tmp_path, "sub-01_bold.nii.gz")
    for pattern in ("/etc/*", "", "../*.npy"):
        with pytest.raises((ValueError, FileNotFoundError), match="pattern"):
            find(tmp_path, "sub-01.npy", pattern=pattern)


def test_a_large_tree_is_understood_quickly(tmp_path):
    for person in range(1, 501):
        func = tmp_path / f"sub-{person:04d}" / "func"
        func.mkdir(parents=True)
        for run in range(1, 5):
            for end in ("bold.npy", "motion.tsv"):
                (func / f"sub-{person:04d}_task-rest_run-{run}_{end}").touch()
    start = time.perf_counter()
    found = find_scans(tmp_path, images=None)
    assert time.perf_counter() - start < 5
    assert len(chosen(found)) == 2000


def test_labels_that_may_be_one_person_are_said(tmp_path):
    found = find(tmp_path, "sub-1_bold.npy", "sub-01_bold.npy", "sub-2_bold.npy")
    assert "01 and 1 count as 2 people" in found.notes[0]


def test_where_no_pattern_fits_none_is_proposed(tmp_path):
    with pytest.raises(ValueError, match="several of one person") as error:
        find(tmp_path, "a.npy", "b_c_X12_1.npy", "d_e_X12_2.npy", "f_g_X13_1.npy", "b_c_X12_3.npy")
    assert "Fitting here" not in str(error.value)
