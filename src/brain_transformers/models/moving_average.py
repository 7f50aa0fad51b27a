"""Networks that follow trained ones as moving averages: targets of latent prediction, teachers of distillation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

if TYPE_CHECKING:
    from .modeling_base import BrainPreTrainedModel as _Model
else:
    _Model = object  # transformers would take the configuration class of a mixin for that of the family


def check_moving_average(model: Any) -> None:
    """Raise TypeError for a model that has no moving average of what it trains."""
    if not isinstance(model, MovingAverageMixin):
        raise TypeError(
            f"Expected a model with a target network or teacher, got {type(model).__name__}. Use the "
            "...ForMaskedModeling class of a family that learns from its own moving average."
        )


class MovingAverageMixin(_Model):
    """A pretraining model with moving averages of what it trains; stands in front of a family's `...PreTrainedModel`.

    The averages start as copies, get no gradients, stay in evaluation mode and are saved with the model. Whoever
    trains calls [`update_moving_average`] after each optimizer step, as the Trainers of this package do.
    """

    # Names of buffers that are averaged beside the parameters, as position tables that the authors keep as such.
    averaged_buffers: tuple[str, ...] = ()
    # Whether the product `(1 - momentum) * trained` is rounded on its own, which differs from an interpolation by
    # about 1e-7 a step.
    rounds_product = False

    # Name of the trained twin of the network that is released, which is its moving average.
    trained_twin = "context_encoder"
    # Names of further averages -> what they follow; those that a model does not have are left out.
    followers: ClassVar[Mapping[str, str]] = {}

    def averages(self) -> list[tuple[nn.Module, nn.Module]]:
        """Each moving average with what it follows; first the network that is released and its trained twin."""
        pairs = {self.base_model_prefix: self.trained_twin, **self.followers}
        return [(getattr(self, a), getattr(self, b)) for a, b in pairs.items() if getattr(self, a) is not None]

    def post_init(self) -> None:
        """Initialise the weights; the averages start as copies."""
        super().post_init()
        self.sync_moving_average()
        self.freeze_moving_average()

    @torch.no_grad()
    def sync_moving_average(self) -> None:
        """Make the averages exact copies of what they follow, as at the start of training."""
        for average, trained in self.averages():
            theirs = dict([*trained.named_parameters(), *trained.named_buffers()])
            for name, mine in [*average.named_parameters(), *average.named_buffers()]:
                mine.copy_(theirs[name])

    def freeze_moving_average(self) -> None:
        """Take the averages out of training; needed again whenever weights were loaded by hand."""
        for average, _ in self.averages():
            average.requires_grad_(False)

    def averaged_tensors(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Tensors of the averages and those that they follow, in the same order."""

        def tensors(network: nn.Module) -> list[torch.Tensor]:
            tables = [b for name, b in network.named_buffers() if name.rpartition(".")[2] in self.averaged_buffers]
            return [*network.parameters(), *tables]

        pairs = self.averages()
        return [t for average, _ in pairs for t in tensors(average)], [t for _, own in pairs for t in tensors(own)]

    @torch.no_grad()
    def update_moving_average(self, momentum: float) -> None:
        """Move the averages: `average = momentum * average + (1 - momentum) * trained`; 0 copies, 1 keeps."""
        averages, trained = self.averaged_tensors()
        if not self.rounds_product:
            torch._foreach_lerp_(averages, trained, 1.0 - momentum)
        elif averages[0].device.type == "cpu":
            # Joint operations save launches on an accelerator; here they would only hold all products at once.
            for average, tensor in zip(averages, trained, strict=True):
                average.mul_(momentum).add_(tensor * (1.0 - momentum))
        else:
            moved = torch._foreach_mul(trained, 1.0 - momentum)
            torch._foreach_mul_(averages, momentum)
            torch._foreach_add_(averages, moved)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """See [`BrainPreTrainedModel.from_pretrained`]; the averages come frozen, which is not saved."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_moving_average()
        return loaded

    def train(self, mode: bool = True) -> Any:
        """Set the mode of what is trained; the averages stay in evaluation mode."""
        super().train(mode)
        for average, _ in self.averages():
            average.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings of the network that is trained."""
        trained: Any = self.averages()[0][1]
        return trained.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embeddings of the network that is trained."""
        trained: Any = self.averages()[0][1]
        trained.set_input_embeddings(value)
