"""Scans and T1 volumes together, for a BrainHarmony model that holds its encoders."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from ..models.remote_code import shim_reference, write_shim
from .harmonix import HarmonixFFeatureExtractor
from .structural import T1FeatureExtractor


class BrainHarmonyProcessor(ProcessorMixin):
    """BOLD series and T1 volumes of the same people become the inputs of one model.

        inputs = processor(bold, t1, t_r=0.735, return_tensors="pt")
        features = model(**inputs).pooler_output

    Either may be left out. A model takes the tokens of what is missing as masked, for which it was never trained.

    Args:
        fmri_feature_extractor: of Harmonix-F.
        t1_feature_extractor: of Harmonix-S.

    Raises:
        TypeError: for other extractors.
    """

    auto_class = "AutoProcessor"
    tags = ("neuroimaging", "fmri", "mri")
    model_input_names = ["signals", "attention_mask", "patch_size", "t1_volumes"]

    def __init__(self, fmri_feature_extractor: Any, t1_feature_extractor: Any) -> None:
        for given, kind in (
            (fmri_feature_extractor, HarmonixFFeatureExtractor),
            (t1_feature_extractor, T1FeatureExtractor),
        ):
            if not isinstance(given, kind):
                raise TypeError(f"Expected a {kind.__name__}, got {type(given).__name__}.")
        super().__init__(fmri_feature_extractor, t1_feature_extractor)
        self.fmri_feature_extractor = fmri_feature_extractor
        self.t1_feature_extractor = t1_feature_extractor

    @classmethod
    def from_model_config(cls, config: Any, **overrides: Any) -> "BrainHarmonyProcessor":
        """The processor of a model that holds both encoders; `overrides` are arguments of Harmonix-F's extractor."""
        return cls(
            HarmonixFFeatureExtractor.from_model_config(config.fmri_config, **overrides),
            T1FeatureExtractor.from_model_config(config.t1_config),
        )

    def __call__(
        self,
        bold: Any = None,
        t1: Any = None,
        *,
        affine: Any = None,
        return_tensors: str | None = None,
        return_windows: bool = False,
        **known: Any,
    ) -> BatchFeature:
        """Make a batch of model inputs.

        Args:
            bold: one scan (n_rois, n_timepoints) or several, or rows of a dataset; see [`HarmonixFFeatureExtractor`].
            t1: one T1 volume or several, as images, arrays or rows; see [`T1FeatureExtractor`].
            affine: of T1 volumes that are arrays.
            return_tensors: `"pt"` or `"np"`.
            return_windows: also return `scan_index` and `window_start`.
            known: what is known of the scans, such as `t_r`, and which windows to cut of them; a T1 volume is repeated
                for each window of its person's scan.

        Returns:
            `signals`, `patch_size` and, where something is padded, `attention_mask`; `t1_volumes`.

        Raises:
            ValueError: if both are missing, their numbers differ, or one cannot be used.
        """
        if bold is None and t1 is None:
            raise ValueError("Expected bold, t1 or both, got none of them.")
        batch: dict[str, Any] = {}
        if bold is None and known:
            raise ValueError(f"{next(iter(known))} is known of scans: pass bold, or leave it out.")
        if bold is not None:
            batch |= self.fmri_feature_extractor(bold, return_windows=True, **known)
        if t1 is not None:
            volumes = self.t1_feature_extractor(t1, **({} if affine is None else {"affine": affine}))["t1_volumes"]
            owners = batch.get("scan_index", np.arange(len(volumes)))
            if bold is not None and int(owners.max()) + 1 != len(volumes):
                raise ValueError(
                    f"Expected a T1 volume for each scan, got {len(volumes)} for {int(owners.max()) + 1}. Pass them "
                    "in the same order, and people without one of them by themselves."
                )
            batch["t1_volumes"] = volumes[owners]
        if not return_windows:
            batch = {name: value for name, value in batch.items() if name not in ("scan_index", "window_start")}
        return BatchFeature(batch, tensor_type=return_tensors)

    # --- what the extractor of one modality has as well ---

    @property
    def is_fitted(self) -> bool:
        """See [`ScanProcessor.is_fitted`]."""
        return self.fmri_feature_extractor.is_fitted

    def fit(self, scans: Iterable[Any], **known: Any) -> "BrainHarmonyProcessor":
        """Fit the scale of the scans; see [`ScanProcessor.fit`]. T1 volumes have none."""
        self.fmri_feature_extractor.fit(scans, **known)
        return self

    def describe(self) -> dict[str, str]:
        """See [`ScanProcessor.describe`]."""
        fmri, t1 = self.fmri_feature_extractor.describe(), self.t1_feature_extractor.describe()
        return {**fmri, **{f"T1: {name}": words for name, words in t1.items()}}

    def refuse(self, config: Any) -> None:
        """See [`ScanProcessor.refuse`]."""
        self.fmri_feature_extractor.refuse(config.fmri_config)
        self.t1_feature_extractor.refuse(config.t1_config)

    def example(self, config: Any) -> tuple[str, str, str]:
        """See [`ScanProcessor.example`]."""
        call, fit, scan = self.fmri_feature_extractor.example(config.fmri_config)
        bold, _, known = call.partition(", ")
        return f"{bold}, t1, {known}", fit, f"{scan}, beside a T1 image without skull in MNI152"

    # --- saving ---

    @staticmethod
    def get_possibly_dynamic_module(module_name: str) -> Any:
        """The class of a part, by its name in a file; transformers would also look where torchvision is needed."""
        own = {kind.__name__: kind for kind in (HarmonixFFeatureExtractor, T1FeatureExtractor)}
        return own.get(module_name) or ProcessorMixin.get_possibly_dynamic_module(module_name)

    def to_dict(self) -> dict[str, Any]:
        """As `ProcessorMixin.to_dict`; the model's configuration, and no name in this file, says which class it is."""
        output = super().to_dict()
        output.pop("processor_class", None)  # transformers knows ours only once a configuration of ours was made
        return {**output, "auto_map": {"AutoProcessor": shim_reference(type(self).__name__)}}

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Write `processor_config.json`, and beside it the module that its `auto_map` refers to."""
        if not Path(save_directory).is_file():  # transformers reports that one
            write_shim(save_directory, [type(self).__name__])
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load `processor_config.json` of a folder or of the Hub, as transformers does.

        Raises:
            OSError: if there is none, or it is no JSON.
            ValueError: if it holds what no processor can be; the message names the file.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError:
            raise
        except Exception as error:  # a damaged file fails in as many ways as there are fields
            raise ValueError(
                f"{pretrained_model_name_or_path}: processor_config.json is damaged or was not written by this "
                f"package: {str(error) or type(error).__name__} Save the processor again, or convert the checkpoint."
            ) from error

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoProcessor") -> None:
        """Do nothing: see [`ScanProcessor.register_for_auto_class`]."""
