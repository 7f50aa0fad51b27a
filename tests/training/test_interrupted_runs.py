"""Runs that were killed, went wrong or ran out of space: what is left, and that they end as uninterrupted ones do."""

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_latent_prediction
import tiny_pretraining
import tiny_self_distillation
import torch
from transformers import AutoModelForSequenceClassification, set_seed
from transformers.utils import logging as transformers_logging

import brain_transformers
from brain_transformers import ROISeriesFeatureExtractor, ScanCollator, files
from brain_transformers.training import (
    FineTuningArguments,
    FineTuningTrainer,
    MAETrainer,
    last_complete_checkpoint,
    seeded_trainer,
)
from brain_transformers.training.checkpoints import RECORD, DamagedCheckpointError, write_record
from brain_transformers.training.finite import NotFiniteError

# Lines of the log and checkpoints do not fall on the same steps, and 7 steps end within an epoch.
RUN = {"max_steps": 7, "logging_steps": 3, "save_strategy": "steps", "save_steps": 2}


def _masked(output_dir, **options):
    rows = options.pop("rows", None)
    return MAETrainer(
        tiny_pretraining.make_model(dropout=0.1),
        tiny_pretraining.make_arguments(output_dir, **{**RUN, **options}),
        train_dataset=tiny_pretraining.make_windows(12) if rows is None else rows,
        eval_dataset=tiny_pretraining.make_windows(4, seed=5),
    )


def _latent(output_dir, **options):
    return brain_transformers.training.JEPATrainer(
        tiny_latent_prediction.make_model(0.1),
        tiny_latent_prediction.make_arguments(output_dir, **{**RUN, **options}),
        train_dataset=tiny_latent_prediction.make_rows(12),
    )


def _distilled(output_dir, **options):
    return tiny_self_distillation.make_trainer(output_dir, **{**RUN, **options})


def _extractor(**options):
    sizes = {"n_rois": 12, "n_timepoints": 40, "patch_size": 10, "normalization": "zscore"}
    return ROISeriesFeatureExtractor(**{**sizes, "coordinates": np.zeros((12, 3)), **options})


def _fine_tuned(output_dir, extractor=None, rows=None, **options):
    set_seed(0)
    config = brain_transformers.load_config("brainlm-tiny", n_rois=12, num_labels=1, problem_type="regression")
    extractor = _extractor() if extractor is None else extractor
    arguments = {
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "disable_tqdm": True,
        "report_to": "none",
        "layer_decay": 0.5,
        "seed": 3,
        **RUN,
        **options,
    }
    ages = [float(number) for number in range(12)]
    return FineTuningTrainer(
        AutoModelForSequenceClassification.from_config(config),
        FineTuningArguments(output_dir=str(output_dir), **arguments),
        data_collator=ScanCollator(extractor, "age", window="random", seed=arguments["seed"]),
        train_dataset=tiny_pretraining.make_scans(12, age=ages) if rows is None else rows,
        processing_class=extractor,
    )


def _run(make, output_dir, resume=None, **options):
    trainer = make(output_dir, **options)
    return trainer, trainer.train(resume_from_checkpoint=resume)


def _logged(trainer):
    timed = ("runtime", "per_second", "flos")
    return [
        {name: value for name, value in line.items() if not any(word in name for word in timed)}
        for line in trainer.state.log_history
    ]


@pytest.mark.parametrize("make", [_masked, _latent, _distilled, _fine_tuned])
def test_from_whichever_checkpoint_a_run_goes_on_it_ends_as_the_uninterrupted_one(tmp_path, make):
    straight, output = _run(make, tmp_path)
    weights = {name: value.clone() for name, value in straight.model.state_dict().items()}
    checkpoints = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert checkpoints == [f"checkpoint-{step}" for step in (2, 4, 6, 7)]
    for name in ("checkpoint-7", "checkpoint-4"):
        resumed, again = _run(make, tmp_path, resume=str(tmp_path / name))
        assert resumed.state.global_step == 7
        state = resumed.model.state_dict()
        assert [key for key, value in weights.items() if not torch.equal(value, state[key])] == []
        assert again.training_loss == output.training_loss == again.metrics["train_loss"]
        assert _logged(resumed) == _logged(straight)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == checkpoints


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the checkpoints of a run."""
    folder = tmp_path_factory.mktemp("finished")
    _run(_masked, folder)
    return folder


@pytest.fixture
def heard(caplog):
    """Warnings of transformers' loggers and ours, which do not propagate by themselves."""
    transformers_logging.enable_propagation()
    logging.getLogger("brain_transformers").propagate = True
    yield caplog
    transformers_logging.disable_propagation()


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 0x10
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), _cut, _flip, lambda path: path.unlink()])
@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", "config.json"]
)
def test_a_checkpoint_with_a_damaged_file_is_passed_over(tmp_path, finished, heard, name, damage):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    damage(folder / "checkpoint-7" / name)
    assert last_complete_checkpoint(folder) == str(folder / "checkpoint-6")
    assert "checkpoint-7" in heard.text
    assert name in heard.text or "*.safetensors" in heard.text


