"""What a Trainer sends to the Hub: the model, and nothing of the run and the people that it was trained on."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.utils.hub import PushInProgress

from ..families import shared_base
from ..models.uploads import UnderLicense, check_may_be_shared, finish_card, licenses_of, rename_base
from .checkpoints import RECORD
from .parameter_groups import without_adapters

# States of optimizer and random generators, and training arguments, which hold paths of this machine.
_STAYS = {".pt", ".pth", ".bin"}
_STAYS_TOO = {"trainer_state.json", RECORD}


class UploadsTheModel(Trainer):
    """A Trainer whose uploads hold weights, configuration, processor and card.

    transformers uploads the folder of the run as it is but for checkpoints, with whatever else lies there: pictures
    and predictions of people who were held out, arguments, logs.
    """

    _uploads_from: str | None = None
    _allowed = False
    _has_card = False
    _run = Path()
    _base: str | None = None
    push_in_progress: Any = None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        allow_restricted: bool = False,
        **card: Any,
    ) -> Any:
        """Upload the model and its processor; see `transformers.Trainer.push_to_hub`.

        Args:
            commit_message, blocking, token, revision, private: as of transformers.
            allow_restricted: whether weights may be uploaded that must not be shared without their authors' word, and
                what was trained from them; the training argument of this name says the same.
            card: of `create_model_card`, such as `finetuned_from="org/name"`, the base of an adapter.

        Raises:
            PermissionError: for such weights without it.
            ValueError: for an adapter whose base model is a folder of this machine, without `finetuned_from`.
        """
        self._check_may_be_shared(allow_restricted, card.get("finetuned_from"))
        self._allowed = allow_restricted
        if self.hub_model_id is None:
            self.init_hf_repo(token=self.args.hub_token if token is None else token, private=private)
        run = self._run = Path(str(self.args.output_dir))
        card.setdefault("model_name", (self.args.hub_model_id or run.absolute().name).split("/")[-1])
        folder = tempfile.TemporaryDirectory()
        self._has_card = (run / "README.md").is_file() and not (run / "README.md").is_symlink()
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

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository; see `transformers.Trainer.init_hf_repo`. Called before training too."""
        self._check_may_be_shared(self._allowed, self._base)
        super().init_hf_repo(token, private)

    def _check_may_be_shared(self, allow_restricted: bool, base: str | None) -> None:
        allowed = allow_restricted or getattr(self.args, "allow_restricted", False)
        model: Any = self.accelerator.unwrap_model(self.model)
        body = without_adapters(model)
        name = str(self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name)
        if isinstance(body, UnderLicense):
            check_may_be_shared(name, licenses_of(body.config), allowed)
        if body is not model:
            self._base = shared_base(body.config.name_or_path, base, "finetuned_from")

    def create_model_card(self, *args: Any, **card: Any) -> None:
        """Write the card, unless the run has one; see `transformers.Trainer.create_model_card`."""
        folder = Path(str(self.args.output_dir))
        if not self.is_world_process_zero() or self._has_card:
            return
        (folder / "README.md").unlink(missing_ok=True)  # of peft, which writes it again
        super().create_model_card(*args, **card)
        body: Any = without_adapters(self.accelerator.unwrap_model(self.model))
        finish_card(folder / "README.md", licenses_of(body.config) if isinstance(body, UnderLicense) else set())
        if self._base is not None:
            rename_base(folder, self._base)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; see `transformers.Trainer.save_model`."""
        super().save_model(output_dir, _internal_call)
        if self._uploads_from is not None:
            folder = Path(self._uploads_from)
            (folder / "training_args.bin").unlink(missing_ok=True)
            if self._has_card:
                shutil.copy(self._run / "README.md", folder)
            if self._base is not None:
                rename_base(folder, self._base)

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
            if path.is_file() and not path.is_symlink() and path.suffix not in _STAYS and path.name not in _STAYS_TOO:
                shutil.copy(path, folder.name)
        if self._base is not None:
            rename_base(Path(folder.name), self._base)
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
