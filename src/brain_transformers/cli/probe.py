"""`brain-transformers probe`: what a linear model reads from a table of embeddings."""

import argparse
import json
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
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
    parser.add_argument("--task", choices=("classification", "regression"), help="by default from the label's type")
    parser.add_argument("--folds", type=int, default=5, help="folds of the cross-validation (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the folds (default 0)")
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if not args.table.is_file():
        raise FileNotFoundError(f"{args.table}: there is no such table. Write one with `brain-transformers embed`.")

    from ..optional import require

    pandas = require("pandas", extra="eval", purpose="tables of embeddings")
    from ..evaluation.embedding import embedding_columns
    from ..evaluation.probing import probe

    read = pandas.read_csv if args.table.suffix.lower() == ".csv" else pandas.read_parquet
    table = read(args.table)
    for column in (args.label, args.groups):
        if column not in table:
            others = [name for name in table.columns if name not in set(embedding_columns(table))]
            raise ValueError(f"{args.table} has no column {column!r}; it has {', '.join(map(str, others))}.")
    known = table[table[args.label].notna()]
    if len(known) < len(table):
        print(f"{len(table) - len(known)} of {len(table)} rows have no {args.label} and are left out")
    result = probe(
        known[embedding_columns(table)].to_numpy(),
        known[args.label].to_numpy(),
        groups=known[args.groups].astype(str).to_numpy(),
        task=args.task,
        n_splits=args.folds,
        seed=args.seed,
    )
    print(f"{result.task} of {args.label}: {len(known)} rows, {result.n_groups} groups, {result.n_splits} folds")
    width = max(len(name) for name in result.scores)
    print(f"{'':{width}}  probe  (without features)")
    for metric, value in result.scores.items():
        print(f"{metric:{width}}  {value:.3f}  ({result.baseline[metric]:.3f})")
    if args.output is not None:
        from ..plotting.report import write_atomically

        content = {
            "task": result.task,
            "label": args.label,
            "n_rows": len(known),
            "n_groups": result.n_groups,
            "n_splits": result.n_splits,
            "seed": args.seed,
            "scores": result.scores,
            "fold_scores": result.fold_scores,
            "baseline": result.baseline,
        }
        write_atomically(args.output, json.dumps(content, indent=2) + "\n")
        print(f"scores written to {args.output}")
    return 0