def test_what_only_loading_finds_wrong_is_one_error_too(tmp_path, finished):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for path in folder.glob(f"checkpoint-*/{RECORD}"):
        path.unlink()
    checkpoint = folder / "checkpoint-4"
    for name, content in (("optimizer.pt", {"state": 1}), ("scheduler.pt", [1]), ("rng_state.pth", {"cpu": 3})):
        whole = (checkpoint / name).read_bytes()
        torch.save(content, checkpoint / name)
        with pytest.raises(DamagedCheckpointError, match=r"checkpoint-4.*resume_from_checkpoint"):
            _run(_masked, folder, resume=str(checkpoint))
        (checkpoint / name).write_bytes(whole)
    (checkpoint / "trainer_state.json").write_text('{"global_step": 4, "unknown": 1}')
    with pytest.raises(DamagedCheckpointError, match="checkpoint-4"):
        _run(_masked, folder, resume=str(checkpoint))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), _cut])
def test_checkpoints_of_an_earlier_version_are_looked_through_too(tmp_path, finished, name, damage):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for number in (6, 7):
        (folder / f"checkpoint-{number}" / RECORD).unlink()
    assert last_complete_checkpoint(folder) == str(folder / "checkpoint-7")
    damage(folder / "checkpoint-7" / name)
    assert last_complete_checkpoint(folder) == str(folder / "checkpoint-6")


