"""Configuration of BrainMT."""

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_base import BrainConfig, ScanFacts
from ..family import Family
from ..validation import RANGES, SHARE_BELOW_1, WIDTH, Range, check_choice, check_heads
from .family import FAMILY

MIXERS = ("bidirectional_v2", "causal")
TIME_STEP_INITS = ("published", "mamba")
MASK_RULES = ("columns", "runs")
# Four convolutions of stride 2: a token is a block of so many voxels a side.
PATCH_SIZE = 16


@strict
class BrainMTConfig(BrainConfig):
    """Configuration of [`BrainMTModel`]: 3-D convolutions a frame, then Mamba, then attention over all frames.

    Defaults are those of the authors' released configuration, but for `mixer_type`, which is the paper's.
    Source: Kannan et al., "BrainMT: A Hybrid Mamba-Transformer Architecture for Modeling Long-Range Dependencies in
    Functional MRI Data", MICCAI 2025 (arXiv 2506.22591).

    Args:
        volume_size: voxels `[y, x, z]` of a frame; MNI152 at 2 mm. `None` in converted weights that do not tell it:
            then every volume with `n_patches` tokens is taken.
        n_patches: tokens of a frame; by default those of `volume_size`, a token for each 16 voxels a side, rounded up.
        n_frames: frames of a window.
        num_channels: channels of a volume.
        stem_widths: channels of the first two convolutions; `hidden_size` is four times the second.
        hidden_size: width of the tokens.
        num_mamba_layers, num_attention_layers: depth of the two stages.
        num_attention_heads, intermediate_size: of the attention stage; its layers share a norm and
            feed-forward block.
        qkv_bias: bias of the fused query, key and value projection.
        mixer_type: `"bidirectional_v2"` (the paper), or `"causal"` (what the authors' released code builds).
        divide_directions: halve the sum of both directions, as Vim's option does; the authors do not.
        state_size, conv_kernel_size, expand, time_step_rank: of the Mamba mixer; the rank is `hidden_size / 16`,
            rounded up, unless given.
        use_bias: bias of the mixer's input and output projections.
        use_conv_bias: bias of its convolution.
        time_step_init: `"published"`: the step's projection starts as every linear layer, with bias 0, so that steps
            start at 0.69; `"mamba"`: steps start between 0.001 and 0.1 as in Mamba.
        mamba_norm: `"rms"` or `"layer"`, the norms of the Mamba stage.
        mamba_norm_eps: their epsilon; `layer_norm_eps` is that of all other norms.
        hidden_act: the stem's is always the tanh form of GELU.
        frames_per_chunk: frames that run through the stem at a time; the result is the same, memory is not.
        mask_rule: `"columns"`: patches are hidden in all frames; `"runs"`: in runs of `mask_run` frames. Neighbouring
            frames nearly repeat each other, so that single hidden tokens would be read off their neighbours in time.
        mask_run: frames of a run.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    family: ClassVar[Family] = FAMILY
    model_type = FAMILY.model_type
    attribute_map = {"num_hidden_layers": "n_layers"}
    ranges = {
        "volume_size": Range(1, 4_096),
        "n_patches|n_frames|mask_run|frames_per_chunk": Range(1, 1_000_000),
        "stem_widths|time_step_rank": WIDTH,
        "num_mamba_layers|num_attention_layers": Range(0, 1_024),
        "state_size": Range(1, 256),
        "conv_kernel_size": Range(1, 64),
        "expand": Range(1, 64),
        "mamba_norm_eps": Range(1e-30, 1),
        "mask_ratio": SHARE_BELOW_1,
        **RANGES,
    }

    volume_size: list[int] | None = field(default_factory=lambda: [109, 91, 91])
    n_patches: int | None = None
    n_frames: int = 200
    num_channels: int = 1
    stem_widths: list[int] = field(default_factory=lambda: [64, 128])
    hidden_size: int = 512
    num_mamba_layers: int = 12
    num_attention_layers: int = 8
    num_attention_heads: int = 2
    intermediate_size: int = 1024
    qkv_bias: bool = True
    mixer_type: str = "bidirectional_v2"
    divide_directions: bool = False
    state_size: int = 16
    conv_kernel_size: int = 4
    expand: int = 2
    time_step_rank: int | None = None
    use_bias: bool = False
    use_conv_bias: bool = True
    time_step_init: str = "published"
    mamba_norm: str = "rms"
    mamba_norm_eps: float = 1e-5
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    classifier_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.1
    initializer_range: float = 0.02
    pooling: str = "cls"
    frames_per_chunk: int = 4
    mask_ratio: float = 0.75
    mask_rule: str = "columns"
    mask_run: int = 20

    def __post_init__(self, **kwargs: Any) -> None:
        if self.n_patches is None and self.volume_size is not None:
            self.n_patches = math.prod(self.grid_of(self.volume_size))
        if self.time_step_rank is None:
            self.time_step_rank = math.ceil(self.hidden_size / 16)
        super().__post_init__(**kwargs)

    def fitted_to(self, facts: ScanFacts, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """See [`BrainConfig.fitted_to`]: the volumes are those of the scans, and no more frames than they have."""
        found: dict[str, Any] = {} if facts.volume_size is None else {"volume_size": facts.volume_size}
        if facts.n_frames is not None and facts.n_frames < self.n_frames:
            found["n_frames"] = facts.n_frames
        return {**found, **super().fitted_to(facts, chosen)}

    @staticmethod
    def grid_of(volume_size: Any) -> tuple[int, ...]:
        """Patches along each axis of a volume."""
        return tuple(math.ceil(size / PATCH_SIZE) for size in volume_size)

    @property
    def n_layers(self) -> int:
        """Layers of both stages."""
        return self.num_mamba_layers + self.num_attention_layers

    def drop_path_rates(self) -> tuple[list[float], list[float]]:
        """Stochastic depth of the mixer of each Mamba layer, and of the two blocks of each attention layer.

        The authors drop the output of a mixer where it is added, at the start of the next layer and by that layer's
        rate; so the last mixer has the full rate, before the norm, and the first none.
        """
        n_mamba, n_attention, rate = self.num_mamba_layers, self.num_attention_layers, float(self.drop_path_rate)
        rates = [rate * layer / max(n_mamba + n_attention - 1, 1) for layer in range(n_mamba + n_attention)]
        return [*rates[: max(n_mamba - 1, 0)], *([rate] if n_mamba else [])], rates[n_mamba:]

    def describe(self) -> dict[str, str]:
        """See [`BrainConfig.describe`]."""
        mixer = "in both directions" if self.mixer_type == "bidirectional_v2" else "causal"
        heads = f"{self.num_attention_heads} heads, one norm and one feed-forward block for all"
        layers = (
            f"{self.num_mamba_layers} Mamba layers ({mixer}), then {self.num_attention_layers} of attention ({heads})"
        )
        return {"encoder": f"a token for each {PATCH_SIZE} voxels a side, width {self.hidden_size}; {layers}"}

    def validate_architecture(self) -> None:
        """Check that the sizes fit each other."""
        check_heads("hidden_size", self.hidden_size, self.num_attention_heads)
        check_choice("mixer_type", self.mixer_type, MIXERS)
        check_choice("time_step_init", self.time_step_init, TIME_STEP_INITS)
        check_choice("mamba_norm", self.mamba_norm, ("rms", "layer"))
        check_choice("mask_rule", self.mask_rule, MASK_RULES)
        check_choice("pooling", self.pooling, ("cls", "mean"))
        if len(self.stem_widths) != 2 or self.hidden_size != 4 * self.stem_widths[1]:
            raise ValueError(
                f"hidden_size must be four times the second of two stem_widths, got {self.hidden_size} and "
                f"{self.stem_widths}."
            )
        if self.n_patches is None:
            raise ValueError("volume_size must be voxels [y, x, z], or n_patches the tokens of a frame; got neither.")
        if self.volume_size is not None:
            if len(self.volume_size) != 3 or min(self.volume_size) < 1:
                raise ValueError(f"volume_size must be three numbers of voxels [y, x, z], got {self.volume_size}.")
            if math.prod(self.grid_of(self.volume_size)) != self.n_patches:
                raise ValueError(
                    f"volume_size {self.volume_size} has {math.prod(self.grid_of(self.volume_size))} patches, got "
                    f"n_patches {self.n_patches}."
                )
        if not self.num_mamba_layers and not self.num_attention_layers:
            raise ValueError("num_mamba_layers and num_attention_layers must not both be 0.")
