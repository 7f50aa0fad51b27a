"""What the models of all families share: strict loading, flags for transformers, output types."""

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from ..layers.bfloat16 import warn_where_bfloat16_is_slow
from ..layers.masking import TokenSelection, restore_tokens
from ..layers.pooling import pool_tokens
from .batch_draws import BatchDraws, draw_noise
from .configuration_base import BrainConfig, Table
from .uploads import UnderLicense
from .validation import check_choice

# Weights that may start anew beside those of a file (a decoder, a head) whatever the size of the file.
_MOST_NEW_WEIGHTS = 250_000_000


@dataclass
class BrainModelOutput(ModelOutput):
    """Output of a body.

    Args:
        last_hidden_state: `(batch, 1 + n_tokens, hidden_size)` after the final norm, CLS first. Natural token order
            when nothing is masked (zeros at padding); with a mask, the visible tokens in ascending order of `noise`.
        pooler_output: `(batch, hidden_size)`, pooled as `config.pooling` says.
        token_mask: `(batch, n_tokens)`, 1 for tokens that were hidden from the encoder; `None` without masking.
        ids_keep: int64 `(batch, n_kept)`, natural ids of the tokens that the encoder saw, in its order; `None` if all.
        ids_restore: int64 `(batch, n_tokens)`, place of each token in the shuffled sequence; `None` without masking.
        keep_mask: bool `(batch, n_kept)`, false where a row of `ids_keep` only fills up; `None` if none does.
        hidden_states: on request, input of the first layer and the output of each, before the final norm.
        attentions: on request and with `attn_implementation="eager"`, the weights of each layer.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    token_mask: torch.Tensor | None = None
    ids_keep: torch.Tensor | None = None
    ids_restore: torch.Tensor | None = None
    keep_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None

    def hides_some_of(self, n_tokens: int) -> bool:
        """Whether the encoder saw fewer than `n_tokens`; also where padding makes that differ between samples."""
        return self.ids_keep is not None and (self.ids_keep.shape[1] < n_tokens or self.keep_mask is not None)


def encoder_output(hidden_states: torch.Tensor, selection: TokenSelection | None, pooling: str) -> BrainModelOutput:
    """Pool an encoder's normed sequence (CLS first) and put packed tokens back in their places.

    Args:
        hidden_states: `(batch, 1 + n_kept, hidden_size)`.
        selection: the tokens that were encoded; `None` for all in natural order.
        pooling: see [`pool_tokens`].
    """
    if selection is None:
        pooled = pool_tokens(hidden_states, pooling)
        return BrainModelOutput(last_hidden_state=hidden_states, pooler_output=pooled)
    pooled = pool_tokens(hidden_states, pooling, selection.keep_mask)
    if selection.natural:
        tokens = restore_tokens(hidden_states[:, 1:], selection)
        hidden_states = torch.cat([hidden_states[:, :1], tokens], dim=1)
        return BrainModelOutput(last_hidden_state=hidden_states, pooler_output=pooled)
    return BrainModelOutput(
        last_hidden_state=hidden_states,
        pooler_output=pooled,
        token_mask=selection.token_mask,
        ids_keep=selection.ids_keep,
        ids_restore=selection.ids_restore,
        keep_mask=selection.keep_mask,
    )


@dataclass
class MaskedModelingOutput(ModelOutput):
    """Output of a masked-autoencoder head.

    Args:
        loss: mean reconstruction loss over the masked entries of the batch; `None` if nothing is masked.
        logits: the prediction in the family's own layout (see the model's `forward`).
        mask: the mask in the layout of `logits`, 1 = masked.
        predictions, targets, signal_mask: `(batch, n_rois, n_timepoints)`, the same for every family: what was
            predicted, what should have been, and 1 where the loss looks.
        token_mask: `(batch, n_tokens)`, 1 for tokens that were hidden from the encoder.
        ids_restore: int64 `(batch, n_tokens)`, place of each token in the shuffled sequence.
        last_hidden_state: output of the encoder for the visible tokens, after its final norm.
        hidden_states, attentions: of the encoder, on request.
        decoder_hidden_states: on request, input of the decoder's first layer and the output of each.
        decoder_logits: on request (`output_hidden_states=True`), raw decoder output a token, CLS removed, for families
            that crop or average it.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    predictions: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    signal_mask: torch.Tensor | None = None
    token_mask: torch.Tensor | None = None
    ids_restore: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_logits: torch.Tensor | None = None

    @classmethod
    def of(cls, encoded: Any, **values: Any) -> "MaskedModelingOutput":
        """The values of a head, beside what `encoded`, the output of the body, holds of the same name."""
        kept = ("token_mask", "ids_restore", "last_hidden_state", "hidden_states", "attentions")
        return cls(**{**{name: getattr(encoded, name) for name in kept}, **values})


