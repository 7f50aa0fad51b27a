"""Configuration of Brain-Semantoks."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from ...atlases.networks import networks_of_parcels
from ..configuration_base import ScanFacts, Table, TableError
from ..configuration_roi import ROIConfig
from ..family import Family
from ..validation import CHOICES, POOLINGS, RANGES, SHARE, WEIGHT, WIDTH, Range, check_choice, check_heads, check_range
from .family import FAMILY

_BRANCH_DEFAULTS: dict[str, dict[str, Any]] = {
    "convolution": {"kernel_size": 3, "dilation": 1, "depthwise": False},
    "long_convolution": {"kernel_size": 4, "num_scales": 3, "decay_min": 2.0, "decay_max": 2.0},
}
_BRANCH_RANGES = {
    **dict.fromkeys(("out_channels", "kernel_size", "dilation"), WIDTH),
    "num_scales": Range(1, 16),
    **dict.fromkeys(("decay_min", "decay_max"), Range(0, 1_000, without_low=True)),
}


@strict
class BrainSemantoksConfig(ROIConfig):
    """Configuration of [`BrainSemantoksModel`]: a token per functional network and window, then a transformer.

    Defaults are those of the released checkpoint. Source: Gijsen, Schulz, Ritter, "Brain-Semantoks: Learning Semantic
    Tokens of Brain Dynamics with a Self-Distilled Foundation Model", ICLR 2026 (arXiv 2512.11582).

    Args:
        n_rois: parcels of a sample (Schaefer-400, Tian S3, Buckner-7: 457).
        n_timepoints: timepoints of a window of the model; shorter input works at run time.
        patch_size: timepoints of a token.
        networks: network id of each parcel, 0-based without gaps; by default from the names of `roi_order`.
        network_names: name of each network, for tables and figures.
        n_cortical_networks: 7 or 17, the edition whose networks are used when `networks` is left out.
        spatial_mode: `"networks"`; `"rois"`: every parcel is a network, with one shared linear tokenizer (the authors'
            max-spatial ablation); `"whole_brain"`: all parcels are one network (min-spatial).
        tokenizer_branches: what a tokenizer is made of, one dict a branch: `{"type": "convolution", "out_channels",
            "kernel_size", "dilation", "depthwise"}` or `{"type": "long_convolution", "out_channels", "kernel_size",
            "num_scales", "decay_min", "decay_max"}`. Their channels add up to `hidden_size`. By default both, with
            half of the width each.
        tokenizer_pooling: over the timepoints of a token: `"mean"`, `"max"` or `"attention"`.
        tokenizer_norm: LayerNorm on the pooled token.
        embedding_dropout: on the tokens while training.
        layer_scale_init_value: initial factor on each block's output, or `None` for no such factor.
        use_mask_embedding: learned vector in place of hidden and missing tokens. Without it masks are ignored.
        masked_term_without_embedding: whether pretraining without that vector keeps the term over the tokens of a
            mask, which are then visible, as in the authors' code.
        missing_tokens: what stands for a token without data (short scan, missing subcortex): `"mask"`, the mask
            embedding, as hidden tokens were in training; `"zeros"`, the token of a zero signal, as in the authors'
            data code.
        pooling: how `pooler_output` is made: `"cls"`, `"mean"` (all tokens without CLS), `"cls_mean"` (mean first,
            then CLS: twice the width), `"mean_with_cls"` or `"max"`. Earlier versions said `"avg"` and `"cls_avg"`.
        projection_hidden_size, projection_size, projection_num_layers: projection head of pretraining.
        separate_mask_head: a projection head of its own for hidden tokens.
        mask_kind, mask_rule, mask_ratio: how pretraining masks are drawn, see `masking_brain_semantoks`. The ratio is
            a range `[low, high]`, or one number.
        masking_frequency: probability that a batch is masked.
        mask_loss_weight, network_loss_weight: weights of the loss terms (the second follows a schedule in training).
        alignment_weight: factor on the cosine term of the coding-rate loss.
        coding_rate_epsilon: its distortion, squared.
        classifier_head: `"linear"`, `"batch_norm_linear"` (the authors' probe), or `"mlp"`.
        classifier_hidden_sizes: hidden layers of the MLP head.
        classifier_dropout: dropout before a linear head, or after each hidden layer.
        classifier_loss: for regression, `"mse"`, or `"mae"` as the authors use.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    family: ClassVar[Family] = FAMILY
    model_type = FAMILY.model_type
    renamed_values = {"pooling": {"avg": "mean", "cls_avg": "cls_mean"}}
    choices = {
        "spatial_mode": ("networks", "rois", "whole_brain"),
        "tokenizer_pooling": ("mean", "max", "attention"),
        "missing_tokens": ("mask", "zeros"),
        "pooling": (*POOLINGS, "cls_mean"),
        "mask_kind": ("slice", "temporal", "network"),
        "mask_rule": ("published", "nominal"),
        "classifier_head": ("linear", "batch_norm_linear", "mlp"),
        "classifier_loss": ("mse", "mae"),
        **CHOICES,
    }
    ranges = {
        "projection_size": WIDTH,
        "projection_num_layers": Range(1, 1_024),
        "networks": Range(0, 1_000, without_high=True),
        "masking_frequency": SHARE,
        "alignment_weight": WEIGHT,
        "coding_rate_epsilon": Range(1e-30, 1),
        **RANGES,
    }
    keys_to_ignore_at_inference = [
        *ROIConfig.keys_to_ignore_at_inference,
        *(
            f"{network}_{what}"
            for what in ("last_hidden_state", "cls_projection", "network_projection", "mask_projection")
            for network in ("student", "teacher")
        ),
    ]

    n_rois: int = 457
    n_timepoints: int = 100
    patch_size: int = 20
    networks: list[int] | None = None
    network_names: list[str] | None = None
    n_cortical_networks: int = 7
    spatial_mode: str = "networks"
    hidden_size: int = 768
    num_hidden_layers: int = 8
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    tokenizer_branches: list[dict[str, Any]] | None = None
    tokenizer_pooling: str = "mean"
    tokenizer_norm: bool = True
    hidden_act: str = "gelu"
    embedding_dropout: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    layer_scale_init_value: float | int | None = 0.1
    use_mask_embedding: bool = True
    masked_term_without_embedding: bool = False
    missing_tokens: str = "mask"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    pooling: str = "cls_mean"
    projection_hidden_size: int = 1024
    projection_size: int = 128
    projection_num_layers: int = 2
    separate_mask_head: bool = False
    mask_kind: str = "slice"
    mask_rule: str = "published"
    mask_ratio: list[float | int] | float | int = field(default_factory=lambda: [0.65, 0.85])
    masking_frequency: float | int = 0.5
    mask_loss_weight: float | int = 0.5
    network_loss_weight: float | int = 0.5
    alignment_weight: float | int = 1.0
    coding_rate_epsilon: float = 0.05
    classifier_head: str = "linear"
    classifier_hidden_sizes: list[int] = field(default_factory=list)
    classifier_dropout: float | int = 0.0
    classifier_loss: str = "mse"
    roi_order: str | list[str] | None = "schaefer400-7net+tian-s3+buckner7"
    t_r: float | int | None = 2.0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.networks is None and self.spatial_mode == "networks":
            known = networks_of_parcels(self.roi_order, self.n_cortical_networks)
            if known is not None and len(known[0]) == self.n_rois:
                self.networks, self.network_names = known
        if self.tokenizer_branches is None and self.spatial_mode != "rois":
            half = self.hidden_size // 2
            self.tokenizer_branches = [
                {"type": "convolution", "out_channels": half},
                {"type": "long_convolution", "out_channels": self.hidden_size - half},
            ]
        if self.tokenizer_branches is not None:
            self.tokenizer_branches = [
                {**_BRANCH_DEFAULTS.get(str(branch.get("type")), {}), **branch} for branch in self.tokenizer_branches
            ]
        super().__post_init__(**kwargs)

    @property
    def n_windows(self) -> int:
        """Windows of `patch_size` timepoints; a rest shorter than that is not used."""
        return self.n_timepoints // self.patch_size

    @property
    def n_networks(self) -> int:
        """Rows of tokens."""
        if self.spatial_mode == "rois":
            return self.n_rois
        return 1 if self.spatial_mode == "whole_brain" else max(self.networks or [0]) + 1

    @property
    def n_tokens(self) -> int:
        """Tokens of a window of the model, without CLS."""
        return self.n_networks * self.n_windows

    @property
    def pooled_size(self) -> int:
        """Width of `pooler_output`."""
        return self.hidden_size * (2 if self.pooling == "cls_mean" else 1)

    @property
    def mask_range(self) -> tuple[float, float]:
        """Shares between which the hidden share of a mask is drawn."""
        ratio = self.mask_ratio
        low, high = ratio if isinstance(ratio, (list, tuple)) else (ratio, ratio)
        return float(low), float(high)

    @property
    def tables(self) -> dict[str, Table]:
        """See [`BrainConfig.tables`]."""
        if self.spatial_mode != "networks":
            return {}
        known = networks_of_parcels(self.roi_order, self.n_cortical_networks)
        source = "the names of the parcels" if known is not None and known[0] == self.networks else "the configuration"
        return {"networks": Table("functional network", (self.n_rois,), source, kept_in="configuration", kind="words")}

    def t_r_for(self, t_r: float) -> float:
        """Ours for faster scans, which are resampled to it; else theirs."""
        return t_r if self.t_r is None or t_r >= self.t_r else self.t_r

    def fitted_to(self, facts: ScanFacts, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """See [`BrainConfig.fitted_to`]; networks are those of the names of the parcels, where they tell.

        `networks` in `chosen` may be names, which are numbered in the order in which they first appear.
        """
        values, given = super().fitted_to(facts, chosen), chosen.get("networks")
        if given and all(isinstance(network, str) for network in given):
            names = list(dict.fromkeys(given))
            if len(given) != values["n_rois"]:
                raise TableError("networks", f"expected {values['n_rois']} lines, one a parcel, got {len(given)}.")
            if len(names) == len(given) > 1:
                raise TableError(
                    "networks",
                    f"expected networks of several parcels, got another name in each of the {len(given)} lines "
                    f"(first: {names[0]!r}). Take the column with the networks, or have every parcel on its own "
                    "(--config spatial_mode=rois).",
                )
            return {**values, "networks": [names.index(network) for network in given], "network_names": names}
        # What the configuration says of its own parcels holds for as many others, unless it only followed from names.
        own = self.networks if networks_of_parcels(self.roi_order, self.n_cortical_networks) is None else None
        if given or len(own or ()) == values["n_rois"]:
            return values
        if values.get("spatial_mode", self.spatial_mode) == "networks":
            n_cortical = values.get("n_cortical_networks", self.n_cortical_networks)
            known = networks_of_parcels(values.get("roi_order", self.roi_order), n_cortical)
            if known is None or len(known[0]) != values["n_rois"]:
                raise ValueError(
                    f"Brain-Semantoks needs the network of each of the {values['n_rois']} parcels, and their names do "
                    "not tell (they do for Schaefer-400, Tian S3 and Buckner-7). Pass --networks FILE with a name or "
                    'number a line (tables={"networks": ...} of new_model), --config networks=[0,0,1,...], or '
                    "--config spatial_mode=rois to have every parcel on its own."
                )
        return {**values, "networks": None, "network_names": None}

    def rois_of_networks(self) -> list[list[int]]:
        """Parcels of each network, ascending."""
        if self.spatial_mode == "rois":
            return [[roi] for roi in range(self.n_rois)]
        if self.spatial_mode == "whole_brain":
            return [list(range(self.n_rois))]
        rows: list[list[int]] = [[] for _ in range(self.n_networks)]
        for roi, network in enumerate(self.networks or []):
            rows[network].append(roi)
        return rows

    def validate_architecture(self) -> None:
        """Check that the sizes fit each other."""
        check_heads("hidden_size", self.hidden_size, self.num_attention_heads)
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size must be even for the position table, got {self.hidden_size}.")
        if self.n_timepoints % self.patch_size:
            raise ValueError(
                f"n_timepoints ({self.n_timepoints}) must be a positive multiple of patch_size ({self.patch_size})."
            )
        if isinstance(self.mask_ratio, (list, tuple)) and len(self.mask_ratio) != 2:
            raise ValueError(f"mask_ratio must be a range [low, high] or one number, got {self.mask_ratio}.")
        low, high = self.mask_range
        if not 0 <= low <= high <= 1:
            raise ValueError(f"mask_ratio must be between 0 and 1 and in ascending order, got {self.mask_ratio}.")
        self._check_networks()
        self._check_branches()

    def _check_networks(self) -> None:
        if self.spatial_mode != "networks":
            return
        if self.networks is None:
            raise ValueError(
                f"networks is needed: a network id for each of the {self.n_rois} parcels. They follow by themselves "
                "only for orders of Schaefer-400, Tian S3 and Buckner-7 parcels with as many labels as n_rois; or set "
                'spatial_mode to "rois" or "whole_brain".'
            )
        if len(self.networks) != self.n_rois:
            raise ValueError(
                f"networks must have n_rois={self.n_rois} entries, one a parcel, got {len(self.networks)}. Give the "
                "networks of your parcels, or networks=None where they follow from the names of roi_order."
            )
        if len(set(self.networks)) != max(self.networks) + 1:
            raise ValueError(f"networks must be 0-based ids without gaps, got {sorted(set(self.networks))}.")
        if self.network_names is not None and len(self.network_names) != self.n_networks:
            raise ValueError(
                f"network_names must have one name for each of the {self.n_networks} networks, got "
                f"{len(self.network_names)}."
            )

    def _check_branches(self) -> None:
        if self.spatial_mode == "rois":
            return
        branches = self.tokenizer_branches or []
        for branch in branches:
            check_choice("type of a tokenizer branch", branch.get("type"), tuple(_BRANCH_DEFAULTS))
            known = {"type", "out_channels", *_BRANCH_DEFAULTS[branch["type"]]}
            if set(branch) != known:
                raise ValueError(f"A {branch['type']} branch has the fields {sorted(known)}, got {sorted(branch)}.")
            for name, value in branch.items():
                check_range(f"{name} of a tokenizer branch", value, _BRANCH_RANGES.get(name))
            if branch["type"] == "long_convolution":
                length = branch["kernel_size"] * 2 ** (branch["num_scales"] - 1)
                if length > self.patch_size:
                    raise ValueError(
                        f"The long convolution spans {length} timepoints, more than patch_size ({self.patch_size}). "
                        "Use fewer scales or a shorter kernel."
                    )
        width = sum(branch["out_channels"] for branch in branches)
        if width != self.hidden_size:
            raise ValueError(
                f"The channels of tokenizer_branches add up to {width}, but hidden_size is {self.hidden_size}."
            )
