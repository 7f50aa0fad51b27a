"""BrainHarmony: tokens of two frozen encoders, fMRI and T1, gathered by hub tokens.

Source: Dong et al., "Brain Harmony: A Multimodal Foundation Model Unifying Morphology and Function into 1D Tokens",
NeurIPS 2025 (arXiv 2509.24693), and the released code's behaviour.
"""

import copy
import functools
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...layers.attention import SelfAttention
from ...layers.initialisation import initialise, initialised_linear
from ...layers.masking import check_attention_mask, check_observed, check_tensor, padding_masks
from ...layers.packing import Packing, SequenceLengths
from ...layers.plain import input_dtype
from ...layers.pooling import masked_mean, pool_tokens
from ...layers.positions import sincos_table
from ...layers.transformer import PreNormLayer, layer_stack
from ..classification import BrainForSequenceClassification, NormedHead, are_shares, three_layers
from ..configuration_base import Table
from ..harmonix_f.configuration_harmonix_f import HarmonixFConfig
from ..harmonix_f.modeling_harmonix_f import HarmonixFModel, PatchSize
from ..harmonix_s.configuration_harmonix_s import HarmonixSConfig
from ..harmonix_s.modeling_harmonix_s import HarmonixSModel
from ..modeling_base import BrainModelOutput, BrainPreTrainedModel, MaskedModelingOutput
from .configuration_brain_harmony import BrainHarmonyConfig


