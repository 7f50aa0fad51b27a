"""BrainLM-ViT: a masked autoencoder over the parcel x time image, padded to a square.

Source: Ortega Caro et al., "BrainLM: A foundation model for brain activity recordings", ICLR 2024, and the released
weights (111M, 650M).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...layers.attention import SelfAttention
from ...layers.masking import (
    check_attention_mask,
    check_tensor,
    choose_tokens,
    gather_tokens,
    padding_masks,
)
from ...layers.plain import is_plain
from ...layers.pooling import masked_mean
from ...layers.transformer import PreNormLayer, layer_stack
from ..classification import BrainClassifierOutput, BrainForSequenceClassification, check_labels, classifier_output
from ..modeling_base import BrainModelOutput, MaskedModelingOutput, encoder_output
from ..modeling_roi import ROIPreTrainedModel, check_n_rois, check_series
from ..patches import PatchDecoder, PatchEmbeddings, start_patches
from .configuration_brainlm_vit import BrainLMViTConfig
from .masking_brainlm_vit import last_timepoints_mask, last_timepoints_noise

logger = logging.get_logger(__name__)

# The constant that the image is padded with.
_PADDING = -1.0

# Bands of the z-scored label and their weights, from BrainLM's fine-tuning code; labels outside contribute nothing.
_WEIGHTED_MSE_BANDS = (
    (-4.40, -3.46, 24.16),
    (-3.35, -2.40, 30.73),
    (-1.25, -0.305, 1.5),
    (-0.199, 0.747, 1.0),
    (0.852, 1.799, 2.11),
)


@dataclass(frozen=True)
class ImageGeometry:
    """Where a recording lies in the padded square.

    Attributes:
        top, left: padding above (and below) the rows and before (and after) the columns.
        rows, columns: half-open ranges of patches that hold some data.
    """

    top: int
    left: int
    rows: tuple[int, int]
    columns: tuple[int, int]


def image_geometry(n_rois: int, n_timepoints: int, image_size: int, patch_size: int) -> ImageGeometry:
    """Centre an `(n_rois, n_timepoints)` recording in the square.

    Raises:
        ValueError: if it does not fit, or cannot be centred because a difference is odd.
    """
    for name, size in (("n_rois", n_rois), ("n_timepoints", n_timepoints)):
        if size < 1 or size >= image_size or (image_size - size) % 2:
            raise ValueError(
                f"{name} must be even, positive and below {image_size} to be centred in the padded square of "
                f"{image_size} x {image_size}, got {size}. Cut or pad the series with the feature extractor."
            )
    top, left = (image_size - n_rois) // 2, (image_size - n_timepoints) // 2

    def touched(start: int, size: int) -> tuple[int, int]:
        return start // patch_size, -(-(start + size) // patch_size)

    return ImageGeometry(top, left, touched(top, n_rois), touched(left, n_timepoints))


class BrainLMViTEmbeddings(PatchEmbeddings):
    """Patch embedding of the padded image, fixed positions, CLS."""

    def __init__(self, config: BrainLMViTConfig):
        width, side = config.hidden_size, config.patch_size
        projection = nn.Conv2d(config.num_channels, width, kernel_size=side, stride=side)
        super().__init__(projection, (config.grid_size, config.grid_size), width)
        self.config = config
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, images: torch.Tensor, ids_keep: torch.Tensor | None = None, zeroed_columns: tuple[int, int] = (0, 0)
    ) -> torch.Tensor:
        """See [`PatchEmbeddings.forward`].

        Args:
            images: `(batch, 1 or num_channels, n_rois, n_timepoints)`.
            zeroed_columns: half-open range of columns of the padded image to set to 0.
        """
        side = self.config.side
        geometry = image_geometry(images.shape[2], images.shape[3], side, self.config.patch_size)
        padding = (geometry.left, geometry.left, geometry.top, geometry.top)
        images = nn.functional.pad(images.to(self.cls_token.dtype), padding, value=_PADDING)
        if zeroed_columns[0] < zeroed_columns[1]:
            columns = torch.arange(side, device=images.device)
            images = images.masked_fill((columns >= zeroed_columns[0]) & (columns < zeroed_columns[1]), 0.0)
        return self.dropout(super().forward(images, ids_keep))


def _layers(config: BrainLMViTConfig, prefix: str = "") -> nn.ModuleList:
    dropout, attention_dropout = config.hidden_dropout_prob, config.attention_probs_dropout_prob
    return layer_stack(
        config, prefix, qkv_bias=config.qkv_bias, hidden_dropout=dropout, attention_dropout=attention_dropout
    )


class BrainLMViTDecoder(PatchDecoder):
    """ViT-MAE decoder: fills hidden places with the mask token and predicts the pixels of every patch."""

    def __init__(self, config: BrainLMViTConfig):
        n_values = config.patch_size**2 * config.num_channels
        super().__init__(config, _layers(config, "decoder_"), config.grid_size**2, n_values)

    def data_patches(self, n_rois: int, n_timepoints: int, device: torch.device) -> torch.Tensor:
        """Ids of the patches that hold data, row-major, int64 `(n_data_patches,)`; the others are only padding."""
        config = self.config
        geometry = image_geometry(n_rois, n_timepoints, config.side, config.patch_size)
        rows = torch.arange(*geometry.rows, device=device)
        columns = torch.arange(*geometry.columns, device=device)
        return (rows[:, None] * config.grid_size + columns).flatten()

    def decode(
        self,
        encoded: BrainModelOutput,
        patches: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, ...] | None]:
        """Decode all patches, or in the last layer only those that are wanted.

        Args:
            encoded: output of the encoder.
            patches: int64 `(n,)`, the patches that are wanted, such as [`data_patches`].
            attention_mask: `(batch, n_tokens)`, 1 = observed.
            output_hidden_states: keep every state, for which all patches go through the last layer.

        Returns:
            Normed states of the wanted patches `(batch, n, width)`; on request those of all patches
            `(batch, n_tokens, width)`, and the hidden states.
        """
        hidden_states, mask = self.start(encoded, attention_mask)
        wanted = (patches + 1).expand(len(hidden_states), -1)
        states = [hidden_states]
        for layer in self.layers:
            only = wanted if layer is self.layers[-1] and not output_hidden_states else None
            hidden_states = layer(hidden_states, mask, query_ids=only, **kwargs)
            states.append(hidden_states)
        hidden_states = self.layernorm(hidden_states)
        if output_hidden_states:
            return gather_tokens(hidden_states, wanted), hidden_states[:, 1:], tuple(states)
        return hidden_states if len(self.layers) else gather_tokens(hidden_states, wanted), None, None

    def predict_recording(self, hidden_states: torch.Tensor, n_rois: int, n_timepoints: int) -> torch.Tensor:
        """Pixels of the data patches, averaged over channels and cropped to `(batch, n_rois, n_timepoints)`.

        The mean over channels is a linear map, so where it can be it is taken of the weights.

        Args:
            hidden_states: normed states of [`data_patches`], `(batch, n_data_patches, width)`.
        """
        config = self.config
        side = config.patch_size
        geometry = image_geometry(n_rois, n_timepoints, config.side, side)
        (row0, row1), (col0, col1) = geometry.rows, geometry.columns
        batch, _, width = hidden_states.shape
        if is_plain(self.prediction):
            weight = self.prediction.weight.reshape(side * side, config.num_channels, width).mean(1)
            bias = self.prediction.bias.reshape(side * side, config.num_channels).mean(1)
            pixels = nn.functional.linear(hidden_states, weight, bias)
        else:
            pixels = self.prediction(hidden_states).unflatten(2, (side * side, config.num_channels)).mean(3)
        pixels = pixels.reshape(batch, row1 - row0, col1 - col0, side, side).permute(0, 1, 3, 2, 4)
        pixels = pixels.reshape(batch, (row1 - row0) * side, (col1 - col0) * side)
        top, left = geometry.top - row0 * side, geometry.left - col0 * side
        return pixels[:, top : top + n_rois, left : left + n_timepoints]


class BrainLMViTPreTrainedModel(ROIPreTrainedModel):
    """Weights, input checks and reconstruction that the BrainLM-ViT classes share."""

    config: BrainLMViTConfig
    base_model_prefix = "brainlm_vit"
    input_modalities = ["time", "image"]
    _no_split_modules = ["PreNormLayer", "BrainLMViTEmbeddings"]
    _can_record_outputs = {"hidden_states": PreNormLayer, "attentions": SelfAttention}
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights with `initializer_range`, zero biases, sine-cosine positions, as in the authors' code."""
        super()._init_weights(module)
        if isinstance(module, (PatchEmbeddings, PatchDecoder)):
            side = self.config.grid_size
            start_patches(module, (side, side), self.config.initializer_range)

    def _check_image(
        self, signals: torch.Tensor | None, pixel_values: torch.Tensor | None, coordinates: torch.Tensor | None
    ) -> torch.Tensor:
        """The image `(batch, 1 or num_channels, n_rois, n_timepoints)` of either form of input."""
        if (signals is None) == (pixel_values is None):
            raise ValueError("Pass either signals (batch, n_rois, n_timepoints) or pixel_values, not both or neither.")
        config = self.config
        if signals is not None:
            check_series(signals, config)
            image = signals[:, None]
        elif pixel_values is not None:
            check_tensor("pixel_values", pixel_values)
            if pixel_values.dim() != 4 or pixel_values.shape[1] != config.num_channels:
                raise ValueError(
                    f"pixel_values must be (batch, {config.num_channels}, n_rois, n_timepoints), got "
                    f"{tuple(pixel_values.shape)}."
                )
            image = pixel_values
        n_rois, n_timepoints = image.shape[2:]
        check_n_rois(n_rois, n_timepoints, config)
        if coordinates is not None and coordinates.device.type == "cpu" and not torch.compiler.is_compiling():
            y = coordinates[..., 1]
            if bool((y.diff(dim=-1) < 0).any()):
                raise ValueError(
                    "The rows of the image must be sorted by Y, posterior to anterior (stable sort), but the given "
                    "coordinates are not ascending in Y. Let the feature extractor sort the parcels."
                )
        image_geometry(n_rois, n_timepoints, config.side, config.patch_size)
        return image

    @classmethod
    def n_tokens(cls, config: Any, inputs: Mapping[str, torch.Tensor] | None = None) -> int:
        """See [`BrainPreTrainedModel.n_tokens`]: all patches of the padded square."""
        return config.grid_size**2

    def _reconstruct(
        self,
        decoder: BrainLMViTDecoder,
        encoded: BrainModelOutput,
        image: torch.Tensor,
        timepoints_hidden: tuple[int, int] | None,
        attention_mask: torch.Tensor | None,
        output_hidden_states: bool = False,
        **kwargs: Any,
    ) -> MaskedModelingOutput:
        config = self.config
        batch, _, n_rois, n_timepoints = image.shape
        patches = decoder.data_patches(n_rois, n_timepoints, image.device)
        inside, all_patches, states = decoder.decode(
            encoded, patches, attention_mask, output_hidden_states=output_hidden_states, **kwargs
        )
        predictions = decoder.predict_recording(inside, n_rois, n_timepoints)
        targets = image.float().mean(1)
        if config.norm_pix_loss:
            # Over the window of each parcel, not over a patch as in other masked autoencoders.
            variance, mean = torch.var_mean(targets, dim=2, keepdim=True)
            targets = (targets - mean) / (variance + 1e-6).sqrt()
        mask = targets.new_zeros(batch, n_rois, n_timepoints)
        something_hidden = encoded.hides_some_of(config.grid_size**2)
        if encoded.token_mask is not None and something_hidden:
            mask = self.crop_token_mask(encoded.token_mask, n_rois, n_timepoints)
        if timepoints_hidden is not None and timepoints_hidden[0] < timepoints_hidden[1]:
            something_hidden = True
            mask = mask.clone()
            mask[:, :, timepoints_hidden[0] : timepoints_hidden[1]] = 1.0
        if attention_mask is not None:
            mask = mask * self.crop_token_mask(attention_mask.to(mask.dtype), n_rois, n_timepoints)
        loss = masked_mean((predictions.float() - targets).square(), mask) if something_hidden else None
        return MaskedModelingOutput.of(
            encoded,
            loss=loss,
            logits=predictions,
            mask=mask,
            predictions=predictions,
            targets=targets,
            signal_mask=mask,
            decoder_hidden_states=states,
            decoder_logits=None if all_patches is None else decoder.prediction(all_patches),
        )

    def crop_token_mask(self, token_mask: torch.Tensor, n_rois: int, n_timepoints: int) -> torch.Tensor:
        """Spread a mask over patches `(batch, n_tokens)` to pixels and crop it to `(batch, n_rois, n_timepoints)`."""
        config = self.config
        geometry = image_geometry(n_rois, n_timepoints, config.side, config.patch_size)
        grid = token_mask.reshape(-1, config.grid_size, config.grid_size)
        rows = torch.arange(geometry.top, geometry.top + n_rois, device=grid.device) // config.patch_size
        columns = torch.arange(geometry.left, geometry.left + n_timepoints, device=grid.device) // config.patch_size
        return grid[:, rows][:, :, columns]


