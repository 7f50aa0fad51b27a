"""`brain-transformers prepare`: a folder of scans becomes an Arrow dataset."""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from ..optional import require
from ..processing.roi_orders import ROI_ORDERS, ROIOrder

_SKIPPED_FILE = "skipped_files.tsv"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "prepare",
        help="turn a folder of ROI series, or of BOLD images and an atlas, into an Arrow dataset",
        description=(
            "Read every ROI series (npy, npz, csv, tsv, mat, dat) below FOLDER, or average every BOLD image over the "
            "parcels of --atlas, and save one Arrow dataset: a row a scan, in its own order, repetition time and "
            "units. A participants.tsv in FOLDER adds its columns. Sub-folders train, validation and test become "
            "splits."
        ),
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder with the scans")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; appears complete or not at all")
    parser.add_argument(
        "--roi-order",
        help=f"order of the parcels: one of {', '.join(ROI_ORDERS)}, or a text file with one label a line",
    )
    parser.add_argument("--t-r", type=float, help="repetition time in seconds; by default what the files say")
    parser.add_argument(
        "--atlas", help="label image (NIfTI) for BOLD images, or schaefer400-7net / -17net to fetch it"
    )
    parser.add_argument("--n-rois", type=int, help="number of parcels, for an order that is not a known one")
    parser.add_argument("--pattern", help="glob of the files below FOLDER, such as '*/functional/*.mat'")
    parser.add_argument(
        "--name-pattern", help="regular expression with groups (?P<subject>), (?P<session>), (?P<run>) for file paths"
    )
    parser.add_argument("--participants", type=Path, help="participants table; by default FOLDER/participants.tsv")
    parser.add_argument("--key", help="name of the array in npz and mat files that hold several")
    parser.add_argument("--time-axis", type=int, choices=(0, 1), help="axis of time, where shapes do not tell")
    parser.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="what to do about bad files")
    parser.add_argument("--num-proc", type=int, help="processes that read files")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it is a dataset")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    require("datasets", extra="data", purpose="preparing datasets")
    output: Path = args.output
    _check_output(output, args)
    _prepare(args, output)
    return 0


def _check_output(output: Path, args: argparse.Namespace) -> None:
    """Raise unless nothing is at `output`, or it may be replaced: a dataset, and never what is read from.

    Raises:
        FileExistsError: if there is something that must not be replaced.
    """
    if not output.exists():
        return
    if not args.overwrite:
        raise FileExistsError(f"{output} exists. Choose another --output, or pass --overwrite.")
    read = (args.folder, args.participants, args.atlas, args.roi_order)
    for source in [Path(value) for value in read if value is not None and Path(value).exists()]:
        if output.resolve() in (source.resolve(), *source.resolve().parents):
            raise FileExistsError(
                f"--overwrite would delete {source}, which is to be read: it lies in --output {output}. Choose "
                "another --output."
            )
    is_dataset = (output / "dataset_dict.json").is_file() or (output / "state.json").is_file()
    if not is_dataset and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(
            f"{output} is no dataset that an earlier call wrote, so --overwrite does not delete it. Choose another "
            "--output, or remove it yourself."
        )


def _prepare(args: argparse.Namespace, output: Path) -> None:
    from ..data.builders import ROISeriesFolderBuilder

    roi_order = _roi_order(args)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Next to the output, so that the last step is a rename on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as work:
        builder = ROISeriesFolderBuilder(
            args.folder,
            roi_order=roi_order,
            n_rois=args.n_rois,
            t_r=args.t_r,
            pattern=args.pattern,
            name_pattern=args.name_pattern,
            participants=args.participants,
            time_axis=args.time_axis,
            key=args.key,
            atlas=args.atlas,
            on_error=args.on_error,
            cache_dir=Path(work) / "cache",
        )
        splits = builder.config.files
        builder.download_and_prepare(num_proc=args.num_proc)
        dataset = builder.as_dataset(split=next(iter(splits)) if len(splits) == 1 else None)
        finished = Path(work) / "dataset"
        dataset.save_to_disk(str(finished))
        if builder.skipped:
            lines = [f"{name}\t{' '.join(error.split())}" for name, error in builder.skipped.items()]
            (finished / _SKIPPED_FILE).write_text("\n".join(["source_file\terror", *lines]) + "\n", encoding="utf-8")
        if output.exists():
            replaced = Path(work) / "replaced"
            os.replace(output, replaced)
            shutil.rmtree(replaced)
        os.replace(finished, output)
    parts = dataset if isinstance(dataset, dict) else {"": dataset}
    splits_of: dict[str, list[str]] = {}
    for split, part in parts.items():
        timepoints = part.data.column("n_timepoints").to_pylist()
        subjects = set(part.data.column("subject").to_pylist())
        for subject in subjects - {None}:
            splits_of.setdefault(subject, []).append(split)
        print(
            f"{split + ': ' if split else ''}{len(part)} scans of {len(subjects)} subjects, {part[0]['n_rois']} ROIs, "
            f"{min(timepoints)} to {max(timepoints)} timepoints"
        )
    if shared := sorted(subject for subject, names in splits_of.items() if len(names) > 1):
        print(
            f"warning: {len(shared)} subjects are in several splits (first {shared[0]}: "
            f"{', '.join(splits_of[shared[0]])}), so what is trained on one knows people of another"
        )
    if builder.skipped:
        print(f"{len(builder.skipped)} files were left out; see {output / _SKIPPED_FILE}")
    print(f"dataset written to {output}")


def _roi_order(args: argparse.Namespace) -> ROIOrder:
    value = args.roi_order
    if value is None and args.atlas in ROI_ORDERS:
        value = args.atlas
    if value is None:
        raise ValueError(
            "--roi-order is missing: files do not tell the order of their parcels. Use one of "
            f"{', '.join(ROI_ORDERS)}, or a text file with one label a line."
        )
    if Path(value).is_file():
        return [line.strip() for line in Path(value).read_text(encoding="utf-8").splitlines() if line.strip()]
    return value
