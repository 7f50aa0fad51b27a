"""`transformers.pipeline("fmri-feature-extraction", model=...)`: from a scan, or the path of one, to a vector.

It is registered with the models, so nothing heavy is imported before it is called.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline

TASK = "fmri-feature-extraction"


class FMRIFeatureExtractionPipeline(Pipeline):
    """Features of scans, with a model of any family of this package and its feature extractor.

    Takes an array (n_rois, n_timepoints), an image (nibabel), a row of a dataset, the path of a file (a table of ROIs,
    CIFTI, NIfTI), or a list of those; of a whole folder or dataset `brain_transformers.embed` makes a table.

    Args of a call, or of `pipeline`:
        t_r, roi_order: what is known of the scan, where it does not say so itself.
        atlas: for 4-D images and models of parcels: label image, or name.
        pooling, window: see [`embed_dataset`].
        level: `"scan"`: mean over the windows of a scan, `(n_features,)`; `"window"`: `(n_windows, n_features)`.
        batch_size: windows in a forward pass.

    Returns:
        A float32 array for a scan, a list of those for a list.
    """

    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = True  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.feature_extractor is None:
            raise ValueError(
                f'The task "{TASK}" needs a feature extractor of this package beside the model, got none. Pass '
                "feature_extractor=, or the name of a folder that holds both."
            )
        self._processor.refuse(self.model.config)

    @property
    def _processor(self) -> Any:
        return self.feature_extractor

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        steps = (("t_r", "roi_order", "atlas", "window"), ("pooling", "windows_at_once"), ("level",))
        if unknown := sorted(set(given) - {name for names in steps for name in names}):
            raise ValueError(
                f"Expected t_r, roi_order, atlas, window, pooling, level or batch_size, got {unknown[0]}."
            )
        for name, choices in (("window", ("all", "cover", "first", "center")), ("level", ("scan", "window"))):
            if given.get(name, choices[0]) not in choices:
                raise ValueError(f"Expected {name} to be one of {list(choices)}, got {given[name]!r}.")
        pre, forward, post = ({name: given[name] for name in names if name in given} for names in steps)
        return pre, forward, post

    def __call__(self, inputs: Any, *, batch_size: int = 8, **kwargs: Any) -> Any:  # type: ignore[override]
        """Features of a scan, or of each of a list."""
        if isinstance(inputs, (str, os.PathLike)) and Path(inputs).is_dir():
            raise ValueError(f"{inputs} is a folder. Make a table of it with brain_transformers.embed(folder, model).")
        if hasattr(inputs, "with_format"):
            inputs = inputs.with_format("numpy")
            inputs = [inputs[number] for number in range(len(inputs))]
        # Scans go through one by one, since each has windows of its own; these are what a batch is made of.
        return super().__call__(inputs, batch_size=1, windows_at_once=batch_size, **kwargs)

    def preprocess(self, scan: Any, window: str = "all", **reading: Any) -> dict[str, Any]:  # type: ignore[override]
        """The windows of a scan as model inputs."""
        from .data.sources import open_scans

        known = {name: value for name, value in reading.items() if value is not None}
        if isinstance(scan, (str, os.PathLike)):
            with tempfile.TemporaryDirectory() as work:
                options = {"on_error": "raise", "of_model": self._processor.file_options, **known}
                splits, _ = open_scans(scan, self._processor.scan_columns, Path(work), **options)
                (rows,) = splits.values()
                return dict(self._processor(rows[0], window=window))
        known.pop("atlas", None)
        if isinstance(scan, Mapping):
            known = {name: value for name, value in known.items() if scan.get(name) is None}
            scan = self._processor.as_row(scan, 0)
        return dict(self._processor(scan, window=window, **known))

    def _forward(  # type: ignore[override]
        self, inputs: dict[str, Any], pooling: str = "model", windows_at_once: int = 8
    ) -> dict[str, Any]:
        from .evaluation.embedding import body_and_pooling

        body, pick = body_and_pooling(self.model, self._processor, pooling)
        body.eval()
        n_windows = len(next(iter(inputs.values())))
        found = []
        for start in range(0, n_windows, windows_at_once):
            tensors = {
                name: torch.as_tensor(value[start : start + windows_at_once], device=body.device)
                for name, value in inputs.items()
            }
            batch = {name: t.to(body.dtype) if t.is_floating_point() else t for name, t in tensors.items()}
            found.append(pick(body(**batch), batch).float())
        return {"features": torch.cat(found)}

    def postprocess(self, outputs: dict[str, Any], level: str = "scan") -> np.ndarray:  # type: ignore[override]
        """Mean over the windows, or all of them."""
        values = outputs["features"].cpu().numpy()
        if not np.isfinite(values).all():
            raise ValueError("The features are not finite. Look at the scan, its units and the weights.")
        return values.mean(0) if level == "scan" else values


def register() -> None:
    """Make the task known to `transformers.pipeline`."""
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(TASK, FMRIFeatureExtractionPipeline, pt_model=AutoModel)
