"""`brain-transformers probe`: what a linear model reads from a table of embeddings."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import to_json, write_file

NEEDS_MODELS = False


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "probe",
        help="predict a label from a table of embeddings with a linear model",
        description=(
            "Cross-validated linear probe on a table that `brain-transformers embed` wrote: logistic regression or "
            "ridge, regularised inside the training folds, beside the guess that ignores the embeddings. Scans of "
            "one subject stay on one side of every split. (The Brain-Semantoks protocol, with repeated random splits "
            "and a grid of learning rates, is linear_probe_protocol in Python; with the whole network trained it is "
            "finetune --repetitions.)"
        ),
    )
    parser.add_argument("table", type=Path, metavar="TABLE", help="parquet or csv with columns e000, e001, ...")
    parser.add_argument("--label", required=True, help="column to predict")
    parser.add_argument("--groups", default="subject", help="column that keeps rows together (default subject)")
    parser.add_argument(
        "--task",
        choices=("classification", "regression"),
        help="by default as the labels are: words, two whole numbers and codes up to 10 are classes",
    )
    parser.add_argument("--folds", type=int, default=5, help="folds of the cross-validation (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the folds (default 0)")
    parser.add_argument("--output", type=Path, help="JSON file for the scores")


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""
    if args.output is not None and args.output.is_dir():
        raise IsADirectoryError(f"--output {args.output} is a folder; give the name of a file.")
    if args.folds < 2:
        raise ValueError(f"--folds must be at least 2, got {args.folds}.")
    if not args.table.is_file():
        raise FileNotFoundError(f"{args.table}: there is no such table. Write one with `brain-transformers embed`.")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from ..optional import require

    require("pandas", extra="eval", purpose="tables of embeddings")
    from ..evaluation.embedding_parts import read_table

    table = read_table(args.table)
    try:
        return _probe(args, table)
    except ValueError as error:
        raise error if str(args.table) in str(error) else ValueError(f"{args.table}: {error}") from error


def _probe(args: argparse.Namespace, table: Any) -> int:
    from ..data.labels import Labels
    from ..data.participants import is_gap, say_files_as_people
    from ..data.synthetic import SYNTHETIC
    from ..evaluation.embedding import embedding_columns
    from ..evaluation.probing import probe

    features = embedding_columns(table)
    others = [str(name) for name in table.columns if name not in set(features)]
    label, groups = (_column(others, name) for name in (args.label, args.groups))
    labels = Labels.from_values(table[label].tolist(), args.label, args.task)
    if len(labels.rows) < len(table):
        print(f"{len(table) - len(labels.rows)} of {len(table)} rows have no {args.label} and are left out")
    known = table.iloc[labels.rows]
    owners = known[groups].tolist()
    if missing := [row for row, owner in zip(labels.rows, owners) if is_gap(owner)]:
        raise ValueError(
            f"row {missing[0]} has no {args.groups}, so it could stand on both sides of a split. Fill "
            "the column in, or pass another as --groups (source_file where every scan is of another person)."
        )
    if groups == "subject" and (note := say_files_as_people(known)):
        print(f"warning: {note}")
    made_up = SYNTHETIC in others and bool(known[SYNTHETIC].fillna(False).any())
    if made_up:
        print("warning: these scans are synthetic (brain_transformers.synthetic_scans); nothing in them was measured")
    result = probe(
        _numbers(known, features),
        labels.values,
        groups=[str(owner) for owner in owners],
        task=labels.task,
        n_splits=args.folds,
        seed=args.seed,
    )
    print(
        f"{result.task} of {args.label}: {labels.describe()}, {len(known)} rows, {result.n_groups} groups, "
        f"{result.n_splits} folds"
    )
    width = max(len(name) for name in result.scores)
    print(f"{'':{width}}  probe  (without features)")
    for metric, value in result.scores.items():
        blind = result.baseline[metric]
        print(f"{metric:{width}}  {value:.3f}  ({'n/a' if blind != blind else f'{blind:.3f}'})")
    if args.output is not None:
        content = {
            "task": result.task,
            "label": args.label,
            "classes": list(labels.label2id) if labels.label2id is not None else None,
            "n_rows": len(known),
            "n_groups": result.n_groups,
            "n_splits": result.n_splits,
            "seed": args.seed,
            **({SYNTHETIC: True} if made_up else {}),
            "scores": result.scores,
            "fold_scores": result.fold_scores,
            "baseline": result.baseline,
        }
        write_file(args.output, to_json(content))
        print(f"scores written to {args.output}")
        for metric, values in result.fold_scores.items():
            if undefined := sum(value != value for value in values):
                print(
                    f"{metric} is not defined in {undefined} of {len(values)} folds (null), which lack a class or a "
                    "spread; the score of all rows together is"
                )
    return 0


def _column(columns: Sequence[str], name: str) -> str:
    """The column that is meant by a name, which `embed` prefixes where the table has such a column of its own."""
    of_table = f"participant_{name}"
    if name in columns and of_table in columns:
        print(f"warning: {name} is what `embed` wrote; the column of the participants table is {of_table}")
    for column in (name, of_table):
        if column in columns:
            return column
    raise ValueError(f"there is no column {name!r} beside the embedding, only {', '.join(columns)}.")


def _numbers(table: Any, features: Sequence[str]) -> Any:
    """The embedding of every row as float64 `(n_rows, n_features)`.

    Raises:
        ValueError: if a cell is not a finite number.
    """
    import numpy as np

    try:
        values = table[list(features)].to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected numbers in {features[0]} to {features[-1]} ({error}).") from error
    if bad := np.flatnonzero(~np.isfinite(values).all(1)).tolist():
        raise ValueError(
            f"{len(bad)} of {len(values)} embeddings are not finite (first: row {table.index[bad[0]]}). Embed "
            "these scans again with --on-error skip, or leave their rows out."
        )
    return values