def _check_shapes(model: Any, files: list[str], load_config: Any) -> None:
    """Raise ValueError if `model`, built without memory, has other shapes than its files, or far more weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as weights:
            shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    prefix = f"{model.base_model_prefix}."
    other, absent = [], 0
    for name, tensor in model.state_dict().items():
        names = (name, name.removeprefix(prefix), prefix + name)
        found = next((shapes[key] for key in names if key in shapes), None)
        if found is None:
            absent += tensor.numel()
        elif found != tuple(tensor.shape) and not load_config.ignore_mismatched_sizes:
            other.append(f"{name} has {found} and should have {tuple(tensor.shape)}")
    source = load_config.pretrained_model_name_or_path
    advice = "Expected the config.json that was saved with these weights. Copy, download or convert the folder again."
    if other:
        raise ValueError(
            f"The weights in {source} have other shapes than its configuration says: {'; '.join(other[:3])}"
            f"{f' and {len(other) - 3} more' if len(other) > 3 else ''}. {advice} (A head for another number of "
            "labels: ignore_mismatched_sizes=True.)"
        )
    if absent > max(_MOST_NEW_WEIGHTS, 4 * sum(math.prod(shape) for shape in shapes.values())):
        raise ValueError(
            f"The configuration in {source} claims {absent:,} weights that its files do not hold. {advice}"
        )


class BrainPreTrainedModel(UnderLicense):
    """Base of every model: loads strictly, so that a wrong folder is an error and never a random model."""

    config: BrainConfig
    # Whether a CLS token stands in front of `last_hidden_state`.
    has_cls_token = True
    # Losses here do not use `num_items_in_batch`; without this flag the Trainer would scale them wrongly.
    accepts_loss_kwargs = False
    # Whether pretraining hides the tokens with the highest `noise`, of which the Trainer draws one number a token.
    masked_by_noise = False
    # Arguments of the body that spare what is not read where only tokens that were measured are, as in pooling.
    where_pooled: ClassVar[Mapping[str, Any]] = {}
    # What `get_input_embeddings` answers: LoRA with reentrant checkpointing needs gradients from there on.
    _input_embed_layer = "embeddings"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Parts that only another head of the same checkpoint has.
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^classifier\."]
    # Prefixes of parameters that a head may start from scratch when a checkpoint does not hold them.
    _may_be_new: tuple[str, ...] = ()

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        # A copy: what a model says of its tables belongs to it alone, not to other models of the same configuration.
        super().__init__(copy.deepcopy(config), *args, **kwargs)
        check_choice("hidden_act", self.config.hidden_act, tuple(ACT2FN))

    def post_init(self) -> None:
        """Initialise the weights; then the model and its parts have one configuration."""
        super().post_init()
        self.share_config()

    def share_config(self) -> None:
        """Make the configuration of this model that of all its parts, which say where their tables came from.

        Called when a model is made; needed again after a part was replaced by that of another model.
        """
        for name in self.config.table_sources.values():
            setattr(self.config, name, getattr(self.base_model.config, name))
        part: Any
        for part in self.modules():
            if type(getattr(part, "config", None)) is type(self.config):  # an encoder of another family has its own
                part.config = self.config

    def observed_tokens(self, output: Any, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Which tokens of an unmasked pass were measured: bool `(batch, n_tokens)` without CLS, `None` if all were.

        Args:
            output: of the body.
            attention_mask: what the body was given; here one entry a token, with or without one for CLS.
        """
        if attention_mask is None:
            return None
        n_tokens = output.last_hidden_state.shape[1] - self.has_cls_token
        return attention_mask[:, -n_tokens:].bool()

    def encoder_tokens(
        self, attention_mask: torch.Tensor | None = None, **inputs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """All tokens of an unmasked pass, without CLS, for another model to read.

        Returns:
            `(batch, n_tokens, width)`; and which of them were measured, bool `(batch, n_tokens)`, `None` for all.
        """
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        output: Any = self.base_model(**inputs, return_dict=True)
        return output.last_hidden_state[:, int(self.has_cls_token) :], self.observed_tokens(output, attention_mask)

    def roi_tokens(self, last_hidden_state: torch.Tensor, n_timepoints: int | None = None) -> torch.Tensor:
        """Tokens of an unmasked pass as `(batch, n_rois, n_windows, hidden_size)`, without CLS and borders.

        Args:
            last_hidden_state: `(batch, n_tokens, width)`, with CLS where the model has one; also a mask in that form.
            n_timepoints: of the signals, for models whose layout depends on it.

        Raises:
            ValueError: if the model has no tokens of single ROIs.
        """
        raise ValueError(f'{type(self).__name__} has no tokens of single ROIs; choose pooling="mean".')

    def pool(
        self,
        output: Any,
        how: str = "model",
        attention_mask: torch.Tensor | None = None,
        n_timepoints: int | None = None,
    ) -> torch.Tensor:
        """Vectors of an unmasked pass, float32 `(batch, n_features)`; NaN for a sample of which nothing was measured.

        Args:
            output: of this body.
            how: `"model"`: `pooler_output`, as the configuration says; `"roi"`: mean over time of each ROI's tokens,
                all ROIs side by side; or a pooling over all tokens that were measured, see [`pool_tokens`].
            attention_mask: what the body was given.
            n_timepoints: of the signals, for models in which the place of a ROI's tokens depends on it.

        Raises:
            ValueError: if the model has nothing of that kind.
        """
        if how == "model":
            return output.pooler_output.float()
        if how == "cls" and not self.has_cls_token:
            raise ValueError(f'{type(self).__name__} has no CLS token; choose pooling="mean".')
        states, observed = output.last_hidden_state.float(), self.observed_tokens(output, attention_mask)
        if how != "roi":
            return pool_tokens(states, how, observed, self.has_cls_token)
        tokens = self.roi_tokens(states, n_timepoints=n_timepoints)
        if observed is None:
            return tokens.mean(2).flatten(1)
        # The mask takes the way of the tokens, so that it fits whatever layout the model has.
        whole = torch.nn.functional.pad(observed.to(states), (int(self.has_cls_token), 0))
        counted = self.roi_tokens(whole[..., None], n_timepoints=n_timepoints)
        total = counted.sum(2)
        pooled = (tokens * counted).sum(2) / total
        empty = (total == 0) & (total > 0).any(1, keepdim=True)
        if bool(empty.any()):
            warnings.warn(
                f"{int(empty.any(0).sum())} of {total.shape[1]} parcels have no measured tokens in some scans, as "
                "where an atlas lacks them. Their part of the embedding is 0 there.",
                stacklevel=2,
            )
        return torch.where(empty, 0.0, pooled).flatten(1)

    @classmethod
    def n_tokens(cls, config: Any, inputs: Mapping[str, torch.Tensor] | None = None) -> int:
        """Tokens, without CLS, that the body makes of each sample: the length of a masking noise.

        Args:
            config: of the model.
            inputs: the batch, whose sizes count; `None` for inputs of the sizes in the configuration.

        Raises:
            ValueError: if the model does not say it.
        """
        raise ValueError(f"{cls.__name__} does not say how many tokens it makes of a sample.")

    def layer_groups(self) -> list[list[torch.nn.Parameter]]:
        """Parameters of the encoder by depth, for learning rates that fall towards the input: embeddings, then layers.

        What learns at the full rate, such as heads, decoders and predictors, is in none. Where a model has two
        encoders, the released network and its trained twin, those of both are together.
        """
        levels = zip(*([body.embeddings, *body.layers] for body in self._bodies()), strict=True)
        return [[parameter for part in level for parameter in part.parameters()] for level in levels]

    def learning_rate_scales(self, layer_decay: float) -> dict[int, float]:
        """Factor of the learning rate of the parameters in `layer_groups`, by their ids; that of others is 1.

        Raises:
            ValueError: for a decay outside (0, 1].
        """
        if not 0 < layer_decay <= 1:
            raise ValueError(f"Expected layer_decay above 0 and at most 1, got {layer_decay}. Use 1 for no decay.")
        levels = self.layer_groups()
        above = zip(range(len(levels), 0, -1), levels, strict=True)
        return {id(parameter): layer_decay**number for number, level in above for parameter in level}

    def published_groups(self, layer_decay: float) -> list[tuple[list[torch.nn.Parameter], float, bool]] | None:
        """Optimizer groups of the authors' training code, `None` where they have none that differ from ours.

        Returns:
            Parameters, the factor of their learning rate, and whether they decay, in the authors' order.
        """
        return None

    @staticmethod
    def grouped(
        parameters: Iterable[torch.nn.Parameter],
        scales: Mapping[int, float],
        decays: Callable[[torch.nn.Parameter], bool],
    ) -> list[tuple[list[torch.nn.Parameter], float, bool]]:
        """Parameters by the factor of their learning rate, from `scales` by their ids, and whether they decay."""
        groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault((scales.get(id(parameter), 1.0), decays(parameter)), []).append(parameter)
        return [(group, *key) for key, group in groups.items()]

    def _bodies(self) -> list[Any]:
        """The released network, and its trained twin where there is one."""
        kind = type(self.base_model)
        return [module for module in self.modules() if type(module) is kind]

    @property
    def tables(self) -> dict[str, Table]:
        """Name -> what the model must be told of its parcels, and where the table that it has came from."""
        return self.config.tables

    def set_table(self, name: str, array: Any, source: str) -> None:
        """Store a table of parcels in the model, in all networks that use it; it is saved with the weights.

        Args:
            name: one of [`tables`].
            array: of its shape, rows in the order of `config.roi_order`.
            source: where it comes from, kept in the configuration.

        Raises:
            ValueError: if the model stores no such table, or the shape is wrong or values are not finite.
        """
        table = self.tables.get(name)
        if table is None or table.kept_in != "weights":
            where = f": it belongs to the {table.kept_in}" if table is not None else ""
            stored = [key for key, own in self.tables.items() if own.kept_in == "weights"]
            raise ValueError(
                f"{type(self).__name__} as it is configured stores no table {name!r}{where}. It stores "
                f"{', '.join(stored) or 'none'}."
            )
        values = torch.as_tensor(array, dtype=torch.float32)
        if tuple(values.shape) != table.shape or not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"{name} must be a finite {table.shape} table ({table.what} of each parcel), got shape "
                f"{tuple(values.shape)}{'' if tuple(values.shape) != table.shape else ' with NaN or infinity'}."
            )
        for body in self._bodies():
            getattr(body, name).copy_(values)
        setattr(self.config, self.config.table_sources[name], source)

    @classmethod
    def draw_masks(
        cls, config: Any, draws: BatchDraws, inputs: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Masks of a batch in pretraining, as arguments of `forward`: noise, or none where it draws them itself.

        They follow from the configuration and the draws alone, so that the collator makes them, in whatever process.

        Args:
            config: of the model; a Trainer may pass more options by name, which a family takes as arguments.
            draws: generators that belong to the rows and to the batch.
            inputs: the batch, whose sizes count; `None` for inputs of the sizes in the configuration.

        Raises:
            ValueError: if the grid of tokens is too small for masks by the rule of the configuration.
        """
        return draw_noise(draws, cls.n_tokens(config, inputs)) if cls.masked_by_noise else {}

    def mix_inputs(self, inputs: Mapping[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
        """Mixup: each sample with the one at the mirrored place of the batch; labels are left as they are.

        A token counts where either sample has it; what is padding in one of them is 0 there.

        Args:
            inputs: arguments of `forward`.
            share: of a sample itself, in [0, 1].

        Raises:
            ValueError: if samples differ in what cannot be mixed, such as the length of their patches.
        """
        mixed, main = dict(inputs), self.main_input_name
        own = inspect.signature(self.forward).parameters.keys() - {"labels"}  # a Trainer has more of a row
        for name, value in inputs.items():
            if name == main:
                mixed[name] = share * value + (1 - share) * value.flip(0)
            elif name == "attention_mask":
                mixed[name] = torch.maximum(value, value.flip(0))
            elif name in own and isinstance(value, torch.Tensor) and not torch.equal(value, value.flip(0)):
                raise ValueError(
                    f"Expected samples that are alike in {name} for mixup, got different ones. Leave mixup_alpha "
                    "out, or sort such scans out."
                )
        return mixed

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Do nothing: see [`BrainConfig.register_for_auto_class`]."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, strict: bool = True, **kwargs: Any
    ) -> Any:
        """Load weights as `PreTrainedModel.from_pretrained` does, and refuse what does not fit.

        Args:
            pretrained_model_name_or_path: folder, hub name or fetched name of a converted or saved model.
            strict: raise if a weight is missing (other than a new classification head) or is not part of the model.
                `False` leaves it at transformers' report.

        Raises:
            ValueError: if the folder holds another kind of model, or keys are missing or unexpected, or the
                configuration claims other sizes than the weights have; before memory is taken for them.
            OSError: if there is no such folder or file, or a weight file is truncated or corrupt.
        """
        source = BrainConfig.weights_source(pretrained_model_name_or_path)
        want_info = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("use_safetensors", True)  # pickles can hold more than weights; nothing of ours is one
        a_path = source is not None and (Path(source).is_absolute() or str(source).startswith("."))
        if a_path and not Path(source).exists():
            raise FileNotFoundError(
                f"There is no {source!s}. Expected a folder that save_pretrained or a converter wrote."
            )
        try:
            if source is not None and not isinstance(kwargs.get("config"), BrainConfig):
                cls._check_model_type(source, kwargs)
            loaded: Any = super().from_pretrained(source, *model_args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"The weights in {source!s} cannot be read: {error}. Expected a complete safetensors file; this one "
                "is truncated or corrupt. Copy or download it again."
            ) from error
        except (OSError, ImportError, MemoryError, torch.OutOfMemoryError):
            raise  # said by transformers in words of its own
        except Exception as error:  # whatever a foreign file makes transformers and us do
            if isinstance(error, ValueError) and str(source) in str(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{source!s} cannot be loaded as {cls.__name__}: {reason[:500]}. Expected a folder that "
                "save_pretrained or a converter wrote. Copy, download or convert it again."
            ) from error
        if strict:
            cls._check_loading_info(loaded[1], source)
        if loaded[0].dtype == torch.bfloat16 and not torch.cuda.is_available():
            warn_where_bfloat16_is_slow(loaded[0].device)
        return loaded if want_info else loaded[0]

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        # transformers' step between building a model without memory and filling it: what a configuration claims is
        # held against the weights here, or it would be allocated first. It is private: the tests of configurations
        # fail with a transformers that has it no longer.
        if (
            state_dict is None
            and checkpoint_files
            and all(str(file).endswith(".safetensors") for file in checkpoint_files)
        ):
            _check_shapes(model, checkpoint_files, load_config)
        return PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )

    @classmethod
    def _check_model_type(cls, source: Any, kwargs: dict[str, Any]) -> None:
        names = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies")
        config_dict, _ = BrainConfig.get_config_dict(source, **{k: kwargs[k] for k in names if k in kwargs})
        config_class: Any = cls.config_class
        found, expected = config_dict.get("model_type"), config_class.model_type
        of_the_authors = any(key in config_dict for key in config_class.authors_keys)
        if found == expected and not of_the_authors:
            return
        if found == expected or found in config_class.authors_model_types:
            raise ValueError(
                f"{source!s} looks like a checkpoint in the authors' own format (model_type {found!r}), not a "
                "converted one. Convert it once with `brain-transformers convert` and load the folder that it writes."
            )
        raise ValueError(
            f"{cls.__name__} expects a folder with model_type {expected!r}, but {source!s} holds {found!r}. "
            "Load it with AutoModel (after `import brain_transformers`), which picks the class that belongs to it."
        )

    @classmethod
    def _check_loading_info(cls, info: dict[str, Any], source: Any) -> None:
        missing = sorted(key for key in info["missing_keys"] if not key.startswith(cls._may_be_new))
        unexpected = sorted(info["unexpected_keys"])
        if not missing and not unexpected:
            return

        def shorten(keys: list[str]) -> str:
            return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")

        parts = []
        if missing:
            parts.append(f"{len(missing)} weights are missing ({shorten(missing)})")
        if unexpected:
            parts.append(f"{len(unexpected)} are not part of the model ({shorten(unexpected)})")
        raise ValueError(
            f"The weights in {source!s} do not fit {cls.__name__}: {' and '.join(parts)}. A model with random parts "
            "would give wrong results in silence. Check the folder and the class; pass strict=False only if you mean "
            "to start those parts from scratch."
        )