class BrainLMViTModel(BrainLMViTPreTrainedModel):
    """BrainLM-ViT encoder (111M, 650M): the parcels of a scan, sorted from back to front, are the rows of an image.

    By default all patches are encoded, without masking, in natural order (row-major over the padded square, CLS
    first). The authors' notebooks read features from a random quarter of the patches instead. Known limits: about half
    of the patches are constant padding; the weights expect the robust-scaled signal divided by 5.6430855, rows in a
    stable sort by Y, and TR 0.72-0.735 s; the medians and quartiles of the training data were never published.
    """

    def __init__(self, config: BrainLMViTConfig):
        super().__init__(config)
        self.embeddings = BrainLMViTEmbeddings(config)
        self.layers = _layers(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        signals: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        pixel_values: torch.Tensor | None = None,
        n_hidden_tokens: int | None = None,
        zeroed_columns: tuple[int, int] = (0, 0),
        **kwargs: Any,
    ) -> BrainModelOutput:
        """Encode windows of parcellated BOLD as images.

        Args:
            signals: float `(batch, n_rois, n_timepoints)`, rows sorted by Y, robust-scaled and divided by 5.6430855.
            coordinates: `(batch, n_rois, 3)` in mm; not used by the network, but if given (on a CPU) the sort by Y is
                checked.
            attention_mask: `(batch, n_tokens)` over the patches of the padded square, row-major, 1 = observed, 0 =
                padding of a short scan; a leading entry for CLS is accepted. The constant border counts as observed.
            noise: `(batch, n_tokens)`; patches are encoded in its ascending order.
            mask_ratio: share of patches to hide, with `noise` drawn at random if it is not given. Default 0.
            pixel_values: float `(batch, num_channels, n_rois, n_timepoints)` in place of `signals`, for channels that
                differ.
            n_hidden_tokens: exact number of patches to hide in place of `mask_ratio`.
            zeroed_columns: columns of the padded image to set to 0 before embedding.

        Raises:
            ValueError: for a wrong number of ROIs, a size that cannot be centred, or rows that are not sorted.
        """
        image = self._check_image(signals, pixel_values, coordinates)
        batch, n_tokens = image.shape[0], self.config.grid_size**2
        attention_mask = check_attention_mask(attention_mask, batch, n_tokens)
        selection = choose_tokens(image, n_tokens, noise, mask_ratio, attention_mask, n_hidden_tokens)
        hidden_states = self.embeddings(image, selection.ids_keep if selection else None, zeroed_columns)
        mask, _ = padding_masks(self.config, hidden_states, selection.keep_mask if selection else None)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        return encoder_output(self.layernorm(hidden_states), selection, self.config.pooling)

    def roi_tokens(
        self, last_hidden_state: torch.Tensor, n_timepoints: int | None = None, n_rois: int | None = None
    ) -> torch.Tensor:
        """Tokens of an unmasked pass as `(batch, n_rois, n_windows, hidden_size)`, without CLS and padding patches.

        A patch spans several parcels, so parcels of one patch row share their vectors; rows are in the order of the
        image (sorted by Y), windows are the patch columns that hold data.
        """
        config = self.config
        n_rois, n_timepoints = n_rois or config.n_rois, n_timepoints or config.n_timepoints
        if last_hidden_state.shape[1] != 1 + config.grid_size**2 or n_rois is None:
            raise ValueError(
                f"Expected 1 + {config.grid_size**2} tokens in natural order and a known n_rois, got "
                f"{last_hidden_state.shape[1]} tokens and n_rois={n_rois}. Call the model without mask_ratio and "
                "noise."
            )
        geometry = image_geometry(n_rois, n_timepoints, config.side, config.patch_size)
        grid = last_hidden_state[:, 1:].unflatten(1, (config.grid_size, config.grid_size))
        rows = torch.arange(geometry.top, geometry.top + n_rois, device=grid.device) // config.patch_size
        return grid[:, rows, geometry.columns[0] : geometry.columns[1]]


