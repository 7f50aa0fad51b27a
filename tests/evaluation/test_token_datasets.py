"""All tokens of encoders become a dataset: the same bytes whatever was killed or shared out, and stage 1 reads it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

datasets = pytest.importorskip("datasets")
pytest.importorskip("nibabel")

import brain_transformers as bt  # noqa: E402
from brain_transformers.cli.main import main  # noqa: E402
from brain_transformers.parts import Parts  # noqa: E402
from tests.models.composed_harmony import composed_folder, write_people  # noqa: E402


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pairs/` of five people, of which one has no volume and one a short scan, and `model/`."""
    folder = write_people(tmp_path_factory.mktemp("study"), ("01", "02", "03", "04", "05"), ("01", "02", "03", "05"))
    short = folder / "bold" / "sub-02_bold.npy"
    np.save(short, np.load(short)[:, :18])
    order = ["--roi-order", str(folder / "order.txt"), "--t-r", "4.41"]
    pairs = ["--t1", str(folder / "t1"), "--output", str(folder / "pairs")]
    assert main(["prepare", str(folder / "bold"), *order, *pairs]) == 0
    composed_folder(folder / "model")
    return folder


def tokens(study: Path, output: Path, *more: str) -> int:
    model = ["--model", str(study / "model"), "--output", str(output), "--part-size", "2", "--batch-size", "2"]
    return main(["embed", str(study / "pairs"), "--tokens", *model, *more])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(study: Path) -> Path:
    assert tokens(study, study / "stage0") == 0
    return study / "stage0"


