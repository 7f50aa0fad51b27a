"""Folders as labs have them, small and generated, with the names and tables that the tools write."""

import gzip
import json
from pathlib import Path

import numpy as np

from brain_transformers.atlases.roi_orders import roi_labels

# Parcels of the 4S456 atlas behind Schaefer's 400: CIT168, thalamus, hippocampus and amygdala, cerebellum.
BEHIND_4S = [
    *(f"{side}-CIT168-{number}" for side in ("LH", "RH") for number in range(1, 15)),
    *(f"{side}-Thalamus{number}" for side in ("LH", "RH") for number in range(1, 8)),
    *(f"{side}-{name}" for side in ("LH", "RH") for name in ("Hippocampus", "Amygdala")),
    *(f"Cerebellar_Region{number}" for number in range(1, 11)),
]  # fmt: skip
LABELS_4S = [name.removeprefix("7Networks_") for name in roi_labels("schaefer400-7net")] + BEHIND_4S


# Tian's own names of his 50 parcels of scale III.
_RIGHT = (
    "HIP-head-m HIP-head-l HIP-body HIP-tail THA-VPm THA-VPl THA-VAi THA-VAs THA-DAm THA-DAl PUT-VA PUT-DA PUT-VP "
    "PUT-DP CAU-VA CAU-DA CAU-body CAU-tail lAMY mAMY THA-DP NAc-shell NAc-core pGP aGP"
)
LABELS_TIAN = [f"{name}-{side}" for side in ("rh", "lh") for name in _RIGHT.split(" ")]


def series(n_rois: int, n_timepoints: int, seed: int = 0) -> np.ndarray:
    """Made-up signals of parcels, (n_rois, n_timepoints), float32."""
    rng = np.random.default_rng(seed)
    return (1000 + np.cumsum(rng.normal(size=(n_rois, n_timepoints)), axis=1)).astype(np.float32)


