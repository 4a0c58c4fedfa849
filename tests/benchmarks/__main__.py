"""`python -m tests.benchmarks [NAME ...]`: speed of what users wait for, beside a rival of the same minute.

A benchmark is a file here with `ROWS`, the names of its numbers, and `measure()`, which returns them. NAME is a row or
a file; rows of one file are measured together. Results are merged by name into bench.json at the top of the repository.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from tests.benchmarks.rows import merge_rows, table

BENCHMARKS = (
    "cli_help",
    "step_matmul_peak",
    "step_vs_padded",
    "plan",
    "plan_671b",
    "index",
    "loader",
    "routing",
    "recorder_overhead",
    "resolution",
    "batched_generation",
    "average",
    "vit",
    "checkpoint",
    "cross_entropy",
    "experts",
    "export_memory",
    "import_memory",
)
RESULTS = Path(__file__).parents[2] / "bench.json"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows or files; all when left out")
    names = parser.parse_args(arguments).names
    modules = {name: importlib.import_module(f"tests.benchmarks.{name}") for name in BENCHMARKS}
    known = {row: module for module in modules.values() for row in module.ROWS} | modules
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(sorted(known))}", file=sys.stderr)
        return 2
    measured = []
    for module in dict.fromkeys(known[name] for name in names or BENCHMARKS):
        start = time.perf_counter()
        print(f"{', '.join(module.ROWS)} ...", file=sys.stderr, flush=True)
        rows = module.measure()
        assert [row.name for row in rows] == list(module.ROWS), (rows, module.ROWS)
        merge_rows(RESULTS, rows)  # at once: a later benchmark that fails loses nothing
        measured += rows
        print(f"    {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print(table(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