def test_rows_hold_the_tokens_and_one_mask_a_sample(study: Path, whole: Path) -> None:
    rows, pairs = bt.load_dataset(whole), bt.load_dataset(study / "pairs")
    assert [row["subject"] for row in rows] == ["01", "02", "03", "04", "05"]
    assert rows.with_format(None)["group"] == pairs.with_format(None)["group"]
    assert not {"signals", "t1", "roi_order"} & set(rows.column_names)
    model = bt.BrainHarmonyModel.from_pretrained(study / "model").eval()
    processor = bt.BrainHarmonyProcessor.from_pretrained(study / "model")
    from_tokens = bt.ScanCollator(processor)(list(rows))
    with pytest.warns(UserWarning, match="has no T1"):
        from_pairs = bt.ScanCollator(processor)(list(pairs))
    with torch.no_grad():
        expected, observed = model.stage0(**from_pairs)
        torch.testing.assert_close(from_tokens["inputs_embeds"], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(from_tokens["attention_mask"].bool(), observed)
        torch.testing.assert_close(
            model(**from_tokens).pooler_output, model(**from_pairs).pooler_output, rtol=1e-4, atol=1e-5
        )
    counts = from_tokens["attention_mask"].sum(1).tolist()
    assert counts == [210, 12 * 3 + 150, 210, 60, 210]


def test_in_bfloat16_they_take_half_the_room_and_lose_eight_bits(study: Path, whole: Path, tmp_path: Path) -> None:
    assert tokens(study, tmp_path / "half", "--token-dtype", "bfloat16") == 0
    half, full = bt.load_dataset(tmp_path / "half"), bt.load_dataset(whole)
    assert 2 * half.data.nbytes < 1.2 * full.data.nbytes
    processor = bt.BrainHarmonyProcessor.from_pretrained(study / "model")
    stored, exact = (bt.ScanCollator(processor)(list(rows))["inputs_embeds"] for rows in (half, full))
    assert torch.equal(stored, exact.to(torch.bfloat16).float())


def test_what_was_killed_goes_on_and_ends_in_the_same_bytes(
    study: Path, whole: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    write, done = Parts.write, []

    def until_the_second(self: Any, number: int, *args: Any, **kwargs: Any) -> None:
        write(self, number, *args, **kwargs)
        done.append(number)
        if len(done) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", until_the_second)
        assert tokens(study, tmp_path / "again") == 130
    assert not (tmp_path / "again").exists()
    part = tmp_path / ".again.parts" / "part-00001.arrow"
    part.write_bytes(part.read_bytes()[:-20])  # and a disk that lost something
    assert tokens(study, tmp_path / "again", "--token-dtype", "bfloat16") == 2
    assert "token dtype: float32 then, bfloat16 now" in capsys.readouterr().err
    remade: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", lambda self, n, *a, **k: (remade.append(n), write(self, n, *a, **k)))
        assert tokens(study, tmp_path / "again") == 0
    assert remade == [1, 2]
    assert content(tmp_path / "again") == content(whole)
    assert not (tmp_path / ".again.parts").exists()


def test_shards_together_give_the_same_bytes(study: Path, whole: Path, tmp_path: Path, capsys: Any) -> None:
    assert tokens(study, tmp_path / "shared", "--shard", "2/2") == 0
    assert tokens(study, tmp_path / "shared", "--merge") == 2
    assert "1 of 3 parts are not there yet (1/3)" in capsys.readouterr().err
    assert tokens(study, tmp_path / "shared", "--shard", "1/2") == 0
    assert not (tmp_path / "shared").exists()
    assert tokens(study, tmp_path / "shared", "--merge") == 0
    assert content(tmp_path / "shared") == content(whole)


def test_stage_1_trains_on_it_with_or_without_encoders(study: Path, whole: Path, tmp_path: Path, capsys: Any) -> None:
    steps = [
        "--max-steps",
        "1",
        "--per-device-train-batch-size",
        "5",
        "--disable-tqdm",
        "True",
        "--save-strategy",
        "no",
    ]
    sizes = ["--config", "n_fmri_tokens=60", "n_t1_tokens=150", "input_size=32"]
    for number, model in enumerate(([str(study / "model")], ["brain-harmony-tiny", *sizes])):
        run = ["--dataset", str(whole), "--output", str(tmp_path / f"run-{number}")]
        assert main(["pretrain", "--model", *model, *run, *steps]) == 0
    tuned = ["--model", str(tmp_path / "run-0"), "--dataset", str(whole), "--label", "group"]
    assert main(["finetune", *tuned, "--output", str(tmp_path / "tuned"), *steps]) == 0
    assert (
        main(
            [
                "pretrain",
                "--model",
                "brain-harmony-tiny",
                "--dataset",
                str(study / "pairs"),
                "--output",
                str(tmp_path / "x"),
                *steps,
            ]
        )
        == 2
    )
    assert "got one of pairs of a series and a T1 volume. Write its tokens with" in capsys.readouterr().err
    # A model that holds its encoders goes back to scans.
    table = ["--model", str(tmp_path / "tuned"), "--output", str(tmp_path / "e.parquet")]
    assert main(["embed", str(study / "pairs"), *table]) == 0
    assert "5 scans x 32 features" in capsys.readouterr().out


def test_any_encoder_and_bad_scans(study: Path, tmp_path: Path, capsys: Any) -> None:
    scans = [np.random.default_rng(n).normal(size=(12, 40)) for n in range(3)]
    scans[1][:9] = 1.0  # constant
    config = bt.load_config("harmonix-f-tiny")
    rows = bt.dataset_from_arrays(scans, roi_order=config.roi_order, t_r=4.41, subject=["a", "b", "c"])
    rows.save_to_disk(str(tmp_path / "scans"))
    composed = bt.BrainHarmonyModel.from_pretrained(study / "model")
    processor = bt.BrainHarmonyProcessor.from_pretrained(study / "model").fmri_feature_extractor
    bt.save_model_folder(composed.fmri_encoder, tmp_path / "f", extractor=processor)
    call = [
        "embed",
        str(tmp_path / "scans"),
        "--model",
        str(tmp_path / "f"),
        "--output",
        str(tmp_path / "t"),
        "--tokens",
    ]
    assert main([*call, "--on-error", "raise"]) == 2
    assert "--on-error skip" in capsys.readouterr().err
    assert main([*call, "--strict"]) == 1
    made = bt.load_dataset(tmp_path / "t")
    assert [row["subject"] for row in made] == ["a", "c"]
    assert made[0]["n_tokens"] == 60
    assert "scan b" in (tmp_path / "t" / "skipped_files.tsv").read_text()
    for flags, message in (
        (["--pooling", "mean"], "--pooling makes vectors"),
        (["--output", str(tmp_path / "t.parquet")], "writes the folder of a dataset"),
        ([], "Choose another --output"),
    ):
        assert main([*call, *flags]) == 2
        assert message in capsys.readouterr().err
