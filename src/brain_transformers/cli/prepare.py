"""`brain-transformers prepare`: a folder of scans becomes an Arrow dataset."""

import argparse
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atlases.roi_orders import ROI_ORDERS, ROIOrder, order_name, whole_atlases
from ..files import difference, listed, locked, to_json, whole_folder, write_file
from ..optional import require
from ..parts import Parts, Shard, shards_beside
from .flags import add_shard_flags, holds_dataset, processors, shard_of

NEEDS_MODELS = False
_MAX_NAMED = 5
_MADE_OF = "prepared.json"  # saved_datasets.MADE_OF_FILE, which is imported later
# What is done with images that are averaged over an atlas.
_CLEANING = ("confounds", "low_pass", "high_pass", "detrend", "standardize", "min_coverage")
# Kind -> its own flags.
_KINDS = {
    "series": ("roi_order", "atlas", "atlas_names", "n_rois", "key", "time_axis", *_CLEANING),
    "volumes": ("resample", "volume_size", "normalization", "background", "dtype", "min_frames", "check_brain"),
    "t1": ("brain_mask",),
}


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "prepare",
        help="turn a folder of ROI series, of BOLD images with or without an atlas, or of T1 images, into an Arrow "
        "dataset",
        description=(
            "Read every ROI series (npy, npz, csv, tsv, mat, dat, ptseries.nii) below FOLDER, or average every BOLD "
            "image over the parcels of --atlas, and save one Arrow dataset: a row a scan, in its own order, "
            "repetition time and units. With --kind volumes BOLD images in MNI space are normalised and kept whole, "
            "frame by frame in files beside the dataset, for models of volumes (BrainMT); with --kind t1 T1-weighted "
            "images without skull in MNI space, on the grid of 1 mm (Harmonix-S). Names of BIDS, HCP and UK Biobank "
            "tell whose scans they are; for others give --name-pattern. A participants.tsv in FOLDER adds its "
            "columns, with a column session_id by session. Sub-folders train, validation and test become splits, or "
            "--split draws them. Files that are left out, if any, are listed in skipped_files.tsv. The same command "
            "goes on where an interrupted one stopped."
        ),
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder with the scans")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; appears complete or not at all")
    parser.add_argument(
        "--kind", choices=tuple(_KINDS), default="series", help="what a row holds; series of ROIs by default"
    )
    parser.add_argument(
        "--roi-order",
        help=f"order of the parcels: one of {', '.join(ROI_ORDERS)}, or a text file with one label a line; by default "
        "what labels in the files or their names tell, and rows with labels are put into an order that is given",
    )
    parser.add_argument(
        "--t-r", type=float, help="repetition time in seconds; by default what the files say, and never against it"
    )
    parser.add_argument(
        "--atlas",
        help="label image for BOLD images: a NIfTI file, a .dlabel.nii for dense CIFTI, schaefer400-7net / -17net or "
        "nilearn:NAME to fetch it, or package:NAME/FILE of an installed package; for runs with tables of several "
        "atlases the one to take, such as 4S456Parcels, or several joined with +",
    )
    parser.add_argument(
        "--atlas-names",
        type=Path,
        help="table with a number and a name in every line, for a label image; by default the one beside it",
    )
    parser.add_argument("--n-rois", type=int, help="number of parcels, for an order that is not a known one")
    parser.add_argument("--pattern", help="glob of the files below FOLDER, such as '*/functional/*.mat'")
    parser.add_argument(
        "--name-pattern",
        help="regular expression with the group (?P<subject>...), and session, run, task, acq, dir, space, desc where "
        "they apply, searched in the path below FOLDER, such as '^(?P<subject>[^_]+)_'",
    )
    parser.add_argument("--participants", type=Path, help="participants table; by default FOLDER/participants.tsv")
    parser.add_argument("--key", help="name of the array in npz and mat files that hold several")
    parser.add_argument("--time-axis", type=int, choices=(0, 1), help="axis of time, where shapes do not tell")
    images = parser.add_argument_group("for BOLD images and --atlas; cleaning is nilearn's, and none by default")
    images.add_argument(
        "--confounds",
        nargs="+",
        metavar="STRATEGY",
        help="confounds of fMRIPrep to regress out, by the strategies of nilearn's load_confounds (motion, wm_csf, "
        "global_signal, compcor, scrub, ...) and its options (motion=basic, fd_threshold=0.5)",
    )
    images.add_argument("--low-pass", type=float, help="upper edge of a Butterworth filter, Hz")
    images.add_argument("--high-pass", type=float, help="lower edge of it, Hz")
    images.add_argument("--detrend", action="store_true", default=None, help="remove a line from each series")
    images.add_argument("--standardize", choices=("zscore_sample", "psc"), help="scale each series")
    images.add_argument(
        "--min-coverage",
        type=float,
        help="parcels of which less than this share holds data are missing (0.5 by default, as in XCP-D)",
    )
    volumes = parser.add_argument_group("for --kind volumes")
    volumes.add_argument(
        "--resample",
        action="store_true",
        default=None,
        help="bring images on other grids to that of MNI152 at 2 mm, linearly",
    )
    volumes.add_argument(
        "--volume-size",
        type=int,
        nargs=3,
        metavar=("Y", "X", "Z"),
        help="voxels of a volume, 109 91 91 by default: MNI152 at 2 mm; with --resample others are coarser or finer "
        "grids over the same space",
    )
    volumes.add_argument(
        "--normalization",
        help="zscore (default, as BrainMT's authors: one mean and deviation a scan), zscore-voxel, minmax or none",
    )
    volumes.add_argument("--background", help="what voxels that are 0 become: min (default, the least value) or zero")
    volumes.add_argument("--dtype", help="float16 (default), or int8 in half the room; what rounding loses is printed")
    volumes.add_argument("--min-frames", type=int, help="images with fewer frames are refused; by default 2")
    volumes.add_argument(
        "--check-brain",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="refuse images on the grid of MNI152 whose brain is turned or moved against the template's (default)",
    )
    parser.add_argument(
        "--brain-mask",
        help="for T1 images (--kind t1, --t1): how those that have their skull lose it: beside (the desc-brain_mask "
        "of the same scan, as fMRIPrep writes it) or template (that of MNI152, which fits less well); by default none "
        "has one",
    )
    parser.add_argument(
        "--t1",
        type=Path,
        metavar="FOLDER",
        help="join every scan with the T1 volume of its person and session, for models of both (BrainHarmony): a "
        "folder of T1 images, or a dataset of --kind t1; FOLDER of the scans may then be a dataset too. Who lacks one "
        "has a row without it",
    )
    parser.add_argument(
        "--only-pairs", action="store_true", help="with --t1: leave out scans and volumes that lack the other"
    )
    splits = parser.add_argument_group("splits by subject")
    splits.add_argument(
        "--split",
        nargs="+",
        metavar="NAME=SHARE",
        help="split the subjects, such as train=0.8 validation=0.1 test=0.1; all scans of a person are in one split",
    )
    splits.add_argument("--stratify", metavar="COLUMN", help="column that is to be alike in all splits, such as sex")
    splits.add_argument("--groups", metavar="COLUMN", help="column that keeps people together, such as family_id")
    splits.add_argument("--seed", type=int, default=0, help="of the splits (default 0)")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="skip",
        help="skip (default): leave out files that cannot be used; raise: write nothing if there are any",
    )
    parser.add_argument("--strict", action="store_true", help="exit status 1 if a file could not be used")
    parser.add_argument(
        "--num-proc", "--num-workers", type=int, help="processes that read files; by default as many as processors"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace --output if it is a dataset, and what an interrupted run with other options has read; other "
        "files stay",
    )
    add_shard_flags(parser, "files")


