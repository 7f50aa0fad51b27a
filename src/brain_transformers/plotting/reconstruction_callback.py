"""A picture of what the model reconstructs, at every evaluation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..files import whole_file
from ..optional import require
from ..training.masked.arguments import MAETrainingArguments
from .signals import plot_reconstruction

logger = logging.get_logger(__name__)


class ReconstructionPlotCallback(TrainerCallback):
    """Saves `reconstructions/step-N.png` in the output folder after every evaluation.

    The picture shows measured and reconstructed series of the first masked window of the evaluation set, the same
    window and mask each time. It stays out of what a Trainer of this package uploads. Nothing is drawn from global
    generators, so a run with pictures equals one without.

    Args:
        row: row of the evaluation set.
        plot: `(target, prediction, mask, title=...)`, each `(n_rois, n_timepoints)`, to a matplotlib figure.
        rois: rows of the window to draw, given to `plot` if set.
        dpi: resolution of the PNG.

    Raises:
        ImportError: without matplotlib (extra `plot`).
    """

    def __init__(
        self,
        row: int = 0,
        *,
        plot: Callable[..., Any] = plot_reconstruction,
        rois: Sequence[int] | None = None,
        dpi: int = 120,
    ):
        self.row = row
        if plot is plot_reconstruction:  # now, and not at the first evaluation
            require("matplotlib", extra="plot", purpose="pictures of reconstructions")
        self.plot = plot
        self.rois = rois
        self.dpi = dpi

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the picture, on the main process."""
        model, dataloader = kwargs.get("model"), kwargs.get("eval_dataloader")
        if not state.is_world_process_zero or model is None or dataloader is None:
            return
        batch = dataloader.collate_fn([dataloader.dataset[self.row % len(dataloader.dataset)]])
        inputs = {
            name: value.to(args.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()
        }
        options = args.mask_arguments(model) if isinstance(args, MAETrainingArguments) else {}
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                outputs = model(**inputs, **options)
        finally:
            model.train(was_training)
        target, prediction, mask = (
            outputs[name][0].float().cpu().numpy() for name in ("targets", "predictions", "signal_mask")
        )
        path = Path(str(args.output_dir)) / "reconstructions" / f"step-{state.global_step}.png"
        extra = {} if self.rois is None else {"rois": self.rois}
        figure = self.plot(target, prediction, mask, title=f"after {state.global_step} steps", **extra)
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=self.dpi)
        logger.info(f"Reconstruction drawn to {path}")
