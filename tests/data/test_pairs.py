"""Series and T1 volumes become rows of pairs, joined by person and session, and every command takes them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")
pytest.importorskip("nibabel")

import brain_transformers as bt  # noqa: E402
from brain_transformers.cli.main import main  # noqa: E402
from brain_transformers.data import pair_datasets  # noqa: E402
from brain_transformers.data.row_kinds import PAIR, T1, arrow_table, kind_of  # noqa: E402
from brain_transformers.training.run_settings import rows_digest  # noqa: E402
from tests.models.composed_harmony import composed_folder, write_people  # noqa: E402


def series(*people: str, sessions: Any = None, **columns: Any) -> Any:
    rng = np.random.default_rng(0)
    scans = [rng.normal(size=(3, 8)) for _ in people]
    return bt.dataset_from_arrays(
        scans, roi_order=["a", "b", "c"], t_r=2.0, subject=list(people), session=sessions, **columns
    )


def volumes(*people: str, sessions: Any = None) -> Any:
    n = len(people)
    cells: dict[str, Any] = dict.fromkeys(T1.features(), [None] * n)
    cells |= {"t1": [f"/t1/{person}.npy" for person in people], "shape": [[167, 212, 160]] * n, "dtype": ["uint8"] * n}
    cells |= {"mean": [1.0] * n, "deviation": [2.0] * n, "subject": list(people), "subject_known": [True] * n}
    cells |= {"session": sessions or [None] * n, "source_file": [f"{p}_{k}.nii.gz" for k, p in enumerate(people)]}
    return datasets.Dataset(datasets.table.InMemoryTable(arrow_table(cells, T1.features()))).with_format("numpy")


def who(rows: Any) -> list[tuple[str, bool, str | None]]:
    plain = rows.with_format(None)
    return [(row["subject"], row["signals"] is not None, row["t1"]) for row in plain]


def test_series_and_volumes_are_joined_by_person() -> None:
    rows = pair_datasets(series("01", "02", "03", "02", age=[1, 2, 3, 2]), volumes("04", "02", "01"))
    assert kind_of(rows.column_names) is PAIR
    two = "/t1/02.npy"
    assert who(rows) == [
        ("01", True, "/t1/01.npy"),
        ("02", True, two),
        ("03", True, None),
        ("02", True, two),
        ("04", False, "/t1/04.npy"),
    ]
    assert rows.with_format(None)["age"][:4] == [1, 2, 3, 2]
    assert rows[1]["t1_source_file"] == "02_1.nii.gz"
    assert np.array_equal(rows[3]["signals"], series("01", "02", "03", "02")[3]["signals"])
    assert "1 with T1 alone, 1 with a series alone" in PAIR.sizes(rows)
    assert who(pair_datasets(series("01", "03"), volumes("04", "01"), only_pairs=True)) == [("01", True, "/t1/01.npy")]


def test_a_session_has_its_own_volume() -> None:
    scans = series("01", "01", "02", "03", sessions=["1", "2", "1", None])
    of_t1 = volumes("01", "01", "02", "03", sessions=["2", "1", None, "9"])
    rows = pair_datasets(scans, of_t1)
    assert [row["t1_source_file"] for row in rows] == ["01_1.nii.gz", "01_0.nii.gz", "02_2.nii.gz", "03_3.nii.gz"]
    with pytest.warns(
        UserWarning, match=r"1 scans get the T1 volume of another session of their person \(04 1 with 2"
    ):
        pair_datasets(series("04", sessions=["1"]), volumes("04", sessions=["2"]))
    with pytest.raises(ValueError, match=r"2 T1 volumes may belong to the scan of 01: 01_0\.nii\.gz, 01_1\.nii\.gz"):
        pair_datasets(series("01"), of_t1)


def test_volumes_alone_go_where_their_person_is() -> None:
    parts = datasets.DatasetDict(train=series("01"), test=series("02", sessions=["1"]))
    with pytest.warns(UserWarning, match=r"1 T1 volumes are of people without a series \(03\), .* left out"):
        rows = pair_datasets(parts, volumes("01", "02", "02", "03", sessions=[None, "1", "2", None]))
    assert {name: who(part) for name, part in rows.items()} == {
        "train": [("01", True, "/t1/01.npy")],
        "test": [("02", True, "/t1/02.npy"), ("02", False, "/t1/02.npy")],
    }


@pytest.mark.parametrize(
    ("scans", "of_t1", "message"),
    [
        (lambda: series("01"), lambda: volumes("1"), "No series and T1 volume are of one person: series are of 01, "),
        (lambda: series("01"), lambda: series("01"), "volumes as a dataset of T1 volumes, got series of ROIs"),
        (lambda: series("01").remove_columns("session"), lambda: volumes("01"), "got rows without session"),
        (
            lambda: bt.dataset_from_arrays([np.zeros((3, 4))], roi_order=["a", "b", "c"]),
            lambda: volumes("0"),
            "1 of 1 files of series of ROIs do not say whose they are",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(scans: Any, of_t1: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair_datasets(scans(), of_t1())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of four people, of which one has no volume and one no series, and a dataset of them that was moved."""
    folder = write_people(tmp_path_factory.mktemp("study"), ("01", "02", "03"), ("01", "02", "04"))
    order = ["--roi-order", str(folder / "order.txt"), "--t-r", "4.41"]
    assert (
        main(["prepare", str(folder / "bold"), *order, "--t1", str(folder / "t1"), "--output", str(folder / "o")]) == 0
    )
    shutil.move(folder / "o", folder / "pairs")
    return folder


