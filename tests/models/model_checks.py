"""Checks that every registered model must pass; a family brings its tiny configuration and inputs, nothing else."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import brain_transformers as bt
from brain_transformers.atlases.roi_orders import roi_order_text
from brain_transformers.data.model_tables import read_tables
from brain_transformers.hub.starting_models import complete_tables, give_tables
from brain_transformers.processing.structural import CROPPED_SHAPE, MNI_AFFINE
from brain_transformers.processing.volumes import MNI_AFFINE as VOLUMES_AFFINE

Row = dict[str, Any]

Pooling = Callable[[torch.Tensor], torch.Tensor]
CLS_POOLINGS: dict[str, Pooling] = {
    "cls": lambda tokens: tokens[:, 0],
    "mean": lambda tokens: tokens[:, 1:].mean(1),
    "mean_with_cls": lambda tokens: tokens.mean(1),
    "max": lambda tokens: tokens[:, 1:].amax(1),
}
TOKEN_POOLINGS: dict[str, Pooling] = {
    "first": lambda tokens: tokens[:, 0],
    "mean": lambda tokens: tokens.mean(1),
    "max": lambda tokens: tokens.amax(1),
}


def _wrong_series(signals: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "built for": signals[:, :-2],
        "swapped": signals.transpose(1, 2),
        "batch": signals[0],
        "n_timepoints": signals[:, :, :3],
    }


def series_rows(config: Any, folder: Path, n_timepoints: int = 120) -> list[Row]:
    """Four scans of a family of parcel series, of several windows and in the order of the configuration."""
    rng, shape = np.random.default_rng(0), (config.n_rois, n_timepoints)
    sizes = {"n_rois": shape[0], "n_timepoints": shape[1], "t_r": config.t_r or 2.0, "roi_order": ""}
    if config.roi_order is not None:
        sizes["roi_order"] = roi_order_text(config.roi_order)
    return [{"signals": rng.normal(size=shape).astype(np.float32).reshape(-1), **sizes} for _ in range(4)]


def series_example(row: Row) -> dict[str, Any]:
    """What the example of a card calls a series."""
    bold = row["signals"].reshape(row["n_rois"], row["n_timepoints"])
    return {"bold": bold, "scans": [bold], "t_r": row["t_r"]}


@dataclass(frozen=True)
class ModelCase:
    """One architecture under test.

    Attributes:
        name: named tiny configuration.
        make_inputs: batch size -> keyword arguments of the body.
        attention_mask: batch size -> a mask with padding in some samples, or `None` if the family has none.
        reconstructs: whether the pretraining head is a masked autoencoder (with noise, mask ratio and a signal to
            predict); others predict states and have tests of their own for that.
        has_cls: whether a CLS token stands in front of the sequence.
        changed: a field with another value than its default, and `wrong`: one with a value that must be refused.
        poolings: choices of `config.pooling`, and what each makes of `last_hidden_state`.
        keeps_padding: whether tokens without data stay in the sequence (as mask embeddings) and not at zero.
        passes_padding: whether they pass through the layers, attending to nothing.
        views: for heads that compare views of a scan: how many; their inputs have an axis for it after the batch.
        make_masks: batch size -> further inputs of such a head.
        frozen: parts of the pretraining model that are not trained.
        only_when_masked: parameters that only masked input reaches.
        attention_layers: field of the configuration with the number of layers that attend.
        final_norm: module that makes `last_hidden_state` of the last layer's output; `None` if nothing does.
        has_rois: whether there are tokens of single parcels.
        reads: all tokens -> those of which `last_hidden_state` is made, for families that summarise the others in
            them; `None` for all.
        padded_values: mask -> which values of the main input only padded tokens hold, for families that are no series.
        wrong_scans: scans -> words of the error -> scans that must be refused with them.
        scans: configuration and a folder for files -> four rows of a dataset of made-up scans.
        example: row -> what the example of a model card leaves to its reader; a file that it opens is `image.nii.gz`
            in the working directory.
    """

    name: str
    stem: str
    make_inputs: Callable[[int], dict[str, torch.Tensor]]
    attention_mask: Callable[[int], torch.Tensor] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    reconstructs: bool = True
    has_cls: bool = True
    changed: tuple[str, Any] = ("mask_ratio", 0.4)
    wrong: tuple[str, Any] = ("mask_ratio", 1.5)
    poolings: dict[str, Pooling] = field(default_factory=lambda: dict(CLS_POOLINGS))
    keeps_padding: bool = False
    passes_padding: bool = False
    views: int | None = None
    make_masks: Callable[[int], dict[str, torch.Tensor]] | None = None
    frozen: tuple[str, ...] = ()
    only_when_masked: tuple[str, ...] = ()
    attention_layers: str = "num_hidden_layers"
    final_norm: str | None = "layernorm"
    has_rois: bool = True
    reads: Callable[[torch.Tensor], torch.Tensor] | None = None
    padded_values: Callable[[torch.Tensor], torch.Tensor] | None = None
    wrong_scans: Callable[[torch.Tensor], dict[str, torch.Tensor]] = _wrong_series
    scans: Callable[[Any, Path], list[Row]] = series_rows
    example: Callable[[Row], dict[str, Any]] = series_example

    def config(self, **overrides: Any) -> Any:
        return bt.load_config(self.name, **{**self.overrides, **overrides})

    def build(self, kind: str, **overrides: Any) -> Any:
        """A model with seeded random weights, none of them at its initial zero or one."""
        torch.manual_seed(0)
        if kind == "ForSequenceClassification":
            overrides.setdefault("num_labels", 3)
        model = getattr(bt, f"{self.stem}{kind}")(self.config(**overrides))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        return model.eval()

    def with_scans(self, kind: str, folder: Path, **overrides: Any) -> tuple[Any, Any, list[Row]]:
        """A model as [`build`] makes it with made-up tables, its processor, fitted, and rows of scans for both."""
        model = self.build(kind, **overrides)
        config, rng = model.config, np.random.default_rng(4)
        rows = [
            {**row, "subject": f"{number:02d}", "age": 20.0 + 7 * number}
            for number, row in enumerate(self.scans(config, folder))
        ]
        processor = config.load_processor().from_model_config(config)
        tables = {
            name: rng.normal(size=table.shape).astype(np.float32)
            for name, table in config.tables.items()
            if table.kept_in != "configuration"
        }
        given = read_tables(tables, config.tables)
        give_tables(processor, given)
        if not processor.is_fitted:
            processor.fit(rows)
        complete_tables(model, processor, rows, given, "made-up")
        return model, processor, rows

    def inputs_of(self, model: Any, batch: int) -> dict[str, torch.Tensor]:
        """Keyword arguments for a model of this case, whichever of its classes it is."""
        if self.views is None or not type(model).__name__.endswith("ForMaskedModeling"):
            return self.make_inputs(batch)
        inputs = {
            name: value.unflatten(0, (batch, self.views))
            for name, value in self.make_inputs(batch * self.views).items()
        }
        return {**inputs, **(self.make_masks(batch) if self.make_masks else {})}

    def mask_of(self, model: Any, mask: torch.Tensor) -> torch.Tensor:
        """A mask of the body as the given model takes it."""
        if self.views is None or not type(model).__name__.endswith("ForMaskedModeling"):
            return mask
        return mask[:, None].expand(-1, self.views, -1)

    def tokens(self, last_hidden_state: torch.Tensor) -> torch.Tensor:
        """The sequence without CLS."""
        return last_hidden_state[:, 1:] if self.has_cls else last_hidden_state

    def in_padding(self, inputs: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor | None:
        """Which values of the main input only padded tokens hold; `None` where tokens share values."""
        if self.padded_values is not None:
            return self.padded_values(mask)
        patch_size = getattr(self.config(), "patch_size", 0)
        if "signals" not in inputs or mask.shape[1] * patch_size != inputs["signals"][0].numel():
            return None
        return (mask == 0).repeat_interleave(patch_size, dim=1).view(inputs["signals"].shape)

    def __str__(self) -> str:
        return self.name


KINDS = ("Model", "ForMaskedModeling", "ForSequenceClassification")


def _brainlm_inputs(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "signals": torch.randn(batch, 12, 40, generator=generator),
        "coordinates": (30 * torch.randn(batch, 12, 3, generator=generator)).round(),
    }


def _brainlm_padding(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, 12, 4)
    mask[0, :, 2:] = 0
    mask[1:, :, 3:] = 0
    return mask.flatten(1)


def _vit_inputs(batch: int) -> dict[str, torch.Tensor]:
    return {"signals": torch.randn(batch, 24, 40, generator=torch.Generator().manual_seed(2))}


def _vit_padding(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, 27, 27)
    mask[0, :, 13:15] = 0  # the last patch columns of a 40-timepoint window
    return mask.flatten(1)


def _jepa_inputs(batch: int) -> dict[str, torch.Tensor]:
    return {"signals": torch.randn(batch, 50, 40, generator=torch.Generator().manual_seed(2))}


def _jepa_padding(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, 50, 10)
    mask[0, :, 6:] = 0
    mask[1:, :, 8:] = 0
    return mask.flatten(1)


def _semantoks_inputs(batch: int) -> dict[str, torch.Tensor]:
    return {"signals": torch.randn(batch, 20, 40, generator=torch.Generator().manual_seed(2))}


def _semantoks_padding(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, 20, 4)
    mask[0, :, 2:] = 0
    mask[1:, :, 3:] = 0
    mask[0, 18:] = 0  # a network without data
    return mask.flatten(1)


def _semantoks_masks(batch: int) -> dict[str, torch.Tensor]:
    mask = torch.zeros(batch, 2, 5, 4, dtype=torch.bool)
    mask[:, 0, 1:4] = True
    mask[:, 1, :, 1:3] = True
    return {"bool_masked_pos": mask}


def _volumes(batch: int) -> dict[str, torch.Tensor]:
    return {"volumes": torch.randn(batch, 6, 1, 28, 24, 24, generator=torch.Generator().manual_seed(2))}


def _volumes_padding(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, 8, 6)  # patches, frames
    mask[0, :, 4:] = 0
    mask[1:, :, 5:] = 0
    return mask.flatten(1)


def _wrong_volumes(volumes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "patches": volumes[..., :8],
        "order of the axes": torch.cat([volumes, volumes], dim=5),
        "batch, n_frames": volumes[0],
        "1 to 6 frames": torch.cat([volumes, volumes], dim=1),
    }


def _volume_rows(config: Any, folder: Path) -> list[Row]:
    """Files of frames as `prepare` writes them."""
    rng, shape = np.random.default_rng(0), (2 * config.n_frames, *config.volume_size)
    scale = {"scale": 1.0, "offset": 0.0, "normalization": "zscore", "background": "min"}
    rows = []
    for number in range(4):
        np.save(folder / f"frames-{number}.npy", rng.normal(size=shape).astype(np.float16))
        rows.append({"volumes": str(folder / f"frames-{number}.npy"), "shape": shape, "dtype": "float16", **scale})
    return rows


def _volume_example(row: Row) -> dict[str, Any]:
    """The image that is read."""
    import nibabel

    values = np.load(row["volumes"]).astype(np.float32).transpose(2, 1, 3, 0)
    image = nibabel.Nifti1Image(values, VOLUMES_AFFINE)
    image.to_filename("image.nii.gz")
    return {}


def _t1_rows(config: Any, folder: Path) -> list[Row]:
    """Made-up brains: noise within an ellipsoid of a brain's size and place."""
    rng = np.random.default_rng(0)
    centre, radii = [0, -20, 13], [65, 82, 62]  # mm
    axes = [
        (MNI_AFFINE[a, a] * (np.arange(n) + f) + MNI_AFFINE[a, 3] - centre[a]) / radii[a]
        for a, (n, f) in enumerate(zip(CROPPED_SHAPE, (6, 2, 0)))
    ]
    inside = sum(axis**2 for axis in np.ix_(*axes)) < 1
    return [{"t1": inside * (1 + rng.random(CROPPED_SHAPE, dtype=np.float32))} for _ in range(4)]