def check(args: argparse.Namespace) -> None:
    """Raise unless nothing is at the output, or it may be replaced: a dataset, and never what is read from.

    Raises:
        FileExistsError: if there is something that must not be replaced.
        ValueError: for flags of another kind of rows.
    """
    for kind, flags in _KINDS.items():
        given = [name for name in flags if getattr(args, name) is not None]
        if args.t1 is not None and kind in ("series", "t1"):
            continue
        if kind != args.kind and given:
            raise ValueError(f"--{given[0].replace('_', '-')} is for --kind {kind}, got --kind {args.kind}.")
    if args.t1 is not None and args.kind != "series":
        raise ValueError(f"--t1 joins T1 volumes to series of ROIs, got --kind {args.kind}. Leave one of them out.")
    if args.only_pairs and args.t1 is None:
        raise ValueError("--only-pairs is for --t1, which joins T1 volumes to the scans. Leave it out.")
    if args.kind == "t1" and args.t_r is not None:
        raise ValueError("--t-r is for scans over time, got --kind t1. Leave it out.")
    if args.t1 is not None and (shard_of(args) is not None or args.merge):
        raise ValueError(
            "--shard and --merge read one folder. Prepare scans and T1 images each by themselves, and join the "
            "datasets: prepare DATASET --t1 T1_DATASET."
        )
    _shares(args)
    output: Path = args.output
    if not output.exists():
        return
    if not args.overwrite:
        if not (output / _MADE_OF).is_file():
            raise FileExistsError(f"{output} exists. Choose another --output, or pass --overwrite.")
        return
    read = (args.folder, args.participants, args.atlas, args.roi_order, args.t1)
    for source in [Path(value) for value in read if value is not None and Path(value).exists()]:
        if output.resolve() in (source.resolve(), *source.resolve().parents):
            raise FileExistsError(
                f"--overwrite would delete {source}, which is to be read: it lies in --output {output}. Choose "
                "another --output."
            )
    if not holds_dataset(output) and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(
            f"{output} is no dataset that an earlier call wrote, so --overwrite does not delete it. Choose another "
            "--output, or remove it yourself."
        )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    require("datasets", extra="data", purpose="preparing datasets")
    from ..data.errors import ROISeriesReadError
    from ..data.prepared import joined, make_shard

    output, shard = args.output, shard_of(args)
    # Images that take minutes each are kept here until all are done, so that the same command goes on.
    scans = output.with_name(f".{output.name}.prepared-scans")
    with tempfile.TemporaryDirectory() as cache:
        builder = _builder(args, Path(cache), scans)
    made_of = {**builder.made_of(), "split": _shares(args)}
    if output.exists() and not args.overwrite:
        return _is_there(output, made_of)
    held: list[Parts] = []

    def saved() -> None:
        args.go_on = ""  # the same command goes on from here

    def shards_of(one: Any) -> tuple[Parts, dict[str, Any]]:
        """Where the files of a folder are read into, and what these follow from."""
        settings = one.made_of()
        if shard is None and not args.merge:
            folder = output.with_name(f".{output.name}.{next(iter(one.kind.columns))}.shards")
            held.append(Parts(folder, 1, ".arrow", name="shard"))
            held[-1].bind(
                settings,
                what="scans that an interrupted run has read",
                fix="Repeat its command to go on, or pass --overwrite to start anew.",
                overwrite=args.overwrite or _only_scans_differ(folder, settings),
            )
        else:
            held.append(shards_beside(output, ".arrow", None if shard is None else shard.count))
            settings |= {"shards": held[-1].count}
            fix = f"Give every shard the same command and files, or remove {held[-1].folder} to start anew."
            held[-1].bind(settings, what="shards of a dataset", fix=fix)
        return held[-1], settings

    def read(one: Any, share: Shard) -> Parts:
        shards, settings = shards_of(one)
        if not args.merge and shards.read(share.number - 1) is None:
            make_shard(one, shards, share, settings, num_proc=args.num_proc or processors(), saved=saved)
        return shards

    if shard is not None:
        with locked(Path(f"{output}.shards") / f"{shard.number}-of-{shard.count}", "preparing a shard"):
            return _told(args, shard, read(builder, shard))
    with locked(output, "preparing a dataset"):
        try:
            dataset = builder.rows(lambda one: joined(one, read(one, Shard(1, 1))))
            left_out = _save(args, builder, dataset, made_of)
        except BaseException as error:
            begun = any(
                any(shards.folder.glob("*shard-*.json")) or any(shards.folder.glob(".*/*.json")) for shards in held
            )
            if not args.merge and (isinstance(error, ROISeriesReadError) or not begun):
                for shards in held:  # files or options have to change first, or nothing took time
                    shards.remove()
            if any(scans.glob("*.json")):
                saved()
            else:
                shutil.rmtree(scans, ignore_errors=True)
            raise
        for shards in held:
            shards.remove()
            if not args.merge:  # a folder of this command alone, where datasets may have left a cache
                shutil.rmtree(shards.folder, ignore_errors=True)
        shutil.rmtree(scans, ignore_errors=True)
    return 1 if args.strict and left_out else 0