class BrainLMViTForMaskedModeling(BrainLMViTPreTrainedModel):
    """BrainLM-ViT with its decoder: hides patches of the parcel x time image and reconstructs them."""

    masked_by_noise = True

    def __init__(self, config: BrainLMViTConfig):
        super().__init__(config)
        self.brainlm_vit = BrainLMViTModel(config)
        self.decoder = BrainLMViTDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        signals: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        pixel_values: torch.Tensor | None = None,
        train_mode: str | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> MaskedModelingOutput:
        """Hide patches and predict them; arguments as in [`BrainLMViTModel.forward`].

        `mask_ratio` and `train_mode` default to the config. With `"predict_last"` or `"predict_last_pixel"` the mask
        follows from them, and `noise` is not used. `logits` are `(batch, n_rois, n_timepoints)`, the mean over
        channels, as is the target. `return_loss` is there for the Trainer, which asks for it in evaluation.
        """
        config = self.config
        mask_ratio = config.mask_ratio if mask_ratio is None else mask_ratio
        train_mode = train_mode or config.train_mode
        image = self._check_image(signals, pixel_values, coordinates)
        n_hidden, zeroed, timepoints = None, (0, 0), None
        if train_mode != "auto_encode":
            plan = last_timepoints_mask(image.shape[3], config.patch_size, config.side, mask_ratio, train_mode)
            noise = last_timepoints_noise(plan, config.grid_size, image.device).expand(image.shape[0], -1)
            n_hidden = (plan.patch_columns[1] - plan.patch_columns[0]) * config.grid_size
            zeroed, timepoints = plan.zeroed_columns, plan.timepoints
        encoded = self.brainlm_vit(
            signals,
            None,
            attention_mask,
            noise,
            mask_ratio,
            pixel_values,
            n_hidden_tokens=n_hidden,
            zeroed_columns=zeroed,
            return_dict=True,
            **kwargs,
        )
        attention_mask = check_attention_mask(attention_mask, image.shape[0], config.grid_size**2)
        return self._reconstruct(self.decoder, encoded, image, timepoints, attention_mask, **kwargs)


