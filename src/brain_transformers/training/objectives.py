"""How each model learns in pretraining: the arguments and the Trainer that belong to its objective."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Objective:
    """One way to pretrain; its classes are imported when they are asked for.

    Attributes:
        name: `objective` of the families that learn this way.
        arguments_name, trainer_name: classes in `brain_transformers.training`.
        released: the network that `AutoModel` takes from the saved folder.
    """

    name: str
    arguments_name: str
    trainer_name: str
    released: str

    @property
    def arguments_class(self) -> Any:
        """The subclass of `TrainingArguments` with the published recipe as defaults."""
        from brain_transformers import training

        return getattr(training, self.arguments_name)

    @property
    def trainer_class(self) -> Any:
        """The Trainer."""
        from brain_transformers import training

        return getattr(training, self.trainer_name)

    def has_flag(self, flag: str) -> bool:
        """Whether its arguments have a flag such as `--mask-ratio`."""
        field = flag.lstrip("-").replace("-", "_")
        return bool(
            {field, field.removeprefix("no_")} & {entry.name for entry in dataclasses.fields(self.arguments_class)}
        )


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("masked reconstruction", "MAETrainingArguments", "MAETrainer", "the encoder"),
        Objective(
            "latent prediction",
            "JEPATrainingArguments",
            "JEPATrainer",
            "the target encoder (the moving average of the context encoder)",
        ),
        Objective(
            "self-distillation",
            "SelfDistillationTrainingArguments",
            "SelfDistillationTrainer",
            "the teacher (the moving average of the student)",
        ),
    )
}
