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
