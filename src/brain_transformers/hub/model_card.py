"""Model cards: what a model is, where it comes from, how to use it, what is known not to work."""

from dataclasses import dataclass
from typing import Any

from ..processing.feature_extraction_roi_series import ROISeriesFeatureExtractor
from ..version import __version__
from .registry import ModelEntry


@dataclass(frozen=True)
class Provenance:
    """Where converted weights came from.

    Attributes:
        file: name of the authors' file.
        sha256: its hash.
        dropped: tensors of the file that are not part of the model, with the reason.
        notes: further lines for the card.
    """

    file: str
    sha256: str
    dropped: dict[str, str]
    notes: tuple[str, ...] = ()


def build_model_card(
    title: str,
    entry: ModelEntry,
    config: Any,
    provenance: Provenance | None = None,
    parameters: int | None = None,
    obtain: str | None = None,
) -> str:
    """Text of a model card with its metadata block.

    Args:
        title: name of the model.
        entry: source, licence, citation and limits.
        config: configuration of the model.
        provenance: file and hash, for converted weights.
        parameters: number of trainable parameters.
        obtain: how to get the model, as Markdown, for a card that does not lie beside the weights.
    """
    extractor = ROISeriesFeatureExtractor.from_model_config(config)
    if config.roi_order is None:
        order_argument = ""
    elif isinstance(config.roi_order, str):
        order_argument = f', roi_order="{config.roi_order.removesuffix("@y")}"'
    else:
        order_argument = ", roi_order=model.config.roi_order"
    order = (
        config.roi_order if not isinstance(config.roi_order, list) else f"{len(config.roi_order)} labels, see config"
    )
    lines = [
        "---",
        f"license: {entry.license or 'other'}",
        "library_name: brain-transformers",
        "pipeline_tag: feature-extraction",
        "tags:",
        "- fmri",
        "- neuroimaging",
        "- brain-transformers",
        f"- {config.model_type}",
        "---",
        "",
        f"# {title}",
        "",
        f"A `{config.model_type}` model for the Python package `brain-transformers`.",
        "",
        "| | |",
        "| --- | --- |",
        f"| input | `signals` (batch, {config.n_rois or 'n_rois'}, {config.n_timepoints}), parcel order `{order}`, "
        f"TR {config.t_r or 'unknown'} s |",
        f"| encoder | {config.num_hidden_layers} layers, width {config.hidden_size}, {config.num_attention_heads} "
        "heads |",
    ]
    if parameters is not None:
        lines.append(f"| parameters | {parameters:,} |")
    lines += [
        f"| source of the weights | {entry.source or 'trained with brain-transformers'} |",
        f"| licence of the weights | {entry.license or 'set by whoever publishes them'} |",
    ]
    if provenance is not None:
        lines += [
            f"| converted with | brain-transformers {__version__} |",
            f"| converted file | `{provenance.file}`, SHA-256 `{provenance.sha256}` |",
        ]
    if obtain is not None:
        lines += ["", "## Get it", "", obtain]
    fit = (
        []
        if extractor.is_fitted
        else [
            "# Scale: fitted once on a set of your scans, each (n_rois, n_timepoints), and saved with the extractor.",
            f"extractor.fit(scans{order_argument})",
        ]
    )
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "import brain_transformers",
        "from transformers import AutoFeatureExtractor, AutoModel",
        "",
        'extractor = AutoFeatureExtractor.from_pretrained("path/or/org/name")',
        'model = AutoModel.from_pretrained("path/or/org/name").eval()',
        *fit,
        f'inputs = extractor(bold, t_r={config.t_r or "t_r"}{order_argument}, return_tensors="pt")',
        "features = model(**inputs).pooler_output  # (batch, hidden_size)",
        "```",
        "",
        "## What is known not to work",
        "",
        *(f"- {limit}" for limit in entry.limits or ("Nothing was reported yet; that is not the same as nothing.",)),
    ]
    if provenance is not None and (provenance.dropped or provenance.notes):
        lines += ["", "## Conversion", ""]
        lines += [f"- `{key}` was left out: {reason}." for key, reason in provenance.dropped.items()]
        lines += [f"- {note}" for note in provenance.notes]
    if entry.license and "nd" in entry.license:
        lines += [
            "",
            "## Licence",
            "",
            "The weights may be used for non-commercial purposes and not be shared in changed form. Converted and "
            "fine-tuned weights are changed forms: keep them to yourself, or ask the authors before you publish them.",
        ]
    if entry.citation:
        lines += ["", "## Citation", "", entry.citation + "."]
    return "\n".join(lines) + "\n"
