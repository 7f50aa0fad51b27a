"""`brain-transformers check`: what scans are, and what the processor of a model would do about each."""

import argparse
from pathlib import Path
from typing import Any

from ..atlases.roi_orders import ROI_ORDERS
from .flags import check_model
from .prepare import roi_order_of

# How files are read; each is an option of what reads them.
_READING = {
    "t_r": (float, "repetition time in seconds, where the files do not say it"),
    "pattern": (str, "glob of the files below a folder, such as '*/functional/*.mat'"),
    "name_pattern": (str, "regular expression with the group (?P<subject>...), see `prepare --help`"),
    "participants": (Path, "participants table; by default INPUT/participants.tsv"),
    "atlas": (str, "label image (NIfTI) that BOLD images are averaged over"),
    "n_rois": (int, "number of parcels, for an order that is not a known one"),
    "key": (str, "name of the array in npz and mat files that hold several"),
    "time_axis": (int, "axis of time (0 or 1), where shapes do not tell"),
    "brain_mask": (str, "for T1 images: beside or template, see `prepare --help`"),
}


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "check",
        help="look over a file, a folder or a dataset of scans: what each is, and what a model would do about it",
        description=(
            "List for every scan what it is (order, repetition time, length, units by its values, band, cut frames, "
            "constant and missing parcels) and what the processor of --model would do about it: take it, warn, or "
            "refuse it, with the reason. Nothing is prepared or written but the report, and no weights are needed. "
            "Exit status: 0 if no scan would be refused, 1 if one would (with --strict: or be warned of), 2 if the "
            "check could not be made."
        ),
    )
    parser.add_argument("input", type=Path, metavar="INPUT", help="file or folder of scans, or a dataset of `prepare`")
    parser.add_argument("--model", required=True, help="named configuration, or folder or Hub name of a model")
    parser.add_argument(
        "--output", type=Path, help="folder to write: scans.tsv, a row a scan, and report.html with pictures"
    )
    parser.add_argument("--strict", action="store_true", help="exit status 1 for warnings too")
    parser.add_argument("--overwrite", action="store_true", help="replace the report of an earlier check in --output")
    parser.add_argument(
        "--roi-order",
        help=f"order of the parcels in the files: {', '.join(ROI_ORDERS)}, or a text file with one label a line",
    )
    for name, (kind, words) in _READING.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=words)


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""
    if not args.input.exists():
        raise FileNotFoundError(f"{args.input}: there is no such file or folder.")
    check_model(args.model)
    output: Path | None = args.output
    if output is not None and output.exists():
        files = {path.name for path in output.iterdir()} if output.is_dir() else {""}
        if files - {"scans.tsv", "report.html"}:
            raise FileExistsError(
                f"{output} holds something else than the report of a check. Choose another --output."
            )
        if files and not args.overwrite:
            raise FileExistsError(
                f"{output} holds the report of a check. Choose another --output, or pass --overwrite."
            )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from ..hub.checking import check as check_scans
    from ..hub.checking import print_summary
    from ..optional import require

    if args.output is not None:
        require("matplotlib", extra="plot", purpose="pictures of scans")
    options = {name: getattr(args, name) for name in _READING if getattr(args, name) is not None}
    if args.roi_order is not None:
        options["roi_order"] = roi_order_of(args)
    report = check_scans(args.input, args.model, output=args.output, **options)
    print_summary(report)
    if args.output is not None:
        print(f"table and page written to {args.output} (scans.tsv, report.html)")
    return 0 if report.ok(args.strict) else 1
