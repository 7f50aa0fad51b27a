"""Model cards: what a model is, what is known of where it comes from, how to use it, what is known not to work."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from ..models.family import KIND_OF_AUTO_CLASS, NamedModel
from ..models.licenses import LIBRARY, UNKNOWN, card_of, hub_name, license_on, licenses_in, terms_of
from ..version import __version__
from .registry import MODELS, name_by_size

if TYPE_CHECKING:
    from ..conversion.convert import Conversion

_STATED = "as stated by whoever converted it"
CARD_ROW = re.compile(r"\| (.+?) \| (.+) \|")
"""A line of the table of a card: name and value."""
_SYNTHETIC = (
    "It was trained on synthetic scans (brain_transformers.synthetic_scans), in which nothing was measured: it knows "
    "nothing of brains, and no number that it gives says anything about them."
)
_NOTHING_REPORTED = "Nothing was reported yet; that is not the same as nothing."


@dataclass(frozen=True)
class Provenance:
    """What is known of a converted file.

    Attributes:
        file: its name.
        sha256: its hash.
        dropped: tensors of the file that are not part of the model, with the reason.
        notes: further lines for the card.
        source: where it comes from, as whoever converted it says; `None` if they did not.
        same_sizes: name of the published model with the same sizes, which says nothing about the weights.
        needs: what the extractor must be given at every call because nothing saved holds it: argument and meaning.
        fingerprint: of the converted model; see [`Conversion`].
        account: what became of the tensors, in a sentence.
        fetched: whether this package brought the file from `source` itself.
    """

    file: str
    sha256: str
    dropped: dict[str, str]
    notes: tuple[str, ...] = ()
    source: str | None = None
    same_sizes: str | None = None
    needs: tuple[str, str] | None = None
    fingerprint: str | None = None
    account: str | None = None
    fetched: bool = False


@dataclass(frozen=True)
class _Origin:
    """Source and licence of weights in words, and for the metadata."""

    source: str
    license: str
    license_id: str | None = None
    base_model: str | None = None
    license_name: str | None = None  # of one that the Hub has no id for
    license_link: str | None = None
    published: bool = False


def build_model_card(
    title: str,
    entry: NamedModel,
    config: Any,
    provenance: Provenance | None = None,
    model: Any = None,
    extractor: Any = None,
    obtain: str | None = None,
    parent: str | Path | None = None,
    scores: Mapping[str, str] | None = None,
    scored_on: str | None = None,
) -> str:
    """Text of a model card with its metadata block; see `model_card_template.md`.

    Args:
        title: name of the model.
        entry: source, licence, citation and limits of the published model of this name or with these sizes.
        config: configuration of the model.
        provenance: what is known of the file, for converted weights: the sizes alone prove no source.
        model: the model, for its class and its number of parameters, which otherwise are those of `entry`.
        extractor: the feature extractor that is saved with it; by default one of the configuration alone.
        obtain: how to get the model, as Markdown, for a card that does not lie beside the weights.
        parent: folder or Hub name of the model whose weights the training started from, for trained weights; its
            licence and base model are passed on.
        scores: what evaluation after training gave: name -> value in words.
        scored_on: scans that it was done on, and how.
    """
    origin = _origin(entry, provenance, parent, obtain is not None, config)
    extractor = extractor or config.load_processor().from_model_config(config)
    call, fit, scan = extractor.example(config)
    is_classifier = type(model).__name__.endswith(KIND_OF_AUTO_CLASS["AutoModelForSequenceClassification"])
    released, trained = entry.parameters, entry.trained_parameters
    if model is not None:
        released, trained = model.base_model.num_parameters(), model.num_parameters(only_trainable=True)
    known = (
        entry if origin.published or provenance is None else NamedModel()
    )  # sizes alone do not say what a file was trained on
    likely = None if origin.published or provenance is None else provenance.same_sizes
    metadata = ModelCardData(
        license=origin.license_id,
        license_name=origin.license_name,
        license_link=origin.license_link,
        library_name=LIBRARY,
        tags=[*extractor.tags, "brain-transformers", config.model_type],
        base_model=origin.base_model,
        # The Hub has no task for scans: heads are "other".
        pipeline_tag="other" if is_classifier else "feature-extraction",
        datasets=[*known.datasets] or None,
        metrics=[*(scores or {})] or None,
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(Path(__file__).with_name("model_card_template.md")),
        title=title,
        model_type=config.model_type,
        rows=card_rows(config, extractor),
        released=released,
        trained=trained,
        origin=origin,
        provenance=provenance,
        version=__version__,
        obtain=obtain,
        unpublished=obtain is not None and entry.source is None,
        auto_extractor=extractor.auto_class,
        auto_class="AutoModelForSequenceClassification" if is_classifier else "AutoModel",
        is_classifier=is_classifier,
        fitted=extractor.is_fitted,
        call=call,
        fit=fit,
        scan=scan,
        needs=None if provenance is None else provenance.needs,
        limits_of=likely,
        trained_on=known.trained_on,
        claims=known.claims,
        published=origin.published,
        scores=scores,
        scored_on=scored_on,
        limits=entry.limits if likely or entry.limits else (_NOTHING_REPORTED,),
        terms=terms_of(origin.license_id, origin.license_name),
        citation=entry.citation,
        inline=_inline,
        code=_code,
    )
    return f"{card}\n"


def card_rows(config: Any, extractor: Any) -> dict[str, str]:
    """What the table of a card says of inputs and sizes: name -> Markdown that is read as it stands."""
    words = {**({} if extractor is None else extractor.describe()), **config.describe()}
    return {name: _plain(text) for name, text in words.items()}


def converted_model_card(
    title: str, conversion: "Conversion", source: str | None = None, fetched: bool = False, account: str | None = None
) -> str:
    """Card of a model that was converted from its authors' files; see [`Provenance`]."""
    converted, config = conversion.converted, conversion.model.config
    published = name_by_size(config)
    provenance = Provenance(
        conversion.checkpoint.path.name,
        conversion.checkpoint.sha256,
        converted.report.dropped,
        tuple(converted.notes),
        source,
        published,
        converted.needs,
        conversion.fingerprint,
        account,
        fetched,
    )
    entry = MODELS[published] if published else NamedModel()
    return build_model_card(title, entry, config, provenance, conversion.model, conversion.extractor)


