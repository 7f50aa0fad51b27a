"""What reads files of others: one small entry a reader. Add yours with `@target(name, make)`.

`make(folder)` writes one good input into an empty folder and returns the files of it that may be damaged (their suffix
decides how). The decorated function is called with the folder of a damaged copy and uses the public way in; what it
returns is searched for bytes of foreign files. The undamaged input must pass.
"""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests" / "golden"
N_ROIS, N_TIMEPOINTS = 12, 40
LABELS = [f"parcel-{number}" for number in range(N_ROIS)]


@dataclass(frozen=True)
class Target:
    """One reader: how its good input is made, how it is called, and its share of the inputs."""

    make: Callable[[Path], list[Path]]
    call: Callable[[Path], Any]
    weight: float
    named: bool


TARGETS: dict[str, Target] = {}


def target(
    name: str, make: Callable[[Path], list[Path]], weight: float = 1.0, named: bool = True
) -> Callable[[Any], Any]:
    """Register the decorated function under `name`.

    Args:
        name: what it is called in reports.
        make: see above.
        weight: share of the inputs; slow ones get less than 1.
        named: whether a refusal must name the file, which a function of a text cannot.
    """

    def register(call: Callable[[Path], Any]) -> Callable[[Path], Any]:
        TARGETS[name] = Target(make, call, weight, named)
        return call

    return register


def signals(n_rois: int = N_ROIS, n_timepoints: int = N_TIMEPOINTS, seed: int = 0) -> np.ndarray:
    """A scan like any other, (n_rois, n_timepoints) float32."""
    return np.random.default_rng(seed).normal(1000, 30, (n_rois, n_timepoints)).astype(np.float32)


def _table(separator: str, header: bool = True) -> str:
    rows = [separator.join(f"{value:.3f}" for value in row) for row in signals().T]
    return "\n".join([separator.join(LABELS)] * header + rows) + "\n"


# --- readers ---


