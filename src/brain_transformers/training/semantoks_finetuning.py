"""Fine-tuning as the Brain-Semantoks authors do it: a random augmented crop a scan, layer-wise decay, averaged logits.

Source: Gijsen et al., "Brain-Semantoks", ICLR 2026, and the released fine-tuning configuration.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from ..data.collators import ROISeriesCollator, unpack_row
from ..processing.feature_extraction_roi_series import ROISeriesFeatureExtractor
from .arguments import FineTuningArguments
from .distillation_groups import semantoks_parameter_groups
from .distillation_schedules import FINETUNING_SCHEDULES, finetuning_lr
from .distillation_views import FINETUNING_AUGMENTATION, check_levels, draw_augmentation, regular_starts
from .schedules import scaled_learning_rate
from .seeded_rows import EPOCH, RowRandomness
from .seeded_trainer import SeededTrainer


@dataclass
class SemantoksFineTuningArguments(FineTuningArguments):
    """`FineTuningArguments` with the values of the Brain-Semantoks authors, for [`SemantoksFineTuner`].

    Batches of 16, 50 epochs, learning rate 1e-4 per 256 samples (6.25e-6 for 16), weight decay 0.05, a cosine by epoch
    to 0, gradients clipped at norm 1.

    Args:
        base_learning_rate: for 256 samples an update.
        learning_rate: as it is; `None` computes it from `base_learning_rate`.
        schedule: `"cosine"`, `"linear"` or `"constant"`, by epoch.
        lr_warmup_epochs: epochs of warm-up, from a tenth of the rate.
        min_learning_rate: where the schedule ends.
        layer_decay: factor between the learning rates of neighbouring layers.
        published_parameter_groups: groups as in the authors' code, where tokenizers have the full rate.
        augmentation: levels of parcels, time, noise and scale.
    """

    base_learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate for 256 samples an update."})
    schedule: str = field(default="cosine", metadata={"help": "cosine, linear or constant, by epoch."})
    lr_warmup_epochs: int = field(default=0, metadata={"help": "Epochs of warm-up, from a tenth of the rate."})
    min_learning_rate: float = field(default=0.0, metadata={"help": "Where the schedule ends."})
    layer_decay: float = field(default=1.0, metadata={"help": "Factor between rates of neighbouring layers."})
    published_parameter_groups: bool = field(default=False, metadata={"help": "Groups as in the authors' code."})
    augmentation: list[int] = field(
        default_factory=lambda: list(FINETUNING_AUGMENTATION),
        metadata={"help": "Levels from 0 to 3: parcels set to 0, time set to 0, noise, scale."},
    )

    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Learning rate; by default base_learning_rate scaled with the batch."}
    )
    num_train_epochs: float = field(default=50.0, metadata={"help": "Passes over the training set."})

    def __post_init__(self) -> None:
        if self.schedule not in FINETUNING_SCHEDULES:
            raise ValueError(f"Expected schedule to be one of {list(FINETUNING_SCHEDULES)}, got {self.schedule!r}.")
        check_levels(self.augmentation)
        super().__post_init__()
        if self.learning_rate is None:
            samples = self.train_batch_size * self.gradient_accumulation_steps * self.world_size
            self.learning_rate = scaled_learning_rate(self.base_learning_rate, samples)


class AugmentedCropCollator:
    """One random crop a scan with its label; augmented in training, as it is in evaluation.

    Args:
        extractor: the model's feature extractor.
        label_column: column that becomes `labels`.
        seed: of the run.
        augmentation: levels of parcels, time, noise and scale.
        label2id: numbers of text labels.
    """

    def __init__(
        self,
        extractor: ROISeriesFeatureExtractor,
        label_column: str,
        *,
        seed: int,
        augmentation: int | Sequence[int] = FINETUNING_AUGMENTATION,
        label2id: Mapping[str, int] | None = None,
    ):
        self.levels = check_levels(augmentation)
        self._views = RowRandomness(seed, "view")
        self._collator = ROISeriesCollator(
            extractor, label_column, label2id=label2id, window="random", rng_for_row=RowRandomness(seed, "window")
        )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows of `SeededRows`."""
        batch = self._collator(rows)
        if int(rows[0][EPOCH]) >= 0 and any(self.levels):
            n_rois, n_timepoints = batch["signals"].shape[1:]
            changed = [
                draw_augmentation(self.levels, n_rois, n_timepoints, self._views(row))(crop.numpy())
                for row, crop in zip(rows, batch["signals"], strict=True)
            ]
            batch["signals"] = torch.from_numpy(np.stack(changed))
        return batch