def trained_model_card(
    title: str,
    model: Any,
    extractor: Any,
    parent: str | Path | None,
    *,
    synthetic: bool = False,
    trained_on: str | None = None,
    scores: Mapping[str, str] | None = None,
    scored_on: str | None = None,
) -> str:
    """Card of a model that was trained with this package, with the notices of the weights that it started from.

    Args:
        title: name of the model.
        model: the trained model.
        extractor: its feature extractor.
        parent: folder or Hub name of the model that it started from; `None` or a named configuration for random
            weights.
        synthetic: whether it was trained on scans that were made up, see [`synthetic_scans`].
        trained_on: the scans of training, in a sentence.
        scores, scored_on: of [`build_model_card`].
    """
    if str(parent) in MODELS and not Path(str(parent)).is_dir():
        parent = None
    limits = () if parent is None else ("What is known of the model that it started from: see its card.",)
    entry = NamedModel(limits=((_SYNTHETIC,) if synthetic else ()) + limits, trained_on=trained_on)
    known: dict[str, Any] = {"scores": scores, "scored_on": scored_on}
    return build_model_card(title, entry, model.config, model=model, extractor=extractor, parent=parent, **known)


def _origin(
    entry: NamedModel, provenance: Provenance | None, parent: str | Path | None, catalogue: bool, config: Any
) -> _Origin:
    """What is known, and no more: a file proves neither its source nor its licence by the sizes of its weights."""
    if parent is not None or (provenance is None and not catalogue):
        return _inherited(parent, config)
    stated = None if provenance is None else provenance.source
    who = "brought from there by brain-transformers" if provenance and provenance.fetched else _STATED
    if catalogue and entry.source is None:
        return _Origin("none were ever published: random initialisation", "none: there are no weights", published=True)
    if catalogue or (stated and entry.source and _repository(stated) == _repository(entry.source)):
        return _Origin(
            entry.source or "" if catalogue else f"{stated}, {who}",
            UNKNOWN + ": the authors state none" if entry.license in (None, UNKNOWN) else str(entry.license),
            entry.license,
            hub_name(None if catalogue else stated),
            published=True,
        )
    licence = "unknown: ask the source"
    if provenance is not None and provenance.same_sizes is not None and entry.license is not None:
        licence += (
            f". The sizes are those of {provenance.same_sizes} ({entry.source}; licence {entry.license}): if this is "
            "its file, that holds"
        )
    source = f"{stated}, {who}" if stated else "unknown: whoever converted it did not say"
    return _Origin(source, licence, UNKNOWN, hub_name(stated))


def _inherited(parent: str | Path | None, config: Any) -> _Origin:
    """What a trained model takes over from the model that it started from: its card and its configuration."""
    folder = Path(str(parent))
    is_folder = folder.is_dir()
    card = None if parent is None else card_of(parent)
    licence, named = (None if parent is None else UNKNOWN, None) if card is None else license_on(card)
    known = sorted({*licenses_in(config.to_dict())})
    if known and known != [named or licence]:
        licence, named = (known[0], None) if len(known) == 1 else ("other", "-and-".join(known))
    words = "set by whoever publishes them"
    if licence == UNKNOWN:
        words = f"unknown: ask whoever published {folder.resolve().name if is_folder else parent or 'what it holds'}"
    elif licence is not None:
        words = f"{named or licence}, as of the model that it started from"
    if parent is None:
        return _Origin("trained with brain-transformers", words, licence, license_name=named)
    name, link = hub_name(str(parent)), (card or {}).get("license_link")
    base = (card or {}).get("base_model") if is_folder else name
    shown = folder.resolve().name if is_folder else str(parent)
    return _Origin(
        f"trained with brain-transformers from {shown}" + (f" (from {base})" if base and base != shown else ""),
        words,
        licence,
        base if isinstance(base, str) else None,
        license_name=named,
        license_link=link if named and str(link).startswith("https://") else None,  # a file would not be beside it
    )


def _repository(source: str) -> str:
    """The repository that a source names: `"vandijklab/brainlm"` of an address, or of a line with a file's name."""
    return re.sub(r"^https?://(?:www\.)?(?:huggingface\.co/)?", "", source.strip()).split(",")[0].rstrip("/").lower()


def _inline(text: Any) -> str:
    """Text that stays in its line and its cell of Markdown."""
    return " ".join(str(text).split()).replace("|", "\\|") if text is not None else "unknown"


def _plain(text: str) -> str:
    """Text in its line and cell that is read as it stands: no link, code or HTML."""
    return re.sub(r"([\\`<\[|])", r"\\\1", " ".join(text.split()))


def _code(text: Any) -> str:
    """Text as a code span, which nothing in it ends."""
    return f"`{_inline(text).replace('`', chr(39))}`"