def _t1_example(row: Row) -> dict[str, Any]:
    return {"t1_image": row["t1"]}


def _t1_volumes(batch: int) -> dict[str, torch.Tensor]:
    return {"t1_volumes": torch.randn(batch, 1, 20, 24, 20, generator=torch.Generator().manual_seed(2))}


def _t1_padding(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, 5, 6, 5)
    mask[0, 3:] = 0  # patches along the first axis that are not to count
    mask[1:, 4:] = 0
    return mask.flatten(1)


def _wrong_t1_volumes(volumes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "20, 24, 20": volumes[..., :16],
        "feature extractor": volumes.transpose(2, 3),
        "batch, 1": volumes[0],
        "must be": volumes.expand(-1, 3, -1, -1, -1),
    }


def _stage0_tokens(batch: int) -> dict[str, torch.Tensor]:
    return {"inputs_embeds": torch.randn(batch, 42, 24, generator=torch.Generator().manual_seed(2))}


def _stage0_rows(config: Any, folder: Path) -> list[Row]:
    rng, shape = np.random.default_rng(0), (config.n_fmri_tokens + config.n_t1_tokens, config.input_size)
    return [{"inputs_embeds": rng.normal(size=shape).astype(np.float32)} for _ in range(4)]


def _stage0_padding(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, 6, 5)  # parcels, patches
    mask[0, :, 2:] = 0
    mask[1:, :, 4:] = 0
    return mask.flatten(1)