def test_a_kill_before_a_checkpoint_is_closed_loses_no_part_of_the_loss(tmp_path, finished, monkeypatch):
    def killed(folder, content):
        if folder.name == "checkpoint-7":
            raise KeyboardInterrupt
        write_record(folder, content)

    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(seeded_trainer, "write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            _run(_masked, folder)
    assert last_complete_checkpoint(folder) == str(folder / "checkpoint-6")
    _, resumed = _run(_masked, folder, resume=True)
    _, whole = _run(_masked, tmp_path / "whole")
    assert resumed.training_loss == whole.training_loss


def test_a_run_goes_on_from_an_earlier_checkpoint_where_the_last_is_damaged(tmp_path, finished):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    weights = (folder / "checkpoint-7" / "model.safetensors").read_bytes()
    for number in (6, 7):
        (folder / f"checkpoint-{number}" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(DamagedCheckpointError, match=r"checkpoint-7.*optimizer.pt is damaged.*resume_from_checkpoint"):
        _run(_masked, folder, resume=str(folder / "checkpoint-7"))
    _run(_masked, folder, resume=True)
    assert (folder / "checkpoint-7" / "model.safetensors").read_bytes() == weights
    assert last_complete_checkpoint(folder) == str(folder / "checkpoint-7")


def test_our_record_of_a_checkpoint_is_plain_json(finished):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    for path in finished.glob("checkpoint-*/*.json"):
        json.loads(path.read_text(), parse_constant=refuse)


# --- the same run ---


def test_only_the_same_run_goes_on(tmp_path):
    _run(_fine_tuned, tmp_path, max_steps=2)
    checkpoint = str(tmp_path / "checkpoint-2")
    with pytest.raises(files.OtherSettingsError, match=r"checkpoint-2.*processor.*coordinates"):
        _run(_fine_tuned, tmp_path, resume=checkpoint, extractor=_extractor(coordinates=np.ones((12, 3))))
    # The last digits of a fit may be those of another machine.
    _run(
        _fine_tuned,
        tmp_path,
        resume=checkpoint,
        extractor=_extractor(coordinates=np.full((12, 3), 1e-12)),
        max_steps=2,
    )
    ages = [float(number) for number in range(12)]
    with pytest.raises(files.OtherSettingsError, match="training scans"):
        _run(_fine_tuned, tmp_path, resume=True, rows=tiny_pretraining.make_scans(12, seed=8, age=ages))
    # Longer, or otherwise, is what a user may want; it is said that the numbers are others.
    trainer, _ = _run(_fine_tuned, tmp_path, resume=True, max_steps=3)
    assert trainer.state.global_step == 3


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path):
    with files.locked(tmp_path / "checkpoints", "training"), pytest.raises(files.FolderInUseError, match="training"):
        _run(_masked, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_an_earlier_version_goes_on_to_the_same_weights(tmp_path, finished):
    folder = tmp_path / "run"
    shutil.copytree(finished / "checkpoint-4", folder / "checkpoint-4")
    (folder / "checkpoint-4" / RECORD).unlink()
    _run(_masked, folder, resume=True)
    weights = [root / "checkpoint-7" / "model.safetensors" for root in (folder, finished)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


# --- numbers that are lost ---


def _spoiled_windows(value):
    rows = tiny_pretraining.make_windows(12)
    for number, row in enumerate(rows):
        row["signals"] = row["signals"].copy()
        row["number"] = number
    rows[5]["signals"][3, 4] = value
    return [{name: row[name] for name in ("signals", "coordinates")} for row in rows]


@pytest.mark.parametrize("value", [1e10, np.inf, np.nan])
@pytest.mark.parametrize("options", [{}, {"logging_strategy": "no"}, {"logging_nan_inf_filter": True}])
def test_a_scan_with_an_extreme_value_stops_masked_training_and_is_named(tmp_path, value, options):
    with pytest.raises(NotFiniteError, match=r"(loss|gradient norm) became .* at step 3\b.*step: row 5 "):
        _run(_masked, tmp_path, rows=_spoiled_windows(value), **options)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("make", [_masked, _latent, _distilled, _fine_tuned])
def test_an_absurd_learning_rate_stops_every_objective(tmp_path, make):
    trainer = make(tmp_path, learning_rate=1e30, warmup_steps=1, save_steps=1)
    with pytest.raises(NotFiniteError, match=r"at step [123]\b.*learning rate"):
        trainer.train()
    for path in tmp_path.glob("checkpoint-*/model.safetensors"):
        from safetensors.torch import load_file

        assert all(bool((tensor.abs() < 1e18).all()) for tensor in load_file(path).values()), path
    with pytest.raises(NotFiniteError):
        trainer.save_model()
    assert not (tmp_path / "model.safetensors").exists()


def test_fine_tuning_on_an_extreme_label_stops_and_names_the_person(tmp_path):
    rows = tiny_pretraining.make_scans(12, age=[1.0] * 11 + [1e30], subject=[f"p{number}" for number in range(12)])
    with pytest.raises(NotFiniteError, match=r"(loss|gradient norm) became .* subject p11"):
        _run(_fine_tuned, tmp_path, rows=rows)
    assert not list(tmp_path.glob("checkpoint-[3-9]"))


def test_a_score_that_is_not_finite_is_an_error_and_names_the_scan(tmp_path):
    trainer = _masked(tmp_path)
    rows = tiny_pretraining.make_windows(4, seed=5)
    rows[2]["signals"] = np.full_like(rows[2]["signals"], np.inf)
    with pytest.raises(NotFiniteError, match=r"eval_.* row 2 "):
        trainer.evaluate(rows)


def test_all_processes_stop_when_one_has_lost_its_numbers(tmp_path):
    """Only one process sees the scan; none may wait for the other, or save."""
    arguments = {"max_steps": 6, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [tiny_pretraining.__file__, "--output", str(tmp_path), "--spoiled-row", "5"]
    command += ["--arguments", json.dumps({**arguments, "logging_steps": 2})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert re.search(r"NotFiniteError: (loss|gradient norm) became .* at step 3\b.*step: row 5 ", done.stderr)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["checkpoint-2"]


# --- a full disk ---


def test_a_full_disk_leaves_what_was_saved_before(tmp_path, monkeypatch):
    save = torch.save

    def full(content, path, *args, **kwargs):
        if "checkpoint-4" in str(path) and str(path).endswith("optimizer.pt"):
            open(path, "wb").close()
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left for .*checkpoint-4.*make room.*--resume") as caught:
        _run(_masked, tmp_path, save_total_limit=1)
    assert files.no_space(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    monkeypatch.undo()
    resumed, output = _run(_masked, tmp_path, resume=True, save_total_limit=1)
    straight, expected = _run(_masked, tmp_path / "straight")
    assert output.training_loss == expected.training_loss
    assert torch.equal(resumed.model.decoder.layers[0].mlp.fc1.weight, straight.model.decoder.layers[0].mlp.fc1.weight)


def test_evaluation_without_an_evaluation_set_is_refused_when_the_trainer_is_made(tmp_path):
    for options, name in (
        ({"eval_strategy": "steps", "eval_steps": 2}, "eval_strategy='steps'"),
        ({"eval_on_start": True}, "eval_on_start"),
    ):
        with pytest.raises(ValueError, match=rf"{name}.*--eval_.*got no eval_dataset"):
            _latent(tmp_path, **options)
    with pytest.raises(ValueError, match="eval_dataset"):
        _latent(tmp_path).evaluate()


def test_checkpoints_are_a_tenth_of_the_run_apart_unless_said_otherwise(tmp_path):
    _run(_masked, tmp_path, max_steps=12, save_steps=None)
    steps = sorted(int(path.name.partition("-")[2]) for path in tmp_path.glob("checkpoint-*"))
    assert steps == [2, 4, 6, 8, 10, 12]
