"""How models go to the Hub: with the licence of the weights that they come from, and not against it."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers import PreTrainedModel

from ..files import write_file
from .licenses import LIBRARY, UNREADABLE, card_of, license_on, licenses_in, restriction


def check_may_be_shared(what: str, licenses: set[str | None], allow_restricted: bool) -> None:
    """Refuse to upload weights that must not be shared without their authors' word.

    Args:
        what: is uploaded.
        licenses: of the weights that it comes from.
        allow_restricted: whether the user says that it is right.

    Raises:
        PermissionError: unless they may be, or it was allowed.
    """
    reasons = sorted({reason for license in licenses if (reason := restriction(license)) is not None})
    if reasons and not allow_restricted:
        raise PermissionError(
            f"{what} was not uploaded. It comes from weights that must not be shared without their authors' word: "
            f"{', and '.join(reasons)}. Ask them; if you may, say so with allow_restricted=True (--allow-restricted)."
        )


def licenses_of(config: Any) -> set[str | None]:
    """Licences of the weights that a model comes from, by its configuration.

    Those that were saved before configurations knew it are looked up on the card of what the model was loaded from,
    and the configuration knows it from then on.
    """
    found: set[str | None] = {*licenses_in(config.to_dict())}
    card = card_of(config.name_or_path) if config.name_or_path and not found else None
    if card is not None and card.get("license") is not None:
        license, name = license_on(card)
        if card != UNREADABLE:  # one that cannot be read today may be read another day
            config.weights_license = name or license
        found = {name or license}
    return found - {None}


def finish_card(file: Path, licenses: set[str | None]) -> None:
    """Give a card that transformers wrote what it does not know: library and licence, where none is stated."""
    card = ModelCard.load(file, ignore_metadata_errors=True)
    known = sorted(license for license in licenses if license is not None)
    card.data["library_name"] = LIBRARY
    card.data["tags"] = [*dict.fromkeys([*(card.data.get("tags") or ()), LIBRARY])]
    if known and card.data.get("license") is None:
        one = len(known) == 1 and (known[0] == "unknown" or known[0].startswith("cc-"))
        card.data["license"] = known[0] if one else "other"
        if not one:
            card.data["license_name"] = "-and-".join(known)
    card.save(file)


def rename_base(folder: Path, name: str) -> None:
    """Let the files of a saved adapter say `name` where they say the folder that its model was loaded from."""
    settings = folder / "adapter_config.json"
    before = json.loads(settings.read_text(encoding="utf-8"))["base_model_name_or_path"]
    if not before or before == name:
        return
    for file in (settings, folder / "input_contract.json", folder / "README.md"):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            said = before if file.suffix == ".md" else json.dumps(before)[1:-1]
            write_file(file, text.replace(said, name))


class UnderLicense(PreTrainedModel):
    """Uploads of a model of transformers: `push_to_hub`, and `save_pretrained` with `push_to_hub=True`."""

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *args: Any, allow_restricted: bool = False, **options: Any
    ) -> str:
        """Upload the model; see `transformers.PreTrainedModel.push_to_hub`.

        Args:
            repo_id: `"organisation/name"`.
            args, options: as of transformers.
            allow_restricted: whether weights may be uploaded that must not be shared without their authors' word, and
                what was trained from them.

        Raises:
            PermissionError: for such weights without it.
        """
        check_may_be_shared(repo_id, licenses_of(self.config), allow_restricted)
        upload: Any = super().push_to_hub
        return upload(repo_id, *args, **options)

    def save_pretrained(self, save_directory: Any, *args: Any, allow_restricted: bool = False, **options: Any) -> None:
        """Save the model; see `transformers.PreTrainedModel.save_pretrained` and [`push_to_hub`]."""
        licenses = licenses_of(self.config)  # which go into its configuration
        if options.get("push_to_hub"):
            check_may_be_shared(str(options.get("repo_id") or save_directory), licenses, allow_restricted)
        super().save_pretrained(save_directory, *args, **options)

    def _upload_modified_files(self, working_dir: Any, *args: Any, **options: Any) -> Any:
        # Of transformers, whose `push_to_hub` puts a card of its own beside the weights, and calls this.
        if (card := Path(working_dir) / "README.md").is_file():
            finish_card(card, licenses_of(self.config))
        return super()._upload_modified_files(working_dir, *args, **options)
