"""What a Trainer sends to the Hub: the model, and nothing of the run and the people that it was trained on."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.utils.hub import PushInProgress

from .checkpoints import RECORD

# States of optimizer and random generators, and training arguments, which hold paths of this machine.
_STAYS = {".pt", ".pth", ".bin"}
_STAYS_TOO = {"trainer_state.json", RECORD}


class UploadsTheModel(Trainer):
    """A Trainer whose uploads hold weights, configuration, processor and card.

    transformers uploads the folder of the run as it is but for checkpoints, with whatever else lies there: pictures
    and predictions of people who were held out, arguments, logs.
    """

    _uploads_from: str | None = None
    push_in_progress: Any = None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> Any:
        """Upload the model and its processor; see `transformers.Trainer.push_to_hub`."""
        if self.hub_model_id is None:
            self.init_hf_repo(token=self.args.hub_token if token is None else token, private=private)
        run = Path(str(self.args.output_dir))
        card.setdefault("model_name", (self.args.hub_model_id or run.absolute().name).split("/")[-1])
        folder = tempfile.TemporaryDirectory()
        if (run / "README.md").is_file():
            shutil.copy(run / "README.md", folder.name)
        self.args.output_dir = self._uploads_from = folder.name
        try:
            sent = super().push_to_hub(commit_message, blocking, token, revision, private, **card)
        finally:
            self.args.output_dir, self._uploads_from = str(run), None
        if hasattr(sent, "add_done_callback"):
            sent.add_done_callback(lambda _: folder.cleanup())
        else:
            folder.cleanup()
        return sent

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; see `transformers.Trainer.save_model`."""
        super().save_model(output_dir, _internal_call)
        if self._uploads_from is not None:
            (Path(self._uploads_from) / "training_args.bin").unlink(missing_ok=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload the model of a checkpoint in the background."""
        if not self.is_world_process_zero() or self.args.hub_strategy == "end":
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = tempfile.TemporaryDirectory()  # the checkpoint may be gone before it is uploaded
        for path in Path(checkpoint_folder).iterdir():
            if path.is_file() and path.suffix not in _STAYS and path.name not in _STAYS_TOO:
                shutil.copy(path, folder.name)
        job = HfApi(token=self.args.hub_token).upload_folder(
            repo_id=str(self.hub_model_id),
            folder_path=folder.name,
            commit_message=f"Training in progress, step {self.state.global_step}",
            revision=self.args.hub_revision,
            run_as_future=True,
        )
        job.add_done_callback(lambda _: folder.cleanup())
        jobs = [*self.push_in_progress.jobs, job] if busy else [job]
        self.push_in_progress = PushInProgress(jobs)  # type: ignore[arg-type]