def single_output_loss(
    outputs: torch.Tensor, labels: torch.Tensor, loss: str, pos_weight: list[float] | None = None
) -> torch.Tensor:
    """The losses of BrainLM's fine-tuning code, for a head with one output.

    Args:
        outputs: `(batch, 1)` or `(batch,)`; for `"binary_cross_entropy"` they are logits.
        labels: `(batch,)` numbers.
        loss: `"mse"`, `"mae"`, `"binary_cross_entropy"` or `"weighted_mse"`; the last is `0.01 * sum(w * error**2)`
            with a weight by label band, summed (not averaged) over the samples.
        pos_weight: weight of the positive class for `"binary_cross_entropy"`.
    """
    outputs, labels = outputs.reshape(-1), labels.reshape(-1).to(outputs.dtype)
    if loss == "mse":
        return nn.functional.mse_loss(outputs, labels)
    if loss == "mae":
        return nn.functional.l1_loss(outputs, labels)
    if loss == "binary_cross_entropy":
        weight = None if pos_weight is None else outputs.new_tensor(pos_weight)
        return nn.functional.binary_cross_entropy_with_logits(outputs, labels, pos_weight=weight)
    weights = torch.zeros_like(labels)
    for low, high, weight_of_band in _WEIGHTED_MSE_BANDS:
        weights = torch.where((labels >= low) & (labels <= high), weight_of_band, weights)
    return 0.01 * (weights * (outputs - labels) ** 2).sum()