def _wrong_tokens(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "30 tokens of fMRI": tokens[:, :-2],
        r"\(batch, 42, 24\)": tokens[:, :, :20],
        "then 12 of T1": tokens[0],
    }


def _jepa_masks(batch: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(30 * batch).view(batch, 30)
    return {"context_indices": ids[:, :20], "target_indices": ids[:, 20:]}


def _harmonix_f_inputs(batch: int) -> dict[str, torch.Tensor]:
    return {"signals": torch.randn(batch, 12, 40, generator=torch.Generator().manual_seed(2))}


def _harmonix_f_padding(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, 12, 5)
    mask[0, :, 3:] = 0
    mask[1:, :, 4:] = 0
    return mask.flatten(1)


CASES = (
    ModelCase(
        "brain-harmony-tiny",
        "BrainHarmony",
        _stage0_tokens,
        _stage0_padding,
        reconstructs=False,
        changed=("norm_pix_loss", False),
        wrong=("label_smoothing", 1.5),
        poolings={name: CLS_POOLINGS[name] for name in ("cls", "mean")},
        has_rois=False,
        make_masks=lambda batch: {},
        reads=lambda tokens: torch.cat([tokens[:, :1], tokens[:, -7:]], dim=1),
        padded_values=lambda mask: torch.nn.functional.pad(mask == 0, (0, 12))[:, :, None],
        wrong_scans=_wrong_tokens,
        scans=_stage0_rows,
        example=lambda row: {"tokens": row["inputs_embeds"]},
    ),
    ModelCase("brainlm-tiny", "BrainLM", _brainlm_inputs, _brainlm_padding),
    ModelCase("brainlm-vit-tiny", "BrainLMViT", _vit_inputs, _vit_padding),
    ModelCase(
        "brain-jepa-tiny",
        "BrainJEPA",
        _jepa_inputs,
        _jepa_padding,
        reconstructs=False,
        has_cls=False,
        changed=("mask_rule", "published"),
        wrong=("mask_observation", [0.9, 0.2]),
        poolings=dict(TOKEN_POOLINGS),
        make_masks=_jepa_masks,
        frozen=("brain_jepa",),
    ),
    ModelCase(
        "harmonix-f-tiny",
        "HarmonixF",
        _harmonix_f_inputs,
        _harmonix_f_padding,
        reconstructs=False,
        has_cls=False,
        changed=("mask_rule", "published"),
        wrong=("mask_observation", [0.9, 2]),
        poolings={"mean": TOKEN_POOLINGS["mean"]},
        passes_padding=True,
        scans=functools.partial(series_rows, n_timepoints=500),  # 48 of them a patch
        make_masks=_jepa_masks,
        frozen=("harmonix_f",),
    ),
    ModelCase(
        "brain-mt-tiny",
        "BrainMT",
        _volumes,
        _volumes_padding,
        reconstructs=False,
        poolings={name: CLS_POOLINGS[name] for name in ("cls", "mean")},
        attention_layers="num_attention_layers",
        final_norm=None,
        has_rois=False,
        make_masks=lambda batch: {"bool_masked_pos": (torch.arange(48) // 6 % 2 == 0).expand(batch, -1)},
        padded_values=lambda mask: (mask == 0).view(len(mask), 8, 6).all(1)[:, :, None, None, None, None],
        wrong_scans=_wrong_volumes,
        scans=_volume_rows,
        example=_volume_example,
    ),
    ModelCase(
        "harmonix-s-tiny",
        "HarmonixS",
        _t1_volumes,
        _t1_padding,
        has_rois=False,
        padded_values=lambda mask: (
            (mask == 0).view(-1, 1, 5, 6, 5).repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
        ),
        wrong_scans=_wrong_t1_volumes,
        scans=_t1_rows,
        example=_t1_example,
    ),
    ModelCase(
        "brain-semantoks-tiny",
        "BrainSemantoks",
        _semantoks_inputs,
        _semantoks_padding,
        reconstructs=False,
        wrong=("mask_ratio", [0.9, 0.2]),
        poolings={
            **CLS_POOLINGS,
            "cls_mean": lambda tokens: torch.cat([tokens[:, 1:].mean(1), tokens[:, 0]], dim=1),
        },
        keeps_padding=True,
        views=2,
        make_masks=_semantoks_masks,
        frozen=("brain_semantoks", "teacher_head"),
        only_when_masked=("brain_semantoks.embeddings.mask_embedding",),
    ),
)


def primary_output(output: Any) -> torch.Tensor:
    """The tensor that a user of each kind of model reads first."""
    for name in ("logits", "predictions", "last_hidden_state", "student_last_hidden_state"):
        value = getattr(output, name, None)
        if value is not None:
            return value
    raise AssertionError(f"{type(output).__name__} has no logits, predictions or hidden state")


def no_dropout(case: ModelCase) -> dict[str, float]:
    """What a configuration sets to 0 so that training is no different from evaluation."""
    return {
        name: 0.0
        for name in ("embedding_dropout", "hidden_dropout_prob", "drop_path_rate")
        if hasattr(case.config(), name)
    }