class BrainHarmonyEmbeddings(nn.Module):
    """CLS, the tokens of both encoders with their positions, and the hub tokens with theirs."""

    position_embeddings: torch.Tensor

    def __init__(self, config: BrainHarmonyConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.cls_token = nn.Parameter(torch.empty(width))
        self.hub_tokens = nn.Parameter(torch.empty(config.num_hub_tokens, width))
        self.hub_positions = nn.Parameter(torch.empty(config.num_hub_tokens, width))
        self.register_buffer("position_embeddings", torch.empty(1 + config.n_tokens, width))
        self.projection = None if width == config.input_size else nn.Linear(config.input_size, width)

    def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """`(batch, n_tokens, input_size)` -> `(batch, 1 + n_tokens + num_hub_tokens, hidden_size)`."""
        dtype, batch = self.hub_tokens.dtype, len(inputs_embeds)
        positions = self.position_embeddings.to(dtype)
        if self.projection is None:
            tokens = inputs_embeds.to(dtype)
        else:
            tokens = self.projection(inputs_embeds.to(input_dtype(self.projection, inputs_embeds))).to(dtype)
        cls = (self.cls_token + positions[0]).expand(batch, 1, -1)
        hub = (self.hub_tokens + self.hub_positions).expand(batch, -1, -1)
        return torch.cat([cls, tokens + positions[1:], hub], dim=1)


class BrainHarmonyDecoder(nn.Module):
    """From CLS and hub tokens back to the tokens of both encoders, of which it sees nothing else."""

    position_embeddings: torch.Tensor

    def __init__(self, config: BrainHarmonyConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.hub_positions = nn.Parameter(torch.empty(config.num_hub_tokens, width))
        self.register_buffer("position_embeddings", torch.empty(1 + config.n_tokens, width))
        self.layers = layer_stack(config, "decoder_")
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.projection = nn.Linear(width, config.input_size)

    def forward(self, latent: torch.Tensor, output_hidden_states: bool = False, **kwargs: Any) -> Any:
        """Decode CLS and hub tokens `(batch, 1 + num_hub_tokens, hidden_size)`.

        Returns:
            `(batch, n_tokens, input_size)`; on request, the input of the first layer and the output of each, of CLS,
            all tokens and hub tokens (`None` otherwise).
        """
        latent = self.embed(latent)
        positions = self.position_embeddings.to(latent.dtype)
        tokens = (self.mask_token + positions[1:]).expand(len(latent), -1, -1)
        hub = latent[:, 1:] + self.hub_positions
        hidden_states = torch.cat([latent[:, :1] + positions[0], tokens, hub], dim=1)
        states, of_tokens = [hidden_states], slice(1, len(positions))
        for layer in self.layers:
            # Nothing but the tokens is read of the last layer.
            only = of_tokens if layer is self.layers[-1] and not output_hidden_states else None
            hidden_states = layer(hidden_states, query_ids=only, **kwargs)
            states.append(hidden_states)
        if output_hidden_states:
            hidden_states = hidden_states[:, of_tokens]
        predictions = self.projection(self.layernorm(hidden_states))
        return predictions, tuple(states) if output_hidden_states else None


@functools.cache
def _warn_of_one_modality(missing: str) -> None:
    """Once for each."""
    warnings.warn(
        f"{missing} is missing, so its tokens are left out: BrainHarmony was never trained on one modality alone, and "
        "such features are far from those of pairs. Compare them only with others that lack the same.",
        UserWarning,
        stacklevel=2,
    )


class BrainHarmonyPreTrainedModel(BrainPreTrainedModel):
    """Weights and input checks that the BrainHarmony classes share."""

    config: BrainHarmonyConfig
    base_model_prefix = "brain_harmony"
    main_input_name = "inputs_embeds"
    input_modalities = ["time", "image"]
    _no_split_modules = ["PreNormLayer", "BrainHarmonyEmbeddings"]
    _can_record_outputs = {"hidden_states": PreNormLayer, "attentions": SelfAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the authors' stage 1: Xavier, zero biases, sine-cosine positions, hub tokens of unit size."""
        config = self.config
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
            initialise(module)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, BrainHarmonyEmbeddings):
            init.normal_(module.cls_token, std=config.initializer_range)
            init.normal_(module.hub_tokens)
            init.normal_(module.hub_positions)
            init.copy_(module.position_embeddings, sincos_table((config.n_tokens,), config.hidden_size, cls_row=True))
        elif isinstance(module, BrainHarmonyDecoder):
            init.normal_(module.mask_token, std=config.initializer_range)
            init.normal_(module.hub_positions)
            table = sincos_table((config.n_tokens,), config.decoder_hidden_size, cls_row=True)
            init.copy_(module.position_embeddings, table)

    def share_config(self) -> None:
        """See [`BrainPreTrainedModel.share_config`]; encoders keep theirs, which are parts of that of this model."""
        super().share_config()
        body: Any = self.base_model
        for name in ("fmri", "t1"):
            encoder = getattr(body, f"{name}_encoder")
            setattr(self.config, f"{name}_config", None if encoder is None else encoder.config)

    def set_encoders(self, fmri_encoder: Any = None, t1_encoder: Any = None) -> None:
        """Take in the encoders whose tokens this model was trained on, so that it runs them itself, frozen.

        Args:
            fmri_encoder: a [`HarmonixFModel`], or `None` to leave what is there.
            t1_encoder: a [`HarmonixSModel`], likewise.

        Raises:
            ValueError: if their tokens are not those of this model.
        """
        given = {"fmri": fmri_encoder, "t1": t1_encoder}
        given = {name: encoder for name, encoder in given.items() if encoder is not None}
        fitting = copy.deepcopy(self.config)
        for name, encoder in given.items():
            setattr(fitting, f"{name}_config", encoder.config)
        fitting.validate_architecture()
        for name, encoder in given.items():
            setattr(self.base_model, f"{name}_encoder", encoder.to(self.device))
        self.share_config()
        self.freeze_encoders()

    @classmethod
    def of_encoders(cls, fmri_encoder: Any, t1_encoder: Any, **fields: Any) -> Any:
        """A new model for the tokens of two trained encoders, which it holds and runs itself, frozen.

        Args:
            fmri_encoder, t1_encoder: a [`HarmonixFModel`] and a [`HarmonixSModel`], whose tokens are as wide.
            fields: of [`BrainHarmonyConfig`], beside the numbers of tokens and their width.

        Raises:
            ValueError: if the encoders do not fit each other.
        """
        fmri, t1 = fmri_encoder.config, t1_encoder.config
        sizes = {"n_fmri_tokens": fmri.n_rois * fmri.n_windows, "n_t1_tokens": t1.n_patches}
        model = cls(BrainHarmonyConfig(**sizes, input_size=fmri.hidden_size, **fields))
        model.set_encoders(fmri_encoder, t1_encoder)
        return model

    def freeze_encoders(self) -> None:
        """Take the encoders out of training; needed again whenever weights were loaded by hand."""
        body: Any = self.base_model
        for encoder in (body.fmri_encoder, body.t1_encoder):
            if encoder is not None:
                encoder.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """See [`BrainPreTrainedModel.from_pretrained`]; encoders come frozen, which is not saved."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_encoders()
        return loaded

    def train(self, mode: bool = True) -> Any:
        """Set the mode of what is trained; encoders stay in evaluation mode."""
        super().train(mode)
        body: Any = self.base_model
        for encoder in (body.fmri_encoder, body.t1_encoder):
            if encoder is not None:
                encoder.eval()
        return self

    @property
    def tables(self) -> dict[str, Table]:
        """See [`BrainPreTrainedModel.tables`]: those of the fMRI encoder, if the model holds one."""
        body: Any = self.base_model
        return {} if body.fmri_encoder is None else body.fmri_encoder.tables

    def set_table(self, name: str, array: Any, source: str) -> None:
        """See [`BrainPreTrainedModel.set_table`]."""
        body: Any = self.base_model
        if body.fmri_encoder is None:
            super().set_table(name, array, source)
        else:
            body.fmri_encoder.set_table(name, array, source)

    @classmethod
    def n_tokens(cls, config: Any, inputs: Mapping[str, torch.Tensor] | None = None) -> int:
        """See [`BrainPreTrainedModel.n_tokens`]: those of both encoders."""
        return config.n_tokens

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """See [`BrainPreTrainedModel.layer_groups`]: CLS, then the layers.

        Hub tokens, their positions and the projection of the input learn at the full rate, as in the authors' code.
        """
        body: Any = self.base_model
        return [[body.embeddings.cls_token], *(list(layer.parameters()) for layer in body.layers)]

    def published_groups(self, layer_decay: float) -> list[tuple[list[nn.Parameter], float, bool]]:
        """See [`BrainPreTrainedModel.published_groups`]: hub tokens and their positions decay, CLS does not."""
        scales = self.learning_rate_scales(layer_decay)
        return self.grouped(self.parameters(), scales, lambda parameter: parameter.ndim > 1)

    def observed_tokens(self, output: Any, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """See [`BrainPreTrainedModel.observed_tokens`]: `None`, since hub tokens are never padding."""
        return None

    def _observed(self, attention_mask: torch.Tensor | None, batch: int) -> torch.Tensor | None:
        """Which of all tokens are observed: bool `(batch, n_tokens)`, or `None` for all."""
        n_tokens, n_t1 = self.config.n_tokens, self.config.n_t1_tokens
        whole = isinstance(attention_mask, torch.Tensor) and tuple(attention_mask.shape) == (batch, n_tokens)
        mask = check_attention_mask(attention_mask, batch, n_tokens if whole else n_tokens - n_t1)
        if mask is None or whole:
            return None if mask is None else mask.bool()
        return nn.functional.pad(mask.bool(), (0, n_t1), value=True)

    def encoder_tokens(self, *args: Any, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See [`BrainPreTrainedModel.encoder_tokens`]: those of both encoders, and not the hub tokens."""
        return self.stage0(*args, **inputs)

    def stage0(
        self,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        signals: torch.Tensor | None = None,
        patch_size: PatchSize | None = None,
        t1_volumes: torch.Tensor | None = None,
        keep_padding: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens of both encoders, computed or as they are given; arguments as of [`BrainHarmonyModel`].

        Args:
            keep_padding: see [`HarmonixFModel`].

        Returns:
            `inputs_embeds` `(batch, n_tokens, input_size)`, with zeros for what is missing; and which of them are
            observed, bool `(batch, n_tokens)`, or `None` for all.

        Raises:
            ValueError: for inputs of another shape, samples of which nothing is observed, or scans where the model has
                no encoder for them.
        """
        body: Any = self.base_model
        if inputs_embeds is not None:
            if signals is not None or t1_volumes is not None:
                raise ValueError("Pass inputs_embeds, or signals and t1_volumes, not both.")
            self._check_embeds(inputs_embeds)
            return inputs_embeds, self._observed(attention_mask, len(inputs_embeds))
        for name, given, encoder in (
            ("signals", signals, body.fmri_encoder),
            ("t1_volumes", t1_volumes, body.t1_encoder),
        ):
            if given is not None:
                check_tensor(name, given)
                if encoder is None:
                    raise ValueError(
                        f"This model holds no encoder for {name}: pass inputs_embeds, the tokens that the encoders "
                        "made, or call set_encoders once and save the model."
                    )
        first = t1_volumes if signals is None else signals
        if first is None:
            raise ValueError("Pass inputs_embeds, or signals, t1_volumes or both; got none of them.")
        if signals is None or t1_volumes is None:
            _warn_of_one_modality("fMRI" if signals is None else "T1")
        n_fmri, batch = self.config.n_fmri_tokens, len(first)
        observed = self._observed(attention_mask, batch)
        if observed is None:
            observed = torch.ones(batch, self.config.n_tokens, dtype=torch.bool, device=first.device)
        parts = torch.tensor([signals is not None, t1_volumes is not None], device=first.device)
        sizes = torch.tensor([n_fmri, self.config.n_t1_tokens], device=first.device)
        observed = observed & parts.repeat_interleave(sizes)
        check_observed(observed)
        tokens = first.new_zeros(batch, self.config.n_tokens, self.config.input_size, dtype=torch.float32)
        with torch.no_grad():
            if signals is not None:
                self._encode_fmri(tokens[:, :n_fmri], signals, observed[:, :n_fmri], patch_size, keep_padding)
            if t1_volumes is not None:
                rows = observed[:, n_fmri:].any(1)
                if bool(rows.any()):
                    states = body.t1_encoder(t1_volumes[rows], return_dict=True).last_hidden_state
                    tokens[rows, n_fmri:] = states[:, 1:].float()
        return tokens, None if signals is not None and t1_volumes is not None and attention_mask is None else observed

    def _encode_fmri(
        self,
        tokens: torch.Tensor,
        signals: torch.Tensor,
        observed: torch.Tensor,
        patch_size: PatchSize | None,
        keep_padding: bool,
    ) -> None:
        """Write the tokens of the scans that were measured into `tokens` `(batch, n_fmri_tokens, input_size)`."""
        encoder: Any = self.base_model.get_submodule("fmri_encoder")
        rows = observed.any(1)
        if not bool(rows.any()):
            return
        if isinstance(patch_size, torch.Tensor) and patch_size.numel() == len(signals):
            patch_size = patch_size.flatten()[rows]
            if not bool(rows.all()):  # whose windows may have been the longest ones
                signals = signals[:, :, : encoder.config.n_windows * int(patch_size.max())]
        signals, mask = signals[rows], observed[rows]
        n_windows = encoder.n_windows_of(signals, patch_size)
        if n_windows != encoder.config.n_windows:
            raise ValueError(
                f"signals must have {encoder.config.n_windows} patches of patch_size frames, padded at the end, got "
                f"{n_windows} from {tuple(signals.shape)}. Pass the scan through the processor."
            )
        given = None if bool(mask.all()) else mask
        output = encoder(signals, given, patch_size, keep_padding=keep_padding, return_dict=True)
        tokens[rows] = output.last_hidden_state[:, int(encoder.has_cls_token) :].float()

    def _check_embeds(self, inputs_embeds: torch.Tensor) -> None:
        """Raise ValueError unless these are tokens of this model."""
        config = self.config
        check_tensor("inputs_embeds", inputs_embeds)
        n_fmri, n_t1 = config.n_fmri_tokens, config.n_t1_tokens
        if inputs_embeds.dim() != 3 or inputs_embeds.shape[1:] != (config.n_tokens, config.input_size):
            raise ValueError(
                f"inputs_embeds must be (batch, {config.n_tokens}, {config.input_size}): {n_fmri} tokens of fMRI, "
                f"ROI-major, then {n_t1} of T1; got {tuple(inputs_embeds.shape)}."
            )


class BrainHarmonyModel(BrainHarmonyPreTrainedModel):
    """BrainHarmony's encoder: what the frozen encoders say of a scan and a T1 volume, in `num_hub_tokens` vectors.

    Its features are the mean of the hub tokens, or CLS. Known limits: the statistics that scaled the fMRI of
    pretraining were never published; a scan without a T1 volume, or the other way round (`attention_mask` over all
    tokens), was never trained: its features are far from those of pairs (see the limits in `family.py`).
    """

    def __init__(self, config: BrainHarmonyConfig):
        super().__init__(config)
        self.embeddings = BrainHarmonyEmbeddings(config)
        self.layers = layer_stack(config, drop_path_rate=config.drop_path_rate)
        eps = config.layer_norm_eps
        self.layernorm: nn.Module = nn.LayerNorm(config.hidden_size, eps=eps) if config.final_norm else nn.Identity()
        fmri, t1 = config.fmri_config, config.t1_config
        self.fmri_encoder = HarmonixFModel(fmri) if isinstance(fmri, HarmonixFConfig) else None
        self.t1_encoder = HarmonixSModel(t1) if isinstance(t1, HarmonixSConfig) else None
        self.post_init()
        self.freeze_encoders()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        signals: torch.Tensor | None = None,
        patch_size: PatchSize | None = None,
        t1_volumes: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BrainModelOutput:
        """Fuse the tokens of fMRI and T1.

        Padded tokens are left out. Only where `hidden_states` or `attentions` are asked for do they go along, as in
        the authors' code: as queries they get nothing from attention.

        Args:
            inputs_embeds: `(batch, n_fmri_tokens + n_t1_tokens, input_size)`, the last hidden states of Harmonix-F and
                Harmonix-S.
            attention_mask: `(batch, n_fmri_tokens)`, 1 = observed, 0 = padding, ROI-major, time fastest; with or
                without a leading entry for CLS. Or one entry for every token, `(batch, n_fmri_tokens + n_t1_tokens)`,
                where T1 is missing.
            signals: float `(batch, n_rois, n_timepoints)`, in place of `inputs_embeds` in a model that holds its
                encoders; `None` if there is no fMRI.
            patch_size: frames of a patch of `signals`, see [`HarmonixFModel`].
            t1_volumes: float `(batch, 1, x, y, z)`; `None` if there is no T1. The tokens of a modality that is missing
                are left out, for which the model was never trained.

        Returns:
            `last_hidden_state` `(batch, 1 + num_hub_tokens, hidden_size)`, CLS and the hub tokens; `pooler_output`;
            on request `hidden_states` of CLS, all tokens and hub tokens.

        Raises:
            ValueError: for inputs of another shape, or a sample without observed tokens.
        """
        asked = ("output_hidden_states", "output_attentions")
        whole = any(kwargs.get(name, getattr(self.config, name)) for name in asked)
        inputs_embeds, observed = self.stage0(
            inputs_embeds, attention_mask, signals, patch_size, t1_volumes, keep_padding=whole
        )
        hidden_states = self.embeddings(inputs_embeds)
        if observed is None or whole or torch.compiler.is_compiling() or torch.jit.is_tracing():
            hidden_states = self._encode(hidden_states, observed, whole, **kwargs)
        else:
            hidden_states = self._encode_without_padding(hidden_states, observed, **kwargs)
        return BrainModelOutput(
            last_hidden_state=hidden_states, pooler_output=pool_tokens(hidden_states, self.config.pooling)
        )

    def _encode(
        self, hidden_states: torch.Tensor, observed: torch.Tensor | None, whole: bool, **kwargs: Any
    ) -> torch.Tensor:
        """CLS and hub tokens after all layers.

        Args:
            hidden_states: `(batch, 1 + n + num_hub_tokens, hidden_size)`.
            observed: bool `(batch, n)`, or `None` for all.
            whole: let all tokens through the last layer.
        """
        n_hub = self.config.num_hub_tokens
        if observed is not None:
            observed = nn.functional.pad(observed, (0, n_hub), value=True)
        mask, keep = padding_masks(self.config, hidden_states, observed)
        ids = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        read = torch.cat([ids[:1], ids[-n_hub:]]).expand(len(hidden_states), -1)
        for layer in self.layers:
            only = read if layer is self.layers[-1] and not whole else None
            hidden_states = layer(hidden_states, mask, keep, only, **kwargs)
        if whole:
            hidden_states = torch.cat([hidden_states[:, :1], hidden_states[:, -n_hub:]], dim=1)
        return self.layernorm(hidden_states)

    def _encode_without_padding(
        self, hidden_states: torch.Tensor, observed: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """As [`_encode`], with the observed tokens of all samples in one packed sequence and nothing else."""
        n_hub = self.config.num_hub_tokens
        packing = Packing(nn.functional.pad(observed, (1, n_hub), value=True))
        packed, lengths = packing.pack(hidden_states), packing.lengths
        for layer in self.layers[:-1]:
            packed = layer(packed, lengths=lengths, **kwargs)
        read = torch.zeros_like(packing.keep)
        read[:, 0] = read[:, -n_hub:] = True
        ids = packing.pack(read[:, :, None])[0, :, 0].nonzero().T
        last = SequenceLengths(lengths.keys, lengths.device, queries=(1 + n_hub,) * len(observed))
        packed = self.layers[-1](packed, query_ids=ids, lengths=last, **kwargs)
        return self.layernorm(packed.view(len(observed), 1 + n_hub, -1))


class BrainHarmonyForMaskedModeling(BrainHarmonyPreTrainedModel):
    """BrainHarmony that reconstructs all tokens of both encoders from the hub tokens, its stage 1.

    No token is hidden: the hub tokens are the bottleneck, and the decoder sees nothing else. The loss is the mean
    squared error on standardised tokens. As in the authors' code it counts padded fMRI tokens unless
    `config.loss_on_padding` is false.
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: BrainHarmonyConfig):
        super().__init__(config)
        self.brain_harmony = BrainHarmonyModel(config)
        self.decoder = BrainHarmonyDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        signals: torch.Tensor | None = None,
        patch_size: PatchSize | None = None,
        t1_volumes: torch.Tensor | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> MaskedModelingOutput:
        """Reconstruct the tokens.

        Args:
            inputs_embeds, attention_mask, signals, patch_size, t1_volumes: see [`BrainHarmonyModel`].
            return_loss: there for the Trainer, which asks for it in evaluation.

        Returns:
            `loss`; `predictions`, `targets` and `signal_mask` `(batch, n_tokens, input_size)`, the last with 1 where
            the loss looks; `last_hidden_state`, CLS and hub tokens; on request `decoder_hidden_states`.
        """
        inputs_embeds, observed = self.stage0(inputs_embeds, attention_mask, signals, patch_size, t1_volumes)
        outputs = self.brain_harmony(inputs_embeds, observed, return_dict=True, **kwargs)
        whole = bool(kwargs.pop("output_hidden_states", self.config.output_hidden_states))
        predictions, states = self.decoder(outputs.last_hidden_state, output_hidden_states=whole, **kwargs)
        targets = inputs_embeds.float()
        if self.config.norm_pix_loss:
            variance, mean = torch.var_mean(targets, dim=2, keepdim=True)
            targets = (targets - mean) / (variance + 1e-6).sqrt()
        counted = targets.new_ones(*targets.shape[:2], 1)
        if observed is not None:
            if self.config.loss_on_padding:  # which is not what is missing altogether
                n_fmri = self.config.n_fmri_tokens
                some = observed[:, :n_fmri].any(1, keepdim=True).expand(-1, n_fmri)
                observed = torch.cat([some, observed[:, n_fmri:]], dim=1)
            counted = observed[:, :, None].to(counted)
        signal_mask = counted.expand_as(targets)
        return MaskedModelingOutput.of(
            outputs,
            loss=masked_mean((predictions.float() - targets) ** 2, signal_mask),
            logits=predictions,
            mask=signal_mask,
            predictions=predictions,
            targets=targets,
            signal_mask=signal_mask,
            decoder_hidden_states=states,
        )


class BrainHarmonyForSequenceClassification(BrainForSequenceClassification, BrainHarmonyPreTrainedModel):
    """BrainHarmony with a head for classification or regression, its stage 2.

    The head reads the mean of the hub tokens, before the norm of the pretrained encoder and after one of its own; with
    `pooling="cls"` it reads CLS after the encoder's norm.
    """

    body_class = BrainHarmonyModel
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^(brain_harmony\.)?layernorm\."]

    def add_head(self) -> None:
        """See [`BrainForSequenceClassification.add_head`]."""
        config, width = self.config, self.config.hidden_size
        if config.classifier_head == "mlp":
            hidden = int(config.classifier_hidden_size or 1)
            layers = three_layers(width, hidden, self.num_labels, float(config.classifier_dropout))
        else:
            output = initialised_linear(width, self.num_labels, std=2e-5, zero_bias=True)
            layers = nn.Sequential(OrderedDict(output=output))
        norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if config.pooling == "mean" else None
        self.classifier = NormedHead(norm, layers=layers)

    def share_config(self) -> None:
        """See [`BrainPreTrainedModel.share_config`]; whatever body is there has the norm that the head wants."""
        self.config.final_norm = self.config.pooling != "mean"
        super().share_config()
        if not self.config.final_norm:
            body: Any = self.brain_harmony
            body.layernorm = nn.Identity()

    def mix_inputs(self, inputs: Mapping[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
        """See [`BrainPreTrainedModel.mix_inputs`]; tokens are mixed, of which padded ones are made 0 first."""
        names = ("inputs_embeds", "attention_mask", "signals", "patch_size", "t1_volumes")
        tokens, observed = self.stage0(**{name: inputs[name] for name in names if name in inputs}, keep_padding=False)
        rest = {name: value for name, value in inputs.items() if name not in names}
        if observed is not None:
            tokens, rest["attention_mask"] = tokens * observed[:, :, None], observed
        return super().mix_inputs({**rest, "inputs_embeds": tokens}, share)

    def classification_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See [`BrainForSequenceClassification.classification_loss`]; `config.label_smoothing` acts while training."""
        loss, config = super().classification_loss(logits, labels), self.config
        if self.training and config.label_smoothing and config.problem_type == "single_label_classification":
            labels = labels.to(logits.dtype) if are_shares(labels, logits, config.problem_type) else labels.view(-1)
            return nn.functional.cross_entropy(logits, labels, label_smoothing=float(config.label_smoothing))
        return loss
