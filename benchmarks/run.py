"""Run every benchmark of this folder, each in a process of its own, and print all tables again at the end.

    python benchmarks/run.py [FAMILY ...]

Results are written to `benchmarks/results/<family>.json`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main() -> int:
    known = {path.stem.removeprefix("bench_"): path for path in sorted(FOLDER.glob("bench_*.py"))}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"one or more of: {', '.join(known)}")
    chosen = parser.parse_args().families or list(known)
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        parser.error(f"unknown families {', '.join(unknown)}; known: {', '.join(known)}")
    codes = {}
    for family in chosen:
        print(f"== {family}", flush=True)
        codes[family] = subprocess.run([sys.executable, str(known[family])], check=False).returncode
    failed = [family for family, code in codes.items() if code]
    if failed:
        print(f"a promise was missed or a benchmark failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