def write_table(path: Path, signals: np.ndarray, labels: list[str]) -> None:
    """A table of XCP-D: labels in the first row, one row a volume, `n/a` for what is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(labels)]
    lines += ["\t".join("n/a" if np.isnan(value) else f"{value:.6g}" for value in frame) for frame in signals.T]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """A sidecar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_outliers(path: Path, cut: np.ndarray) -> None:
    """`_outliers.tsv`: one column, 1 for each volume that is cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("framewise_displacement\n" + "".join(f"{int(one)}\n" for one in cut), encoding="utf-8")


def write_ptseries(path: Path, signals: np.ndarray, labels: list[str], t_r: float) -> None:
    """A parcellated CIFTI series with a few vertices a parcel."""
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    models = [
        nib.cifti2.BrainModelAxis.from_surface([number], len(labels), "CortexLeft") for number in range(len(labels))
    ]
    parcels = nib.cifti2.ParcelsAxis.from_brain_models(list(zip(labels, models)))
    axis = nib.cifti2.SeriesAxis(0, t_r, signals.shape[1])
    nib.Cifti2Image(signals.T.copy(), header=(axis, parcels)).to_filename(path)


def xcpd_run(
    root: Path,
    run: str,
    signals: np.ndarray,
    labels: list[str] = LABELS_4S,
    *,
    atlas: str = "4S456Parcels",
    t_r: float = 2.0,
    cut: np.ndarray | None = None,
    cifti: bool = False,
) -> Path:
    """What XCP-D 26 writes of one run (`sub-01_task-rest`), beside which its table lies; the path of the table."""
    subject = run.split("_")[0]
    func = root / subject / "func"
    space = "space-fsLR" if cifti else "space-MNI152NLin2009cAsym"
    table = func / f"{run}_{space}_atlas-{atlas}_stat-mean_timeseries.tsv"
    write_table(table, signals, labels)
    denoised = f"{run}_{space}{'_den-91k' if cifti else ''}_desc-denoised_bold"
    ends = "dtseries.nii" if cifti else "nii.gz"
    # The table's own sidecar has a word; the seconds are in that of the denoised image.
    write_json(
        table.with_suffix(".json"),
        {
            "SamplingFrequency": "TR",
            "Sources": [f"bids::{subject}/func/{denoised}.{ends}", "bids:atlas:x_dseg.nii.gz"],
        },
    )
    write_json(func / f"{denoised}.json", {"RepetitionTime": t_r, "SoftwareFilters": {"Bandpass filter": {}}})
    coverage = "\n".join(["Node\tcoverage", *(f"{label}\t0.9" for label in labels)])
    (func / f"{run}_{space}_atlas-{atlas}_stat-coverage_bold.tsv").write_text(coverage + "\n")
    (func / f"{run}_{space}_atlas-{atlas}_stat-pearsoncorrelation_relmat.tsv").write_text("Node\ta\na\t1\n")
    n_all = signals.shape[1] if cut is None else len(cut)
    for table_of_all in ("motion", "design"):
        columns = "\t".join(f"{table_of_all}{number}" for number in range(7))
        rows = "".join("\t".join(["0.1"] * 7) + "\n" for _ in range(n_all))
        (func / f"{run}_{table_of_all}.tsv").write_text(f"{columns}\n{rows}")
    write_outliers(func / f"{run}_outliers.tsv", np.zeros(n_all) if cut is None else cut)
    if cifti:
        path = func / f"{run}_{space}_atlas-{atlas}_den-91k_stat-mean_timeseries.ptseries.nii"
        write_ptseries(path, np.nan_to_num(signals), labels, t_r)
    write_json(root / "dataset_description.json", {"Name": "XCP-D", "DatasetType": "derivative"})
    return table


def ukb_tables(folder: Path, tables: dict[str, np.ndarray]) -> None:
    """UK Biobank's parcellated tables: rows are parcels without names, `T0`, `T1`, ... in the columns."""
    folder.mkdir(parents=True, exist_ok=True)
    for atlas, signals in tables.items():
        lines = [",".join(["label_name", *(f"T{frame}" for frame in range(signals.shape[1]))])]
        lines += [
            f"ROI_{row + 1}," + ",".join(f"{value:.6g}" for value in values) for row, values in enumerate(signals)
        ]
        (folder / f"fMRI.{atlas}.csv.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))


# --- images ---

GRID = np.diag([4.0, 4.0, 4.0, 1.0])
PARCELS = ["left", "middle", "right"]


def label_image(path: Path, *, names: bool = True) -> Path:
    """A label image of three parcels in MNI space, with BIDS's table of their names beside it."""
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros((6, 6, 6), dtype=np.int16)
    for number in range(3):
        labels[2 * number : 2 * number + 2] = 10 * (number + 1)
    image = nib.Nifti1Image(labels, GRID)
    image.set_sform(GRID, 4)
    nib.save(image, path)
    if names:
        rows = "".join(f"{10 * (number + 1)}\t{name}\n" for number, name in enumerate(PARCELS))
        path.with_name(path.name.split(".")[0] + ".tsv").write_text("index\tname\n" + rows)
    return path


def write_bold(path: Path, signals: np.ndarray, t_r: float) -> None:
    """A 4-D image whose three parcels hold the series, (3, n_timepoints)."""
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    bold = np.repeat(signals, 2, axis=0)[:, None, None] * np.ones((6, 6, 6, 1), dtype=np.float32)
    image = nib.Nifti1Image(bold.astype(np.float32), GRID)
    image.set_sform(GRID, 4)
    image.header.set_zooms((4, 4, 4, t_r))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def fmriprep_run(root: Path, run: str, signals: np.ndarray, t_r: float = 2.0) -> Path:
    """What fMRIPrep 25 writes of one run; the path of the normalised image."""
    func = root / run.split("_")[0] / "func"
    stem = f"{run}_space-MNI152NLin2009cAsym"
    write_bold(func / f"{stem}_desc-preproc_bold.nii.gz", signals, t_r)
    write_bold(func / f"{run}_desc-preproc_bold.nii.gz", signals, t_r)
    write_json(func / f"{stem}_desc-preproc_bold.json", {"RepetitionTime": t_r, "StartTime": t_r / 2})
    label_image(func / f"{stem}_desc-brain_mask.nii.gz", names=False)
    rng = np.random.default_rng(1)
    columns = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    columns += [
        f"{column}{power}" for column in columns for power in ("_derivative1", "_power2", "_derivative1_power2")
    ]
    columns += ["csf", "white_matter", "global_signal", "framewise_displacement", "std_dvars", "cosine_00"]
    table = rng.normal(size=(signals.shape[1], len(columns))) * 0.01
    lines = ["\t".join(columns)]
    lines += [
        "\t".join(
            "n/a"
            if not row and ("derivative" in name or name in ("framewise_displacement", "std_dvars"))
            else f"{value:.6f}"
            for name, value in zip(columns, values)
        )
        for row, values in enumerate(table)
    ]
    (func / f"{run}_desc-confounds_timeseries.tsv").write_text("\n".join(lines) + "\n")
    write_json(func / f"{run}_desc-confounds_timeseries.json", {})
    write_json(root / "dataset_description.json", {"Name": "fMRIPrep", "DatasetType": "derivative"})
    return func / f"{stem}_desc-preproc_bold.nii.gz"


def write_dtseries(path: Path, signals: np.ndarray, t_r: float) -> None:
    """A dense series of 12 vertices, four in each of three parcels."""
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    dense = np.repeat(signals, 4, axis=0).T.astype(np.float32)
    models = nib.cifti2.BrainModelAxis.from_surface(np.arange(12), 12, "CortexLeft")
    nib.Cifti2Image(dense, (nib.cifti2.SeriesAxis(0, t_r, len(dense)), models)).to_filename(path)


def label_file(path: Path) -> Path:
    """The label file of these vertices, which holds them in another order than the series."""
    import nibabel as nib

    vertices = np.arange(12)[::-1]
    models = nib.cifti2.BrainModelAxis.from_surface(vertices, 12, "CortexLeft")
    table = {0: ("???", (0, 0, 0, 0)), **{n + 1: (name, (1, 0, 0, 1)) for n, name in enumerate(PARCELS)}}
    labels = (vertices // 4 + 1)[None].astype(np.float32)
    nib.Cifti2Image(labels, (nib.cifti2.LabelAxis(["parcels"], [table]), models)).to_filename(path)
    return path


def hcp_run(root: Path, run: str, signals: np.ndarray, t_r: float = 0.72) -> None:
    """What HCP releases of one run (`100307/rfMRI_REST1_LR`): volumes and greyordinates, cleaned and not."""
    person, name = run.split("/")
    results = root / person / "MNINonLinear" / "Results" / name
    for end, values in (("", 2 * signals), ("_hp2000_clean", signals)):
        write_bold(results / f"{name}{end}.nii.gz", values, t_r)
        write_dtseries(results / f"{name}_Atlas_MSMAll{end}.dtseries.nii", values, t_r)
        write_dtseries(results / f"{name}_Atlas{end}.dtseries.nii", 3 * values, t_r)
    label_image(results / "brainmask_fs.2.nii.gz", names=False)
    label_image(results / f"{name}_SBRef.nii.gz", names=False)
    (results / "Movement_Regressors.txt").write_text("0 0 0\n" * signals.shape[1])


def abcd_session(root: Path, session: str, signals: np.ndarray, labels: list[str], lengths: list[int]) -> None:
    """What the ABCD-BIDS pipeline writes of a session: all runs of a task end to end, and a table of motion each."""
    subject, visit = session.split("_")
    func = root / subject / visit / "func"
    for atlas in ("HCP2016FreeSurferSubcortical", "Gordon2014FreeSurferSubcortical"):
        name = f"{session}_task-rest_bold_atlas-{atlas}_desc-filtered_timeseries.ptseries.nii"
        write_ptseries(func / name, signals, labels, 0.8)
    for run, length in enumerate(lengths, start=1):
        rows = "X\tY\tZ\n" + "0.1\t0.2\t0.3\n" * length
        (func / f"{session}_task-rest_run-{run}_desc-filtered_motion.tsv").write_text(rows)
        (func / f"{session}_task-rest_run-{run}_motion.tsv").write_text(rows)