def _only_scans_differ(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether files have changed since an interrupted run, and nothing else: all are read anew then."""
    try:
        before = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        changed = difference(before, json.loads(json.dumps(settings, default=str)))
    except (OSError, ValueError, AttributeError, RecursionError):
        return True
    only = bool(changed) and all(line.startswith(("scans.", "version")) for line in changed)
    if only:
        print("the files have changed since an earlier run was interrupted, so all are read anew")
    return only


def _is_there(output: Path, made_of: dict[str, Any]) -> int:
    """Say that the dataset is there.

    Raises:
        FileExistsError: if it was made in another way, or of other files.
    """
    try:
        before = json.loads((output / _MADE_OF).read_text(encoding="utf-8"))["made of"]
        changed = difference(before, json.loads(json.dumps(made_of, default=str)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileExistsError(
            f"{output} exists, and what it was made of cannot be read ({error}). Choose another --output, or pass "
            "--overwrite."
        ) from error
    if changed:
        raise FileExistsError(
            f"{output} exists, and was made in another way or of other files ({listed(changed)}). Choose another "
            "--output, or pass --overwrite."
        )
    print(f"dataset is in {output} already, made of the same files in the same way")
    return 0


def _told(args: argparse.Namespace, shard: Shard, shards: Parts) -> int:
    """Say what is in a shard; returns the exit code."""
    said = shards.read(shard.number - 1) or {"bad": [], "splits": []}
    bad = said["bad"]
    print(
        f"shard {shard}: {sum(rows for _, rows in said['splits'])} files, {len(bad)} of them cannot be used, in "
        f"{shards.path(shard.number - 1)}"
    )
    if bad:
        print(f"  first: {' '.join(bad[0].split())}")
    return 1 if bad and (args.strict or args.on_error == "raise") else 0


def _save(args: argparse.Namespace, builder: Any, dataset: Any, made_of: dict[str, Any]) -> int:
    """Write the dataset and say what is in it; returns how many files could not be used."""
    from ..data.participants import table_cell
    from ..data.row_kinds import counted
    from ..data.saved_datasets import SKIPPED_FILE, is_saved_file, save_dataset
    from ..data.subject_splits import describe_strata, split_subjects

    shares = made_of["split"]
    with whole_folder(args.output, is_ours=is_saved_file) as work:
        if shares is not None:
            if isinstance(dataset, dict):
                raise ValueError(f"{args.folder} has the splits {', '.join(dataset)} already. Leave --split out.")
            dataset = split_subjects(dataset, **shares)
        save_dataset(dataset, work)
        left_out = {**builder.skipped, **builder.left_out}
        if left_out:
            lines = [f"{table_cell(name)}\t{table_cell(' '.join(why.split()))}\n" for name, why in left_out.items()]
            write_file(work / SKIPPED_FILE, "".join(["source_file\terror\n", *lines]))
        write_file(work / _MADE_OF, to_json({"made of": json.loads(json.dumps(made_of, default=str))}))
        said = _report(dataset, builder, args.t_r)
        if shares is not None and shares["stratify"] is not None:
            said += describe_strata(dataset, shares["stratify"])
    print("\n".join(said))
    if left_out:
        were = "was" if len(left_out) == 1 else "were"
        print(f"{counted(len(left_out), 'file')} {were} left out; see {args.output / SKIPPED_FILE}:")
        for why, names in _by_reason(builder).items():
            print(f"  {len(names)}: {why} (first: {names[0]})")
    print(f"dataset written to {args.output}")
    return len(builder.skipped)


def _shares(args: argparse.Namespace) -> dict[str, Any] | None:
    """What `--split` and its flags say, for [`split_subjects`].

    Raises:
        ValueError: if they say no shares.
    """
    if args.split is None:
        if args.stratify is not None or args.groups is not None:
            raise ValueError("--stratify and --groups say how --split splits. Give it too, or leave them out.")
        return None
    shares: dict[str, float] = {}
    for word in args.split:
        name, _, share = word.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            shares[name] = 0
        if name not in ("train", "validation", "test") or not 0 < shares[name] <= 1:
            raise ValueError(
                f"--split {word}: expected NAME=SHARE of train, validation and test, such as train=0.8 validation=0.1 "
                "test=0.1."
            )
    if abs(sum(shares.values()) - 1) > 1e-6 or len(shares) < len(args.split):
        raise ValueError(f"--split {' '.join(args.split)}: expected shares of different splits that sum to 1.")
    return {"shares": shares, "stratify": args.stratify, "groups": args.groups, "seed": args.seed}


def _builder(args: argparse.Namespace, cache: Path, parts: Path) -> Any:
    """What builds the dataset, by its kind."""
    if args.t1 is not None:
        return _pair_builder(args, cache, parts)
    shared = ("pattern", "name_pattern", "participants", "on_error", "t_r")
    options: dict[str, Any] = {name: getattr(args, name) for name in shared}
    own = {name: getattr(args, name) for name in _KINDS[args.kind] if getattr(args, name) is not None}
    if args.kind == "volumes":
        from ..data.volumes import VolumeFolderBuilder

        return VolumeFolderBuilder(args.folder, frames_folder=parts, cache_dir=cache, **options, **own)
    if args.kind == "t1":
        from ..data.t1_volumes import T1FolderBuilder

        del options["t_r"]
        return T1FolderBuilder(args.folder, volumes_folder=parts, cache_dir=cache, **options, **own)
    from ..data.builders import ROISeriesFolderBuilder

    own["cleaning"] = {name: own.pop(name) for name in _CLEANING if name in own}
    if "confounds" in own["cleaning"]:
        own["cleaning"]["confounds"] = _strategy(own["cleaning"]["confounds"])
    return ROISeriesFolderBuilder(args.folder, cache_dir=cache, **options, **{**own, "roi_order": roi_order_of(args)})


def _pair_builder(args: argparse.Namespace, cache: Path, parts: Path) -> Any:
    """What joins series and T1 volumes, each of a folder or of a dataset."""
    from ..data.pairs import PairFolderBuilder
    from ..data.saved_datasets import load_saved

    def given(folder: Path, kind: str, **others: Any) -> Any:
        if holds_dataset(folder):
            return load_saved(folder)
        own = argparse.Namespace(**{**vars(args), "t1": None, "kind": kind, "folder": folder, **others})
        return _builder(own, cache / kind, parts)

    of_series = [f"--{name.replace('_', '-')}" for name in _KINDS["series"] if getattr(args, name) is not None]
    if holds_dataset(args.folder) and (of_series or args.pattern):
        raise ValueError(
            f"{(of_series or ['--pattern'])[0]} changes nothing, since {args.folder} is a dataset that is prepared "
            "already. Leave it out."
        )
    people = [args.participants, args.t1 / "participants.tsv", args.folder / "participants.tsv"]
    table = next((file for file in people if file is not None and file.is_file()), None)
    # A pattern finds the series; T1 images are found by their names.
    volumes = given(args.t1, "t1", pattern=None, participants=table)
    return PairFolderBuilder(given(args.folder, "series"), volumes, only_pairs=args.only_pairs)


def _strategy(words: Sequence[str]) -> dict[str, Any]:
    """Options of nilearn's load_confounds: strategies, and `name=value`."""
    options: dict[str, Any] = {"strategy": [word for word in words if "=" not in word]}
    for name, value in (word.split("=", 1) for word in words if "=" in word):
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _report(dataset: Any, builder: Any, t_r: float | None) -> list[str]:
    """What is in the dataset, as lines: counts of its rows alone."""
    from ..data.cleaning import cleaning_in_words
    from ..data.row_kinds import column_of, counted, span

    said: list[str] = []
    splits_of: dict[str, list[str]] = {}
    for split, part in (dataset if isinstance(dataset, dict) else {"": dataset}).items():
        names = ("t_r", "subject", "subject_known", "session", "task")
        columns = {name: column_of(part, name) for name in names if name in part.column_names}
        subjects = sorted(set(columns["subject"]))
        for subject in subjects:
            splits_of.setdefault(subject, []).append(split)
        unknown = columns["subject_known"].count(False)
        whose = "" if not unknown else f" ({unknown} files count as a person each, since no name says whose they are)"
        how_many = f"{counted(len(part), 'scan')} of {counted(len(subjects), 'subject')}{whose}"
        said.append(f"{split + ': ' if split else ''}{how_many}, {builder.kind.sizes(part)}")
        if "roi_order" in part.column_names:
            orders = {order_name(order) for order in set(column_of(part, "roi_order")) if order is not None}
            said.append(f"  order of parcels: {'; '.join(sorted(orders)[:_MAX_NAMED])}")
            inside = {name for order in set(column_of(part, "roi_order")) if order and (name := whole_atlases(order))}
            said += [
                f"  (all of {name} are among them: --roi-order {name} keeps these alone)" for name in sorted(inside)
            ]
        if "provenance" in part.column_names and (cleaned := cleaning_in_words(part)):
            said.append(f"  cleaned: {cleaned}")
        named = [f"{name}s: {_counts(columns[name])}" for name in ("session", "task") if any(columns[name])]
        if "t_r" not in columns:
            said += [f"  {'; '.join(named)}"] if named else []
            continue
        known = [value for value in columns["t_r"] if value is not None and value == value]
        no_scan = column_of(part, "n_timepoints").count(None) if "n_timepoints" in part.column_names else 0
        lacking = len(part) - len(known) - no_scan
        times = f"t_r: {span(known)} s ({'--t-r' if t_r is not None else 'from the files'})" if known else "t_r: "
        times += f"{', ' if known else ''}{counted(lacking, 'scan')} without (give --t-r)" if lacking else ""
        said.append("  " + "; ".join([*named, times]))
        if lacking:
            said.append(
                f"warning: {counted(lacking, 'scan')} without a repetition time, which models take to be their own: "
                "neither file nor sidecar says it. Prepare again with --t-r SECONDS"
            )
    if shared := sorted(subject for subject, names in splits_of.items() if len(names) > 1):
        said.append(
            f"warning: {len(shared)} subjects are in several splits (first {shared[0]}: "
            f"{', '.join(splits_of[shared[0]])}), so what is trained on one knows people of another"
        )
    if absent := len(builder.people - set(splits_of)):
        said.append(f"{absent} of {len(builder.people)} people in the participants table have no scan here")
    return said


def _counts(values: Sequence[str | None]) -> str:
    from ..data.row_kinds import counted

    counts = Counter("none" if value is None else value for value in values)
    named = [f"{value} ({counted(count, 'scan')})" for value, count in counts.most_common(_MAX_NAMED)]
    return ", ".join(named) + (f" and {len(counts) - _MAX_NAMED} more" if len(counts) > _MAX_NAMED else "")


def _by_reason(builder: Any) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name in builder.skipped:
        reasons.setdefault("cannot be used", []).append(name)
    for name, why in builder.left_out.items():
        reasons.setdefault(why, []).append(name)
    return reasons


def roi_order_of(args: argparse.Namespace) -> ROIOrder | None:
    value = args.roi_order
    if (
        value is None
        or value.startswith("[")
        or not (Path(value).is_file() or Path(value).suffix in (".txt", ".csv", ".tsv"))
    ):
        return value
    try:
        lines = Path(value).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--roi-order {value}: expected a text file with one label a line ({error}).") from error
    labels = [line.strip() for line in lines if line.strip()]
    if not labels:
        raise ValueError(f"--roi-order {value}: the file has no labels; expected one a line.")
    return labels