def test_prepare_joins_folders_or_datasets(study: Path, tmp_path: Path, capsys: Any) -> None:
    rows = bt.load_dataset(study / "pairs")
    assert [(row["subject"], row["n_rois"], row["t1_source_file"]) for row in rows.with_format(None)] == [
        ("01", 12, "sub-01_T1w.nii.gz"),
        ("02", 12, "sub-02_T1w.nii.gz"),
        ("03", 12, None),
        ("04", None, "sub-04_T1w.nii.gz"),
    ]
    assert rows.with_format(None)["age"] == [20, 23, 26, 29]
    assert all(Path(row["t1"]).parent == (study / "pairs" / "scans").resolve() for row in rows if row["t1"])
    order = ["--roi-order", str(study / "order.txt"), "--t-r", "4.41"]
    assert not list(study.glob(".*shards*"))
    assert main(["prepare", str(study / "bold"), *order, "--output", str(tmp_path / "bold")]) == 0
    assert main(["prepare", str(study / "t1"), "--kind", "t1", "--output", str(tmp_path / "t1")]) == 0
    join = ["prepare", str(tmp_path / "bold"), "--t1", str(tmp_path / "t1"), "--only-pairs"]
    assert main([*join, "--output", str(tmp_path / "pairs")]) == 0
    assert "2 scans of 2 subjects, 12 ROIs" in capsys.readouterr().out
    again = bt.load_dataset(tmp_path / "pairs")
    assert rows_digest(again.select_columns(list(PAIR.columns))) == rows_digest(
        rows.select([0, 1]).select_columns(list(PAIR.columns))
    )
    assert main([*join, *order, "--output", str(tmp_path / "other")]) == 2
    assert "--roi-order changes nothing" in capsys.readouterr().err
    assert main(["prepare", str(study / "bold"), *order, "--only-pairs", "--output", str(tmp_path / "other")]) == 2
    assert "--only-pairs is for --t1" in capsys.readouterr().err


def test_every_command_takes_pairs(study: Path, tmp_path: Path, capsys: Any) -> None:
    model, pairs = str(composed_folder(tmp_path / "model")), str(study / "pairs")
    steps = [
        "--max-steps",
        "1",
        "--per-device-train-batch-size",
        "4",
        "--disable-tqdm",
        "True",
        "--save-strategy",
        "no",
    ]
    pretrained = ["pretrain", "--model", model, "--dataset", pairs, "--output", str(tmp_path / "pretrained")]
    assert main([*pretrained, *steps]) == 0
    tuned = ["finetune", "--model", str(tmp_path / "pretrained"), "--dataset", pairs, "--label", "group"]
    assert main([*tuned, "--output", str(tmp_path / "tuned"), *steps]) == 0
    assert "AutoProcessor.from_pretrained" in (tmp_path / "tuned" / "README.md").read_text()
    assert main(["embed", pairs, "--model", str(tmp_path / "tuned"), "--output", str(tmp_path / "e.parquet")]) == 0
    assert "4 scans x 32 features" in capsys.readouterr().out
    table = pytest.importorskip("pandas").read_parquet(tmp_path / "e.parquet")
    assert not {"t1", "shape", "signals"} & set(table.columns)  # which say where files were on this machine
    assert main(["probe", str(tmp_path / "e.parquet"), "--label", "age", "--folds", "2"]) == 0
