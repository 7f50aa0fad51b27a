"""Prepare a folder of scans in shards that datatrove runs: `python datatrove_shards.py derivatives/ dataset/`.

A task that is done leaves a marker of datatrove's and one of `prepare`'s: the same line again runs what is missing.
`SlurmPipelineExecutor`, with `partition` and `time`, takes the place of the local one on a cluster.
"""

import sys
from functools import partial

from datatrove.executor import LocalPipelineExecutor

from brain_transformers.cli.main import main

TASKS = 4


def shard(data, rank: int, world_size: int, *, words: list[str]):
    """One share of the files."""
    if main(["prepare", *words, "--shard", f"{rank + 1}/{world_size}", "--num-proc", "1"]):
        raise RuntimeError(f"shard {rank + 1}/{world_size} failed; its log says why")
    yield from ()


def merge(data, rank: int, world_size: int, *, words: list[str]):
    """The dataset of all shares."""
    if main(["prepare", *words, "--merge"]):
        raise RuntimeError("the shards could not be joined; the log says why")
    yield from ()


if __name__ == "__main__":
    scans, output, *more = sys.argv[1:]
    words = [scans, "--output", output, *more]
    logs = f"{output.rstrip('/')}.logs"
    shards = LocalPipelineExecutor([partial(shard, words=words)], tasks=TASKS, workers=2, logging_dir=f"{logs}/shards")
    LocalPipelineExecutor([partial(merge, words=words)], logging_dir=f"{logs}/merge", depends=shards).run()
