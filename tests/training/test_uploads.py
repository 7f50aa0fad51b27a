"""What a Trainer sends to the Hub: the model, and nothing of the run."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "house"))

from fresh_process import run_python
from hub_server import HubServer
from tiny_pretraining import make_arguments, make_model, make_windows

from brain_transformers.training import MAETrainer

PUSH = """
    import sys
    from pathlib import Path

    sys.path.insert(0, sys.argv[1])
    from tiny_pretraining import make_arguments, make_model, make_windows
    from brain_transformers.training import MAETrainer

    for when in ("after", "while"):
        run = Path(sys.argv[2]) / when
        sharing = {"push_to_hub": when == "while", "hub_model_id": f"lab/{when}"}
        arguments = make_arguments(run, max_steps=2, save_strategy="steps", save_steps=1, **sharing)
        (run / "reconstructions").mkdir(parents=True)
        for name in ("reconstructions/step-1.png", "predictions.csv", "reconstruction.png", "run_settings.json"):
            (run / name).write_text("of a person")
        trainer = MAETrainer(make_model(), arguments, train_dataset=make_windows(8))
        trainer.train()
        if when == "after":
            trainer.push_to_hub(private=True)
            assert trainer.args.output_dir == str(run)
"""


def test_only_the_model_is_pushed_after_training_and_while_it_runs(tmp_path):
    with HubServer() as hub:
        environment = hub.environment(tmp_path / "home")
        run_python(PUSH, Path(__file__).resolve().parent, tmp_path, environment=environment)
        assert set(hub.repositories) == {"lab/after", "lab/while"}
        for name, repository in hub.repositories.items():
            assert repository.files.keys() >= {"config.json", "model.safetensors", "modeling_shim.py"}
            kept = {".gitattributes", "README.md", "config.json", "model.safetensors", "modeling_shim.py"}
            assert set(repository.files) <= kept
            run = tmp_path / name.removeprefix("lab/")
            assert {path.name for path in run.iterdir()} >= {"checkpoint-1", "checkpoint-2", "reconstructions"}


def test_uploading_checkpoints_is_refused(tmp_path):
    arguments = make_arguments(tmp_path, push_to_hub=True, hub_strategy="all_checkpoints")
    with pytest.raises(ValueError, match=r"hub_strategy.*optimizer"):
        MAETrainer(make_model(), arguments, train_dataset=make_windows(4))
