"""Ranks of test_meshes.py: mesh_ranks.py FOLDER; FOLDER/cases holds the cases by world size."""

import sys
from pathlib import Path

import torch
from harness import Case, run_case
from worlds import run_worlds

from mindvl.cli.quiet import quiet_lightning


def main(folder: Path) -> None:
    quiet_lightning()
    cases = torch.load(folder / "cases", weights_only=False)

    def run(size: int) -> None:
        for case in cases[size]:
            run_case(Case(**case), folder)

    run_worlds({size: lambda size=size: run(size) for size in cases})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