class BrainLMViTForSequenceClassification(BrainForSequenceClassification, BrainLMViTPreTrainedModel):
    """BrainLM-ViT with a head for classification or regression, optionally with joint reconstruction.

    With `config.classifier_loss=None` the loss follows `config.problem_type` as in transformers; otherwise it is one
    of the authors' losses for a single output.
    """

    body_class = BrainLMViTModel
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def add_head(self) -> None:
        """The head, and the decoder of joint reconstruction."""
        super().add_head()
        config = self.config
        self.decoder = BrainLMViTDecoder(config) if config.reconstruction_weight > 0 else None
        if config.classifier_loss is not None and self.num_labels != 1:
            raise ValueError(
                f"classifier_loss={config.classifier_loss!r} is for a single output, got "
                f"num_labels={self.num_labels}. Set num_labels=1, or classifier_loss=None for the loss of "
                "transformers."
            )
        if config.sigmoid_outputs and config.classifier_loss == "binary_cross_entropy":
            logger.warning_once(
                "sigmoid_outputs with binary_cross_entropy applies the sigmoid twice, as the authors' code does. "
                "Set sigmoid_outputs=False unless you need their numbers."
            )

    def classification_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See [`BrainForSequenceClassification.classification_loss`], or the authors' loss that is configured."""
        config = self.config
        if config.classifier_loss is None:
            return super().classification_loss(logits, labels)
        check_labels(labels, logits, "regression")
        return single_output_loss(logits, labels, config.classifier_loss, config.pos_weight)

    @can_return_tuple
    def forward(
        self,
        signals: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BrainClassifierOutput:
        """Predict labels; other arguments as in [`BrainLMViTModel.forward`].

        Args:
            mask_ratio: share of patches to hide; default `config.classifier_mask_ratio` while training and 0
                otherwise.
            labels: `(batch,)` class ids or numbers, or `(batch, num_labels)`.
        """
        config = self.config
        if mask_ratio is None:
            mask_ratio = config.classifier_mask_ratio if self.training else 0.0
        outputs = self.base_model(
            signals, coordinates, attention_mask, noise, mask_ratio, pixel_values, return_dict=True, **kwargs
        )
        raw_logits = self.classifier(outputs.pooler_output)
        logits = torch.sigmoid(raw_logits) if config.sigmoid_outputs else raw_logits
        loss = None if labels is None else self.classification_loss(logits, labels)
        others = {"raw_logits": raw_logits if config.sigmoid_outputs else None}
        if loss is not None and self.decoder is not None:
            image = self._check_image(signals, pixel_values, None)
            mask = check_attention_mask(attention_mask, image.shape[0], config.grid_size**2)
            reconstruction_loss = self._reconstruct(self.decoder, outputs, image, None, mask).loss
            others |= {"classification_loss": loss, "reconstruction_loss": reconstruction_loss}
            if reconstruction_loss is not None:
                loss = loss + config.reconstruction_weight * reconstruction_loss
        return classifier_output(outputs, logits, loss, **others)