class SemantoksFineTuner(SeededTrainer):
    """Fine-tunes `BrainSemantoksForSequenceClassification` with the authors' groups and schedule.

    Args:
        model: the classifier.
        args: training arguments.
        label_column: column of the rows that holds the label.
        label2id: numbers of text labels.
        kwargs: everything else that [`SeededTrainer`] takes; `processing_class` is the model's extractor.
    """

    args: SemantoksFineTuningArguments

    def __init__(
        self,
        model: Any,
        args: SemantoksFineTuningArguments,
        label_column: str,
        *,
        label2id: Mapping[str, int] | None = None,
        processing_class: Any = None,
        **kwargs: Any,
    ):
        seed = args.seed if args.data_seed is None else args.data_seed
        collator = AugmentedCropCollator(
            processing_class, label_column, seed=seed, augmentation=args.augmentation, label2id=label2id
        )
        super().__init__(model, args, collator, processing_class=processing_class, **kwargs)
        self._batches_per_epoch = 1

    def get_train_dataloader(self) -> DataLoader:
        """Dataloader of the training set."""
        loader = super().get_train_dataloader()
        self._batches_per_epoch = max(len(loader), 1)
        return loader

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """AdamW (or what `args.optim` names) over the groups of [`semantoks_parameter_groups`]."""
        if self.optimizer is None:
            args, network = self.args, self.model
            assert network is not None
            assert args.learning_rate is not None
            kind, options = self.get_optimizer_cls_and_kwargs(args, network)  # type: ignore[arg-type]
            head: Any = getattr(network, "classifier", None)
            groups = semantoks_parameter_groups(
                network,
                learning_rate=args.learning_rate,
                weight_decay=args.weight_decay,
                layer_decay=args.layer_decay,
                published=args.published_parameter_groups,
                head=head.parameters() if head is not None else None,
            )
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """The schedule by epoch."""
        if self.lr_scheduler is None:
            args, optimizer = self.args, optimizer or self.optimizer
            assert optimizer is not None
            assert args.learning_rate is not None
            per_epoch = max(math.ceil(self._batches_per_epoch / args.gradient_accumulation_steps), 1)
            epochs = max(math.ceil(num_training_steps / per_epoch), 1)
            options: dict[str, Any] = {
                "peak": 1.0,
                "epochs": epochs,
                "schedule": args.schedule,
                "warmup_epochs": args.lr_warmup_epochs,
                "min_lr": args.min_learning_rate / args.learning_rate,
            }
            self.lr_scheduler = LambdaLR(
                optimizer, lambda step: finetuning_lr(min(step // per_epoch, epochs - 1), **options)
            )
        return self.lr_scheduler


@torch.no_grad()
def predict_crops(
    model: Any, rows: Sequence[Mapping[str, Any]], extractor: ROISeriesFeatureExtractor, n_crops: int = 8
) -> torch.Tensor:
    """Logits of evenly spaced crops of each scan, `(n_scans, n_crops, num_labels)`; average them over the crops.

    (The authors test on random crops, so that their results vary between runs.)

    Args:
        model: a classifier.
        rows: rows of a scan dataset.
        extractor: the model's feature extractor.
        n_crops: crops a scan; they overlap where the scan is short, and are all the same where it is shorter than one.
    """
    model.eval()
    device = next(model.parameters()).device
    logits = []
    for row in rows:
        signals, roi_order, t_r = unpack_row(row)
        whole = signals.shape[1]
        if t_r is not None and extractor.t_r is not None:
            whole = math.floor((whole - 1) * t_r / extractor.t_r + 1e-6) + 1
            if abs(t_r - extractor.t_r) <= extractor.t_r_tolerance * extractor.t_r:
                whole = signals.shape[1]
        starts = regular_starts(max(whole - extractor.n_timepoints, 0), n_crops).tolist()
        crops = [
            extractor(signals, t_r=t_r, roi_order=roi_order, start=start, return_tensors="pt") for start in starts
        ]
        inputs = {name: torch.cat([crop[name] for crop in crops]).to(device) for name in crops[0]}
        logits.append(model(**inputs).logits.float().cpu())
    return torch.stack(logits)
