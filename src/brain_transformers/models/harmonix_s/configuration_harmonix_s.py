"""Configuration of Harmonix-S."""

import math
from dataclasses import field
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_base import BrainConfig
from ..family import Family
from ..validation import POOLINGS, RANGES, SHARE_BELOW_1, check_choice, check_heads
from .family import FAMILY


@strict
class HarmonixSConfig(BrainConfig):
    """Configuration of [`HarmonixSModel`], a vision transformer over the cubes of a T1 volume.

    Defaults of the encoder are those of the released weights. Those of the decoder were not published: they are what
    masked autoencoders usually have (He et al., CVPR 2022). Source: Dong et al., "Brain Harmony: A Multimodal
    Foundation Model Unifying Morphology and Function into 1D Tokens", NeurIPS 2025 (arXiv 2509.24693).

    Args:
        image_size: voxels `[x, y, z]` of a volume, each a multiple of `patch_size`.
        patch_size: voxels along each side of a patch.
        hidden_size, decoder_hidden_size: a third of it, rounded down, and what is left of it must be even.
        initializer_range: of the CLS and mask tokens.
        pooling: what `pooler_output` is; `"mean"` of the patches, since BrainHarmony reads the patches and not CLS.
        norm_pix_loss: predict the voxels of each patch scaled by their own mean and standard deviation.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    family: ClassVar[Family] = FAMILY
    model_type = FAMILY.model_type
    ranges = {"mask_ratio": SHARE_BELOW_1, **RANGES}
    size_fields = ("image_size", "patch_size", *BrainConfig.size_fields)

    image_size: list[int] = field(default_factory=lambda: [160, 192, 160])
    patch_size: int = 16
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    pooling: str = "mean"
    mask_ratio: float = 0.75
    norm_pix_loss: bool = True

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each axis."""
        return tuple(size // self.patch_size for size in self.image_size)

    @property
    def n_patches(self) -> int:
        """Patches of a volume; the last axis runs fastest."""
        return math.prod(self.grid)

    def validate_architecture(self) -> None:
        """Check that the sizes fit each other."""
        check_choice("pooling", self.pooling, POOLINGS)
        if len(self.image_size) != 3 or any(size % self.patch_size for size in self.image_size):
            raise ValueError(
                f"image_size must be three numbers of voxels [x, y, z], multiples of patch_size {self.patch_size}, "
                f"got {self.image_size}."
            )
        for name in ("", "decoder_"):
            width = getattr(self, f"{name}hidden_size")
            check_heads(f"{name}hidden_size", width, getattr(self, f"{name}num_attention_heads"))
            if width % 2 or width // 3 % 2:
                raise ValueError(
                    f"{name}hidden_size must be even, and so must a third of it, rounded down, for positions along "
                    f"three axes; got {width}. A multiple of 6 is."
                )
