"""`mindvl data run RECIPE` makes what a data recipe describes; `mindvl data steps` lists what a recipe can name."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments; imports nothing heavy, so that `--help` answers at once."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file, see configs/data/warmup.yaml")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    parser.add_argument(
        "--runner", choices=("local", "ray"), default="local", help="this machine's processes, or Ray Data"
    )
    parser.add_argument("--samples", type=int, metavar="N", help="a trial: at most N samples of each source and split")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a top-level key")
    parser.add_argument("--overwrite", action="store_true", help="replace the output of another recipe")


def run(args: argparse.Namespace) -> int:
    """Runs the recipe and prints what became of the samples; human errors leave as `ValueError`."""
    from mindvl.data.steps.loading import load_data_recipe
    from mindvl.data.steps.report import print_report
    from mindvl.data.steps.run import run_recipe

    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers is {args.workers}; it must be at least 1")
    changes = {}
    for change in args.set:
        key, sign, value = change.partition("=")
        if not sign:
            raise ValueError(f"--set {change} is not KEY=VALUE")
        changes[key] = value
    recipe = load_data_recipe(args.recipe, changes, samples=args.samples)
    report = run_recipe(recipe, workers=args.workers, runner=args.runner, overwrite=args.overwrite)
    print_report(report)
    print(f"{len(report['shards'])} shards and report.md under {recipe.out}", file=sys.stderr)
    return 0


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `mindvl data steps`: there are none."""
    parser.description = "the steps that a data recipe can name, with their arguments and defaults"


def run_list(args: argparse.Namespace) -> int:
    """Prints every step with its purpose and its arguments."""
    from mindvl.data.steps.table import STEPS

    for name, kind in STEPS.items():
        arguments = ", ".join(f"{key}: {value!r}" for key, value in kind.defaults.items())
        scope = "whole corpus" if kind.sees_corpus else "each sample"
        needs = f", needs {kind.needs}" if kind.needs else ""
        print(f"{name}: {{{arguments}}}\n    {kind.purpose} ({scope}{needs})")
    return 0
