"""A tiny BrainHarmony that holds its encoders, and people for it as files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

import brain_transformers as bt
from brain_transformers.processing.structural import MNI_AFFINE
from tests.models.model_checks import ModelCase, _t1_rows, series_example, series_rows


def composed(kind: str = "Model") -> Any:
    """A model that holds its encoders, with made-up tables."""
    torch.manual_seed(0)
    tiny = bt.load_config("brain-harmony-tiny").to_diff_dict()
    fields = {name: tiny[name] for name in tiny if name.endswith(("_size", "_heads", "_layers", "_hub_tokens"))}
    fields.pop("input_size")
    fmri = bt.HarmonixFModel(bt.load_config("harmonix-f-tiny"))
    t1 = bt.HarmonixSModel(bt.load_config("harmonix-s-tiny"))
    whole = getattr(bt, f"BrainHarmony{kind}").of_encoders(fmri, t1, **fields)
    rng = np.random.default_rng(0)
    for name in ("gradients", "harmonics"):
        shape = tuple(getattr(fmri, name).shape)
        whole.set_table(name, rng.normal(size=shape).astype(np.float32), "made up")
    return whole.eval()


def composed_folder(folder: Path, kind: str = "ForMaskedModeling") -> Path:
    """That model as a folder with its processor."""
    whole = composed(kind)
    make = bt.BrainHarmonyProcessor.from_model_config(whole.config, normalization="zscore")
    return bt.save_model_folder(whole, folder, extractor=make)


def write_people(folder: Path, bold: tuple[str, ...], t1: tuple[str, ...], n_timepoints: int = 60) -> Path:
    """`bold/` with series of these people, `t1/` with images, `order.txt`, and a table of participants."""
    import nibabel

    config, rng = bt.load_config("harmonix-f-tiny"), np.random.default_rng(0)
    (folder / "order.txt").write_text("\n".join(config.roi_order))
    for name in ("bold", "t1"):
        (folder / name).mkdir(parents=True)
    for person in bold:
        series = rng.normal(size=(config.n_rois, n_timepoints)).astype(np.float32)
        np.save(folder / "bold" / f"sub-{person}_bold.npy", series)
    affine = MNI_AFFINE.copy()
    affine[:3, 3] = (MNI_AFFINE @ [6, 2, 0, 1])[:3]
    for person, row in zip(t1, _t1_rows(None, folder) * 2):
        image = nibabel.Nifti1Image((100 * row["t1"]).astype(np.uint8), affine)
        image.set_sform(affine, 4)
        image.to_filename(folder / "t1" / f"sub-{person}_T1w.nii.gz")
    everyone = sorted({*bold, *t1})
    rows = [f"sub-{person}\t{20 + 3 * n}\t{'ab'[n % 2]}" for n, person in enumerate(everyone)]
    (folder / "bold" / "participants.tsv").write_text("\n".join(["participant_id\tage\tgroup", *rows]) + "\n")
    return folder


class _Composed(ModelCase):
    """BrainHarmony with its encoders, which takes scans and volumes, as a case of the checks of all families."""

    def config(self, **overrides: Any) -> Any:
        config = composed().config
        for name, value in overrides.items():
            setattr(config, name, value)
        return config

    def __str__(self) -> str:
        return "composed-brain-harmony"


def _rows(config: Any, folder: Path) -> list[dict[str, Any]]:
    """Pairs whose volumes are in their rows."""
    series = series_rows(config.fmri_config, folder, 600)
    empty = dict.fromkeys(("shape", "dtype", "mean", "deviation"))
    return [{**one, **empty, **other} for one, other in zip(series, _t1_rows(None, folder))]


COMPOSED = _Composed(
    "brain-harmony-tiny",
    "BrainHarmony",
    lambda batch: {"signals": torch.zeros(batch, 12, 40), "t1_volumes": torch.zeros(batch, 1, 20, 24, 20)},
    scans=_rows,
    example=lambda row: {**series_example(row), "t1": row["t1"]},
)