def _series(name: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        path = folder / f"sub-01_task-rest_bold{name}"
        if name == ".npy":
            np.save(path, signals())
        elif name == ".npz":
            np.savez_compressed(path, series=signals(), roi_labels=np.array(LABELS), t_r=2.0)
        elif name in (".csv", ".tsv"):
            path.write_text(_table("," if name == ".csv" else "\t"))
        elif name in (".csv.gz", ".tsv.gz"):
            path.write_bytes(gzip.compress(_table("," if name == ".csv.gz" else "\t").encode(), mtime=0))
        elif name == ".dat":
            path.write_text(_table("\t", header=False))
        elif name == ".mat":
            from scipy.io import savemat

            names = np.array(LABELS, dtype=object)
            savemat(path, {"series": signals(), "TR": 2.0, "roi_labels": names}, do_compression=False)
        elif name == "_packed.mat":
            from scipy.io import savemat

            names = np.array(LABELS, dtype=object)
            savemat(path, {"data": {"series": signals(), "TR": 2.0, "names": names}, "n": 1}, do_compression=True)
        elif name == "_sparse.mat":
            from scipy.io import savemat
            from scipy.sparse import csc_matrix

            savemat(path, {"series": csc_matrix(signals() * (signals() > 1010))}, do_compression=False)
        elif name == "_v73.mat":
            import h5py

            with h5py.File(path, "w", userblock_size=512, track_order=False) as file:
                file["series"] = signals().T
                file["TR"] = np.array([[2.0]])
            with path.open("r+b") as stream:
                stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
        elif name == ".ptseries.nii":
            import nibabel as nib

            axis = nib.cifti2.ParcelsAxis.from_brain_models(
                [
                    (label, nib.cifti2.BrainModelAxis.from_surface(np.arange(5 * k, 5 * k + 5), 100, "CortexLeft"))
                    for k, label in enumerate(LABELS)
                ]
            )
            nib.Cifti2Image(signals().T, header=(nib.cifti2.SeriesAxis(0, 2.0, N_TIMEPOINTS), axis)).to_filename(path)
        return [path]

    return make


def _read_series(folder: Path) -> Any:
    from brain_transformers import read_roi_series

    path = next(path for path in sorted(folder.iterdir()) if not path.name.endswith(".json"))
    return read_roi_series(path, roi_order=LABELS)


for _name in (
    ".npy", ".npz", ".csv", ".tsv", ".csv.gz", ".tsv.gz", ".dat", ".mat", "_packed.mat", "_sparse.mat", "_v73.mat",
    ".ptseries.nii",
):  # fmt: skip
    target(f"readers{_name}", _series(_name))(_read_series)


def _sidecar(folder: Path) -> list[Path]:
    _series(".tsv")(folder)
    path = folder / "sub-01_task-rest_bold.json"
    path.write_text(json.dumps({"RepetitionTime": 2.0, "TaskName": "rest", "SliceTiming": [0.0, 1.0]}))
    return [path]


target("readers.sidecar", _sidecar)(_read_series)


def _coordinates(folder: Path) -> list[Path]:
    rows = [f"{number + 1}\t{10 - number}\t{number * 7 % 5}\t{number}" for number in range(N_ROIS)]
    (folder / "centres.dat").write_text("\n".join(["Index\tX\tY\tZ", *rows]) + "\n")
    return [folder / "centres.dat"]


@target("readers.coordinates", _coordinates)
def _read_coordinates(folder: Path) -> Any:
    from brain_transformers.data import read_coordinates

    return read_coordinates(folder / "centres.dat", n_rois=N_ROIS)


def canary_of(folder: Path) -> Path:
    """The file that nobody may read, beside the folders of the inputs."""
    return folder.parent.parent / "canary.bin"


def _hdf5_layout(path: Path, layout: str) -> None:
    import h5py

    values = np.stack([signals(seed=seed) for seed in range(3)])
    canary = str(canary_of(path.parent))
    with h5py.File(path, "w") as file:
        group = file.create_group("timeseries")
        if layout == "external storage":
            group.create_dataset("schaefer400", values.shape, "f4", external=[(canary, 0, values.nbytes)])
        elif layout == "external link":
            group["schaefer400"] = h5py.ExternalLink(canary, "/timeseries/schaefer400")
        elif layout == "soft link":
            file["elsewhere"] = h5py.ExternalLink(canary, "/")
            group["schaefer400"] = h5py.SoftLink("/elsewhere/timeseries/schaefer400")
        elif layout == "virtual":
            virtual = h5py.VirtualLayout(values.shape, "f4")
            virtual[:] = h5py.VirtualSource(canary, "timeseries/schaefer400", values.shape)
            group.create_virtual_dataset("schaefer400", virtual)
        else:
            group["schaefer400"] = values
        file["long_subject_id"] = np.array([b"sub-a", b"sub-b", b"sub-c"])
        file["ts_len"] = np.array([40, 40, 30])
        file["labels/sex"] = np.array([0, 1, 0])


def _hdf5(folder: Path) -> list[Path]:
    _hdf5_layout(folder / "scans.h5", "plain")
    return [folder / "scans.h5"]


def _reaching_out(folder: Path) -> list[Path]:
    for number, layout in enumerate(("external storage", "external link", "soft link", "virtual")):
        _hdf5_layout(folder / f"scans{number}.h5", layout)
    return sorted(folder.iterdir())


@target("semantoks_recordings", _hdf5, weight=2)
def _semantoks(folder: Path) -> Any:
    from brain_transformers.data import SemantoksRecordings

    with SemantoksRecordings(folder / "scans.h5", labels=["labels/sex"]) as recordings:
        return [(recording.signals, recording.subject, recording.length) for recording in recordings]


@target("hdf5.reaching_out", _reaching_out, weight=0.5)
def _read_reaching_out(folder: Path) -> Any:
    from brain_transformers.data import SemantoksRecordings

    found: list[Any] = []
    for path in sorted(folder.iterdir()):
        try:
            with SemantoksRecordings(path) as recordings:
                found += [recording.signals for recording in recordings]
        except ValueError as error:
            found.append(str(error))
    return found


@target("semantoks_builder", _hdf5, weight=0.2)
def _semantoks_builder(folder: Path) -> Any:
    from brain_transformers.data import SemantoksHDF5Builder

    builder = SemantoksHDF5Builder(
        folder / "scans.h5", roi_order=LABELS, labels=["labels/sex"], cache_dir=folder / "cache"
    )
    builder.download_and_prepare()
    return builder.as_dataset(split="train")[:]


# --- builders ---


def _folder(folder: Path) -> list[Path]:
    scans = folder / "scans"
    for subject in ("01", "02"):
        place = scans / f"sub-{subject}" / "func"
        place.mkdir(parents=True)
        (place / f"sub-{subject}_task-rest_timeseries.tsv").write_text(_table("\t"))
        (place / f"sub-{subject}_task-rest_timeseries.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    (scans / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t31\tF\nsub-02\t45.5\tM\n")
    return [scans / "participants.tsv", *sorted((scans / "sub-01" / "func").iterdir())]


@target("builders.folder", _folder, weight=0.5)
def _load_folder(folder: Path) -> Any:
    from brain_transformers import load_dataset

    return load_dataset(folder / "scans", roi_order=LABELS, cache_dir=folder / "cache")[:]


@target("prepare.skip", _folder, weight=0.3)
def _prepare_skip(folder: Path) -> Any:
    return command(
        "prepare", folder / "scans", "--output", folder / "dataset", "--roi-order", write_labels(folder), "--on-error",
        "skip",
    )  # fmt: skip


def _saved(folder: Path) -> list[Path]:
    from brain_transformers.data import dataset_from_arrays

    scans = [signals(seed=seed) for seed in range(3)]
    dataset_from_arrays(scans, roi_order=LABELS, t_r=2.0, subject=["a", "b", "c"], age=[1.0, 2.0, 3.0]).save_to_disk(
        str(folder / "dataset")
    )
    return sorted(path for path in (folder / "dataset").iterdir() if path.is_file())


@target("builders.saved", _saved, weight=2)
def _load_saved(folder: Path) -> Any:
    from brain_transformers import load_dataset

    dataset = load_dataset(folder / "dataset", roi_order=LABELS)
    return [dataset[row] for row in range(len(dataset))]


# --- images ---


def _images(folder: Path) -> list[Path]:
    import nibabel as nib

    labels = np.zeros((8, 8, 8), np.int16)
    for k in range(N_ROIS):
        labels[2 * (k // 6) : 2 * (k // 6) + 2, k % 6 : k % 6 + 1, 2:6] = k + 1
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -16
    bold = np.random.default_rng(0).normal(1000, 20, (8, 8, 8, 20)).astype(np.float32)
    for name, data in (("bold.nii.gz", bold), ("bold.nii", bold), ("atlas.nii.gz", labels)):
        image = nib.Nifti1Image(data, affine)
        image.set_sform(affine, 4)
        image.set_qform(affine, 4)
        if data.ndim == 4:
            image.header.set_zooms((4, 4, 4, 2.0))
            image.header.set_xyzt_units("mm", "sec")
        nib.save(image, folder / f"sub-01_space-MNI152NLin6Asym_{name}")
    return sorted(folder.iterdir())


@target("parcellation", _images, weight=1.5)
def _parcellate(folder: Path) -> Any:
    from brain_transformers.data import load_atlas, parcellate

    atlas = load_atlas(folder / "sub-01_space-MNI152NLin6Asym_atlas.nii.gz")
    return [
        parcellate(folder / f"sub-01_space-MNI152NLin6Asym_bold{suffix}", atlas, n_rois=N_ROIS)
        for suffix in (".nii.gz", ".nii")
    ]


def _dense(folder: Path) -> list[Path]:
    import nibabel as nib

    def models(affine: np.ndarray) -> Any:
        cortex = nib.cifti2.BrainModelAxis.from_surface(np.arange(60), 64, "cortex_left")
        mask = np.zeros((4, 4, 4), bool)
        mask[1:3, 1:3, 1:3] = True
        return cortex + nib.cifti2.BrainModelAxis.from_mask(mask, "thalamus_left", affine)

    axis = models(np.diag([2.0, 2.0, 2.0, 1.0]))
    table = {0: ("???", (0, 0, 0, 0)), **{k + 1: (label, (1, 0, 0, 1)) for k, label in enumerate(LABELS)}}
    ids = np.resize(np.arange(1, N_ROIS + 1), len(axis)).astype(np.float32)
    nib.Cifti2Image(ids[None], (nib.cifti2.LabelAxis(["map"], [table]), axis)).to_filename(folder / "x.dlabel.nii")
    values = np.random.default_rng(0).normal(1000, 30, (N_TIMEPOINTS, len(axis))).astype(np.float32)
    series = nib.cifti2.SeriesAxis(0, 2.0, N_TIMEPOINTS)
    nib.Cifti2Image(values, (series, axis)).to_filename(folder / "sub-01_bold.dtseries.nii")
    return sorted(folder.iterdir())


@target("parcellation.dense", _dense)
def _parcellate_dense(folder: Path) -> Any:
    from brain_transformers.data import parcellate

    return parcellate(folder / "sub-01_bold.dtseries.nii", folder / "x.dlabel.nii")


def _names(folder: Path) -> list[Path]:
    _images(folder)
    table = [f"{number + 1}\t{label}" for number, label in enumerate(LABELS)]
    (folder / "names.tsv").write_text("\n".join(["index\tname", "0\tBackground", *table]) + "\n")
    (folder / "names.lut").write_text("\n".join(line.replace("\t", " ") + " 1 2 3 0" for line in table) + "\n")
    return [folder / "names.tsv", folder / "names.lut"]


@target("parcellation.names", _names, weight=0.5)
def _load_named(folder: Path) -> Any:
    from brain_transformers.data import load_atlas

    atlas = folder / "sub-01_space-MNI152NLin6Asym_atlas.nii.gz"
    return [load_atlas(atlas, folder / name).shape for name in ("names.tsv", "names.lut")]


def _t1_images(folder: Path) -> list[Path]:
    import nibabel as nib

    values = np.random.default_rng(0).integers(0, 900, (8, 9, 7)).astype(np.int16)
    for name, data in (("T1w.nii.gz", values), ("T1w.nii", values), ("desc-brain_mask.nii.gz", values > 300)):
        image = nib.Nifti1Image(data.astype(np.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
        image.set_sform(image.affine, 4)
        nib.save(image, folder / f"sub-01_space-MNI152NLin6Asym_{name}")
    return sorted(folder.iterdir())


@target("t1_volumes", _t1_images)
def _read_t1(folder: Path) -> Any:
    from brain_transformers.data import read_t1

    stem = "sub-01_space-MNI152NLin6Asym_T1w"
    return [read_t1(folder / f"{stem}.nii.gz", "beside"), read_t1(folder / f"{stem}.nii")]


def _volumes(folder: Path) -> list[Path]:
    _images(folder)
    for path in folder.glob("*atlas*"):
        path.unlink()
    return sorted(folder.iterdir())


@target("volumes", _volumes, weight=1.5)
def _read_volumes(folder: Path) -> Any:
    from brain_transformers.data import read_volumes

    return [
        np.asarray(read_volumes(folder / f"sub-01_space-MNI152NLin6Asym_bold{end}", volume_size=(8, 8, 8)).dataobj)
        for end in (".nii.gz", ".nii")
    ]


def _volume_rows(folder: Path) -> list[Path]:
    _volumes(folder)
    (folder / "images").mkdir()
    shutil.move(folder / "sub-01_space-MNI152NLin6Asym_bold.nii", folder / "images")
    command(
        "prepare", folder / "images", "--output", folder / "dataset", "--kind", "volumes", "--volume-size", 8, 8, 8
    )  # fmt: skip
    return sorted(path for path in (folder / "dataset").rglob("*") if path.is_file())


@target("volumes.saved", _volume_rows, weight=0.5)
def _load_volume_rows(folder: Path) -> Any:
    from brain_transformers import VolumeFeatureExtractor, load_dataset

    rows = load_dataset(folder / "dataset")
    extractor = VolumeFeatureExtractor(volume_size=(8, 8, 8), n_frames=4)
    return [extractor(row)["volumes"] for row in rows]


def _cleaning(folder: Path) -> list[Path]:
    frames = np.random.default_rng(1).normal(size=(20, 3)).round(4)
    lines = ["trans_x\ttrans_x_derivative1\tcsf", *("\t".join(map(str, row)) for row in frames.tolist())]
    lines[1] = "0.1\tn/a\t3.2"
    (folder / "confounds.tsv").write_text("\n".join(lines) + "\n")
    (folder / "confounds.csv").write_text("\n".join(lines).replace("\t", ",") + "\n")
    return [folder / "confounds.tsv", folder / "confounds.csv"]


@target("parcellation.confounds", _cleaning, weight=0.5)
def _confounds(folder: Path) -> Any:
    from brain_transformers.data.cleaning import _confounds_table

    return [_confounds_table(folder / f"confounds.{kind}", 20, str(folder)) for kind in ("tsv", "csv")]


# --- processors ---


def _processor(folder: Path) -> list[Path]:
    from brain_transformers import ROISeriesFeatureExtractor

    extractor = ROISeriesFeatureExtractor(
        n_rois=N_ROIS, n_timepoints=20, patch_size=5, roi_order=LABELS, t_r=2.0, normalization="robust", window="all"
    )
    extractor.fit([signals(seed=seed) for seed in range(3)], roi_order=LABELS).save_pretrained(folder)
    return [folder / "preprocessor_config.json"]


@target("processor.folder", _processor)
def _load_processor(folder: Path) -> Any:
    from brain_transformers import ROISeriesFeatureExtractor

    extractor = ROISeriesFeatureExtractor.from_pretrained(folder)
    try:
        return extractor(signals(), t_r=2.0, roi_order=LABELS)["signals"].shape
    except ValueError:
        return "refused"  # what was read is another processor, which is sound but not for this scan


def _pair_processor(folder: Path) -> list[Path]:
    from brain_transformers import BrainHarmonyProcessor, HarmonixFFeatureExtractor, T1FeatureExtractor

    sizes = {"n_rois": N_ROIS, "n_timepoints": 20, "patch_size": 5, "normalization": "zscore", "roi_order": LABELS}
    parts = HarmonixFFeatureExtractor(**sizes), T1FeatureExtractor([20, 24, 20])
    BrainHarmonyProcessor(*parts, n_t1_tokens=4).save_pretrained(folder)
    return [folder / "preprocessor_config.json"]


def _pair() -> dict[str, Any]:
    """A row of a pair without its volume."""
    from brain_transformers.data.row_kinds import PAIR

    values = signals()
    cells = {"signals": values.ravel(), "n_rois": values.shape[0], "n_timepoints": values.shape[1], "t_r": 2.0}
    return {**dict.fromkeys(PAIR.features()), **cells, "roi_order": json.dumps(LABELS), "subject": "a"}


@target("processor.pair", _pair_processor)
def _load_pair_processor(folder: Path) -> Any:
    from brain_transformers import BrainHarmonyProcessor

    processor = BrainHarmonyProcessor.from_pretrained(folder)
    try:
        return processor(_pair())["signals"].shape
    except ValueError:
        return "refused"  # as above


# --- rows of more than a series ---


def _rows(folder: Path, kind: Any, cells: dict[str, Any]) -> list[Path]:
    import datasets

    from brain_transformers.data.row_kinds import arrow_table

    features = kind.features()
    if cells.get("dtype") == "bfloat16":
        features["inputs_embeds"] = datasets.List(datasets.Value("uint16"))
    columns = {name: [cells.get(name)] * 2 for name in features}
    table = datasets.table.InMemoryTable(arrow_table(columns, features))
    datasets.Dataset(table).save_to_disk(str(folder / "dataset"))
    return sorted(path for path in (folder / "dataset").iterdir() if path.is_file())


def _pairs(folder: Path) -> list[Path]:
    from brain_transformers.data.row_kinds import PAIR

    return _rows(folder, PAIR, _pair())


@target("pairs.saved", _pairs, weight=0.5)
def _load_pairs(folder: Path) -> Any:
    from brain_transformers import load_dataset

    rows = load_dataset(folder / "dataset")
    return [rows[row] for row in range(len(rows))]


def _tokens(folder: Path) -> list[Path]:
    from brain_transformers.data.row_kinds import TOKENS

    bits = np.arange(24, dtype=np.uint16)
    cells = {"inputs_embeds": bits, "n_tokens": 6, "attention_mask": np.ones(6, np.int8), "dtype": "bfloat16"}
    return _rows(folder, TOKENS, cells)


@target("tokens.saved", _tokens, weight=0.5)
def _load_tokens(folder: Path) -> Any:
    from brain_transformers import BrainHarmonyFeatureExtractor, load_dataset

    rows = load_dataset(folder / "dataset")
    return [BrainHarmonyFeatureExtractor(4, 2, 4)(row)["inputs_embeds"] for row in rows]


# --- orders ---


def _order(folder: Path) -> list[Path]:
    (folder / "order.json").write_text(json.dumps(LABELS))
    (folder / "name.txt").write_text("schaefer400-7net+tian-s3")
    return [folder / "order.json", folder / "name.txt"]


@target("roi_orders.resolve", _order, weight=2, named=False)
def _resolve(folder: Path) -> Any:
    from brain_transformers.atlases.roi_orders import resolve_roi_order

    # A text, as it stands in a column of a dataset or in a config; no file has a name in it.
    return [resolve_roi_order(_text(folder / name)).labels for name in ("order.json", "name.txt")]


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def write_labels(folder: Path) -> Path:
    """A file with one label a line, as `--roi-order` takes it."""
    path = folder / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n")
    return path


# --- folders of models ---


def save_model(folder: Path) -> Path:
    """A small BrainLM with its extractor, saved."""
    import torch

    import brain_transformers as bt

    torch.manual_seed(0)
    config = bt.load_config("brainlm-tiny", n_rois=N_ROIS, roi_order=LABELS)
    model = bt.BrainLMForMaskedModeling(config)
    model.brainlm.set_table("coordinates", torch.randn(N_ROIS, 3), source="fuzz")
    model.save_pretrained(folder)
    bt.ROISeriesFeatureExtractor.from_model_config(config, normalization="zscore").save_pretrained(folder)
    return folder


def _model_target(saved: Path) -> None:
    def make(folder: Path) -> list[Path]:
        shutil.copytree(saved, folder / "model")
        # Code of the folder must not run either: the shim writes the marker.
        for path in (folder / "model").glob("*.py"):
            path.write_text(f"open({os.fspath(folder.parent.parent / 'code_ran')!r}, 'w')\n" + path.read_text())
        files = [folder / "model" / name for name in ("config.json", "model.safetensors", "preprocessor_config.json")]
        return [files[0], *files]

    def call(folder: Path) -> Any:
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

        import brain_transformers  # noqa: F401  registers the Auto classes

        AutoConfig.from_pretrained(folder / "model")
        extractor = AutoFeatureExtractor.from_pretrained(folder / "model")
        AutoModel.from_pretrained(folder / "model")
        return vars(extractor)

    target(f"from_pretrained.{saved.parent.name}", make, weight=0.7)(call)


for _saved in sorted((GOLDEN.parent / "saved_folders").glob("*/pretraining")):  # one of every family
    _model_target(_saved)


# --- converters ---


def _converter(module: str, case: Path, files: tuple[str, ...], arguments: list[str]) -> None:
    def make(folder: Path) -> list[Path]:
        folder.rmdir()
        shutil.copytree(case, folder)
        if module == "convert_brainlm":
            (folder / "centres.dat").write_text("".join(f"{i + 1}\t{10 - i}\t{(i * 7) % 5}\t{i}\n" for i in range(12)))
        if module == "convert_brain_jepa":
            from safetensors.numpy import load_file

            gradients = load_file(folder / "tensors.safetensors")["gradient"][0]
            np.savetxt(folder / "gradient.csv", gradients, delimiter=",", fmt="%.9g")
        if module == "convert_brain_semantoks":
            constructor = json.loads((folder / "config.json").read_text())["constructor"]
            (folder / "constructor.json").write_text(json.dumps(constructor))
        return [folder / name for name in files]

    def call(folder: Path) -> Any:
        import importlib

        given = [argument.replace("FOLDER", str(folder)) for argument in arguments]
        return outcome(importlib.import_module(module).main, [*given, "--output", str(folder / "converted")])

    target(f"{module}.{case.name}", make, weight=0.4)(call)


_converter(
    "convert_brainlm", GOLDEN / "brainlm" / "a_pretrain" / "checkpoint",
    ("config.json", "config.json", "pytorch_model.bin"),
    ["--checkpoint", "FOLDER", "--coordinates", "FOLDER/centres.dat"],
)  # fmt: skip
_converter(
    "convert_brain_jepa", GOLDEN / "brain_jepa" / "encoder_flash_mode", ("checkpoint.pth.tar", "gradient.csv"),
    ["--checkpoint", "FOLDER/checkpoint.pth.tar", "--gradient", "FOLDER/gradient.csv", "--num-attention-heads", "3"],
)  # fmt: skip
_converter(
    "convert_brain_semantoks", GOLDEN / "brain_semantoks" / "pretrain_small",
    ("checkpoint.pth", "network_mapping.npz", "constructor.json"),
    ["--checkpoint", "FOLDER/checkpoint.pth", "--config", "FOLDER/constructor.json"],
)  # fmt: skip
_converter(
    "convert_brain_mt", GOLDEN / "brain_mt" / "encoder_bidir_v2_classification", ("checkpoint.pth",),
    ["--checkpoint", "FOLDER/checkpoint.pth"],
)  # fmt: skip
_converter(
    "convert_harmonix_f", GOLDEN / "brain_harmony" / "jepa_pretrain_full",
    ("checkpoint.pth", "gradient.csv", "geo_harm.csv"),
    ["--checkpoint", "FOLDER/checkpoint.pth", "--gradient", "FOLDER/gradient.csv", "--harmonics",
     "FOLDER/geo_harm.csv", "--num-attention-heads", "4", "--predictor-num-attention-heads", "4", "--n-windows", "5"],
)  # fmt: skip
_converter(
    "convert_harmonix_s", GOLDEN / "brain_harmony" / "t1_encoder", ("checkpoint.pth",),
    ["--checkpoint", "FOLDER/checkpoint.pth", "--num-attention-heads", "3"],
)  # fmt: skip
_converter(
    "convert_brain_harmony", GOLDEN / "brain_harmony" / "stage1_harmonizer_normpix", ("checkpoint.pth",),
    ["--component", "harmonizer", "--checkpoint", "FOLDER/checkpoint.pth", "--num-attention-heads", "4",
     "--n-t1-tokens", "12", "--decoder-num-attention-heads", "4"],
)  # fmt: skip


# --- commands ---


class CommandFailed(ValueError):
    """What a command printed before it ended with an exit code that is not 0."""


def outcome(main: Callable[[list[str]], int], argv: list[str]) -> str:
    """What a command printed; its error as an exception, so that a traceback is one and a message is one."""
    import contextlib
    import io

    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main(argv)
    if code:
        raise CommandFailed(f"brain_transformers exit {code}: {errors.getvalue()}")
    return printed.getvalue() + errors.getvalue()


def command(*argv: Any) -> str:
    """Run `brain-transformers ARGV` in this process."""
    from brain_transformers.cli.main import main

    return outcome(main, [str(argument) for argument in argv])


def _embedding(folder: Path) -> list[Path]:
    from brain_transformers.data import dataset_from_arrays

    save_model(folder / "model")
    dataset = dataset_from_arrays([signals(12, 200, seed) for seed in range(3)], roi_order=LABELS, t_r=0.72)
    dataset.save_to_disk(str(folder / "dataset"))
    return sorted(path for path in (folder / "dataset").iterdir() if path.is_file())


@target("embed.dataset", _embedding, weight=0.15)
def _embed(folder: Path) -> Any:
    return command(
        "embed", folder / "dataset", "--model", folder / "model", "--output", folder / "table.csv", "--device", "cpu",
        "--part-size", "2",
    )  # fmt: skip


def _parts(folder: Path) -> list[Path]:
    """What an interrupted `embed` leaves behind."""
    from brain_transformers.evaluation import embedding

    _embedding(folder)
    whole, finished = embedding.embed_dataset, []

    def stop(*args: Any, **kwargs: Any) -> Any:
        if finished:
            raise ValueError("interrupted")
        finished.append(1)
        return whole(*args, **kwargs)

    embedding.embed_dataset = stop
    try:
        _embed(folder)
    except ValueError:
        pass
    finally:
        embedding.embed_dataset = whole
    return sorted((folder / ".table.csv.parts").iterdir())


target("embed.parts", _parts, weight=0.15, named=False)(_embed)


def _features(name: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        import pandas

        from brain_transformers.evaluation.embedding_parts import write_table

        rng = np.random.default_rng(0)
        columns = {f"e{number:03d}": rng.normal(size=20).astype(np.float32) for number in range(4)}
        people = [f"{number:02d}" for number in range(20)]
        table = pandas.DataFrame({"subject": people, "sex": ["f", "m"] * 10, "age": range(20, 40), **columns})
        write_table(table, folder / name)
        return [folder / name]

    return make


def _probe(folder: Path) -> Any:
    (table,) = (path for path in folder.iterdir() if path.stem == "table" and path.suffix != ".json")
    return command("probe", table, "--label", "age", "--folds", 2, "--output", folder / "scores.json")


target("probe.csv", _features("table.csv"), weight=0.3)(_probe)
target("probe.parquet", _features("table.parquet"), weight=0.3)(_probe)


# --- runs that go on ---


def _trainer(folder: Path, **options: Any) -> Any:
    import brain_transformers as bt
    from brain_transformers.training import MAETrainer, MAETrainingArguments

    model = bt.BrainLMForMaskedModeling(bt.load_config("brainlm-tiny", n_rois=N_ROIS))
    rows = [{"signals": signals(seed=seed) / 1000, "coordinates": signals(N_ROIS, 3) / 1000} for seed in range(4)]
    arguments = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "per_device_train_batch_size": 2}
    arguments |= {"logging_strategy": "no", "save_strategy": "no", "max_steps": 2, **options}
    return MAETrainer(model, MAETrainingArguments(output_dir=str(folder), **arguments), train_dataset=rows)


def _checkpoint(summed: bool) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        _trainer(folder, save_strategy="steps", save_steps=1).train()
        record = folder / "checkpoint-1" / "brain_transformers_checkpoint.json"
        if not summed:
            record.unlink()
        return [path for path in sorted((folder / "checkpoint-1").iterdir()) if path.name != "training_args.bin"]

    return make


def _resume(folder: Path) -> Any:
    return _trainer(folder).train(resume_from_checkpoint=str(folder / "checkpoint-1")).training_loss


target("training.checkpoint", _checkpoint(summed=True), weight=0.2)(_resume)
target("training.checkpoint_of_an_earlier_version", _checkpoint(summed=False), weight=0.2)(_resume)


def _embedding_model(folder: Path) -> list[Path]:
    _embedding(folder)
    return sorted(path for path in (folder / "model").iterdir() if path.suffix in (".json", ".safetensors"))


target("embed.model", _embedding_model, weight=0.15, named=False)(_embed)


# --- the training commands ---


def _training(folder: Path) -> None:
    from brain_transformers.data import dataset_from_arrays

    dataset = dataset_from_arrays([signals(12, 60, seed) for seed in range(3)], roi_order=LABELS, t_r=0.72)
    dataset = dataset.remove_columns([name for name in ("age", "sex") if name in dataset.column_names])
    dataset = dataset.add_column("age", [31, 52, 73])
    dataset.save_to_disk(str(folder / "dataset"))


def train(folder: Path, name: str, model: Any, *argv: Any) -> Any:
    """Run a training command for one step."""
    quiet = ("--use_cpu", "--report_to", "none", "--disable_tqdm", "True", "--save_strategy", "no", "--max_steps", 1)
    shared = ("--dataset", folder / "dataset", "--output", folder / "run", "--per_device_train_batch_size", 3)
    return command(name, "--model", model, *shared, *quiet, *argv)


def _gradient_table(name: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        _training(folder)
        table = signals(N_ROIS, 6)
        if name.endswith(".npy"):
            np.save(folder / name, table)
        else:
            np.savetxt(folder / name, table, fmt="%.4f", delimiter=",")
        return [folder / name]

    return make


def _train_with_gradients(folder: Path) -> Any:
    (table,) = folder.glob("gradients.*")
    return train(folder, "pretrain", "brain-jepa-tiny", "--gradients", table, "--config", "n_timepoints=24")


for _name in ("gradients.npy", "gradients.csv"):
    target(f"training.{_name}", _gradient_table(_name), weight=0.1)(_train_with_gradients)


def _network_table(folder: Path) -> list[Path]:
    _training(folder)
    (folder / "networks.txt").write_text("\n".join(["visual", "motor", "limbic"] * 4) + "\n")
    return [folder / "networks.txt"]


@target("training.networks", _network_table, weight=0.1)
def _train_with_networks(folder: Path) -> Any:
    table = folder / "networks.txt"
    return train(folder, "pretrain", "brain-semantoks-tiny", "--networks", table, "--config", "mask_rule=nominal")


def _finished_run(folder: Path) -> list[Path]:
    _training(folder)
    train(folder, "finetune", "brain-jepa-tiny", "--label", "age", "--config", "n_timepoints=24")
    return [folder / "run" / name for name in ("run_settings.json", "metrics.json", "trainer_state.json", "README.md")]


@target("training.finished_run", _finished_run, weight=0.1)
def _resume_finished(folder: Path) -> Any:
    return train(folder, "finetune", "brain-jepa-tiny", "--label", "age", "--config", "n_timepoints=24", "--resume")


def _model_to_tune(folder: Path) -> list[Path]:
    _training(folder)
    save_model(folder / "model")
    return sorted(path for path in (folder / "model").iterdir() if path.suffix in (".json", ".safetensors"))


@target("training.model", _model_to_tune, weight=0.1)
def _tune(folder: Path) -> Any:
    return train(folder, "finetune", folder / "model", "--label", "age")


def _repetitions(folder: Path) -> list[Path]:
    _training(folder)
    _repeat(folder)
    return [folder / "run" / name for name in ("settings.json", "repetition-00.json")]


@target("training.repetitions", _repetitions, weight=0.1)
def _repeat(folder: Path) -> Any:
    return command(
        "finetune", "--model", "brain-jepa-tiny", "--dataset", folder / "dataset", "--output", folder / "run",
        "--label", "age", "--repetitions", 1, "--num_train_epochs", 1, "--use_cpu", "--disable_tqdm", "True",
        "--crops", 1, "--config", "n_timepoints=24",
    )  # fmt: skip
