"""The head for classification and regression, one for all families."""

import inspect
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.utils import ModelOutput, can_return_tuple

from ..layers.masking import check_tensor

if TYPE_CHECKING:
    from .modeling_base import BrainPreTrainedModel as _Model
else:
    _Model = object  # transformers would take the configuration class of a mixin for that of the family


@dataclass
class BrainClassifierOutput(ModelOutput):
    """Output of a sequence-classification (or regression) head.

    Args:
        loss: the loss if `labels` were given; with joint reconstruction, the weighted sum of the two partial losses.
        logits: `(batch, num_labels)`; after the sigmoid if `config.sigmoid_outputs`.
        raw_logits: `(batch, num_labels)` before the sigmoid; `None` unless `config.sigmoid_outputs`.
        classification_loss, reconstruction_loss: the parts of `loss` with joint reconstruction.
        token_mask: `(batch, n_tokens)`, 1 for hidden tokens; `None` without masking.
        last_hidden_state, pooler_output, hidden_states, attentions: of the body.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    raw_logits: torch.Tensor | None = None
    classification_loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    token_mask: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def classifier_output(
    outputs: Any, logits: torch.Tensor, loss: torch.Tensor | None, **others: Any
) -> BrainClassifierOutput:
    """Output of a head over the output of a body; `others` are fields to add or to set otherwise than the body."""
    names = ("token_mask", "last_hidden_state", "pooler_output", "hidden_states", "attentions")
    return BrainClassifierOutput(loss=loss, logits=logits, **{**{name: outputs.get(name) for name in names}, **others})


def check_labels(labels: torch.Tensor, logits: torch.Tensor, problem_type: str | None) -> None:
    """Raise ValueError unless `labels` are those of `logits` `(batch, num_labels)`; values are looked at on a CPU.

    Args:
        labels: `(batch,)` or `(batch, 1)` class ids or numbers, or `(batch, num_labels)`.
        logits: output of the head.
        problem_type: of the configuration.
    """
    batch, num_labels = logits.shape
    check_tensor("labels", labels)
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    classes = problem_type == "single_label_classification" or (problem_type is None and num_labels > 1 and whole)
    shapes = [(batch,), (batch, 1)] if classes or num_labels == 1 else [(batch, num_labels)]
    if tuple(labels.shape) not in shapes or (classes and not whole):
        kind = "class ids (int64)" if classes else "numbers"
        raise ValueError(
            f"labels must be {kind} of shape {' or '.join(map(str, shapes))} for {num_labels} outputs, got "
            f"{labels.dtype} {tuple(labels.shape)}. Set problem_type and num_labels when the model is loaded."
        )
    if classes and labels.device.type == "cpu" and not torch.compiler.is_compiling():
        outside = labels[(labels >= num_labels) | ((labels < 0) & (labels != -100))]
        if len(outside):
            raise ValueError(
                f"labels must be class ids from 0 to {num_labels - 1}, got {int(outside.flatten()[0])}. Load the "
                "model with num_labels, or number the classes from 0."
            )


def are_shares(labels: Any, logits: torch.Tensor, problem_type: str | None) -> bool:
    """Whether labels are shares of classes, float as `logits` `(batch, num_labels)`, and not one class a sample."""
    whole = not isinstance(labels, torch.Tensor) or not labels.is_floating_point()
    return problem_type == "single_label_classification" and not whole and labels.shape == logits.shape


def three_layers(width: int, hidden_size: int, num_labels: int, dropout: float) -> nn.Sequential:
    """The MLP that the authors of BrainLM and of BrainHarmony fine-tune."""
    parts = OrderedDict[str, nn.Module]()
    for name, size in (("1", width), ("2", hidden_size)):
        # The dropout comes before the ReLU, as in the authors' code.
        parts[f"fc{name}"] = nn.Linear(size, hidden_size)
        parts[f"dropout{name}"] = nn.Dropout(dropout)
        parts[f"activation{name}"] = nn.ReLU()
    return nn.Sequential(OrderedDict(parts, fc3=nn.Linear(hidden_size, num_labels)))


class NormedHead(nn.Module):
    """LayerNorm on the pooled vector, or none, then parts by name: logits, and the vector after the norm."""

    def __init__(self, norm: nn.Module | None, **parts: nn.Module | None):
        super().__init__()
        self.norm = norm
        self.parts = tuple(name for name, part in parts.items() if part is not None)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = pooled if self.norm is None else self.norm(pooled)
        output = pooled
        for name in self.parts:
            output = self.get_submodule(name)(output)
        return output, pooled


class BrainForSequenceClassification(_Model):
    """A body with a head for classification or regression; stands in front of a family's `...PreTrainedModel`.

    The loss follows `config.problem_type` as in transformers: one label is regression, integer labels are classes,
    several float labels are multi-label. A family sets `body_class`; where its head is one of its own it writes
    `add_head`, `predict` or `classification_loss`.
    """

    body_class: type[Any]
    _may_be_new = ("classifier.",)

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "body_class" in cls.__dict__ and "forward" not in cls.__dict__:
            cls.forward = _forward_with_arguments_of(cls.body_class)

    def __init__(self, config: Any):
        super().__init__(config)
        self.num_labels = int(config.num_labels or 0)
        setattr(self, self.base_model_prefix, self.body_class(config))
        self.add_head()
        self.post_init()

    def add_head(self) -> None:
        """Set `classifier`, and whatever stands beside it; by default linear, or BrainLM's three-layer MLP."""
        config: Any = self.config
        width, dropout = config.hidden_size, config.classifier_dropout
        if config.classifier_head == "linear":
            self.classifier: nn.Module = nn.Linear(width, self.num_labels)
            return
        self.classifier = three_layers(width, width // 2, self.num_labels, dropout)

    def body_options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the body that the head sets; `asked` are those of the call, which go before them."""
        return {}

    def predict(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `(batch, num_labels)` of pooled vectors, and the vectors that they were read from: of a head that
        gives both, such as a [`NormedHead`], those."""
        output = self.classifier(pooled)
        return output if isinstance(output, tuple) else (output, pooled)

    def classification_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of transformers for the kind of problem that the configuration names or the labels imply.

        With `problem_type` `"single_label_classification"`, float labels `(batch, num_labels)` are shares of the
        classes, as mixing samples gives them: their loss is the cross entropy.
        """
        if are_shares(labels, logits, self.config.problem_type):
            return nn.functional.cross_entropy(logits, labels.to(logits.dtype))
        check_labels(labels, logits, self.config.problem_type)
        if self.config.problem_type == "multi_label_classification":
            labels = labels.reshape(logits.shape).to(logits.dtype)  # one logit may come with labels (batch,)
        return self.loss_function(labels, logits, self.config)

    def classify(self, outputs: Any, labels: torch.Tensor | None) -> BrainClassifierOutput:
        """Labels, and their loss if they are known, from the output of the body."""
        logits, pooled = self.predict(outputs.pooler_output)
        loss = None if labels is None else self.classification_loss(logits, labels)
        return classifier_output(outputs, logits, loss, pooler_output=pooled)


def _forward_with_arguments_of(body_class: type[Any]) -> Any:
    """`forward` of a head, whose signature, by which the Trainer chooses columns, is that of the body and `labels`."""

    @can_return_tuple
    def forward(self: Any, *inputs: Any, labels: torch.Tensor | None = None, **kwargs: Any) -> BrainClassifierOutput:
        """Predict labels; other arguments as those of the body.

        Args:
            labels: `(batch,)` class ids or numbers, or `(batch, num_labels)`.
        """
        options = {**self.body_options(kwargs), **kwargs}
        return self.classify(self.base_model(*inputs, return_dict=True, **options), labels)

    *inputs, rest = inspect.signature(body_class.forward).parameters.values()
    label = inspect.Parameter("labels", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=torch.Tensor | None)
    forward.__signature__ = inspect.Signature([*inputs, label, rest], return_annotation=BrainClassifierOutput)
    return forward
