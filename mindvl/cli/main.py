"""One door: `mindvl VERB ...`.

Verbs are rooms that open only when asked for: listing them, or drawing shards, imports neither torch nor lightning.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from mindvl.cli.ending import run_to_end

LIGHTNING_VERBS = {
    "fit": "train a phase: mindvl fit -c CONFIG (continues where a killed run stopped)",
    "validate": "loss of a checkpoint on held-out shards, and benchmarks that the config names",
    "test": "run a LightningModule's test loop",
    "predict": "answer the questions of shards",
}
VERBS = {
    "recipe": ("mindvl.recipe.command", "run a chain of phases from one file; finished stages are not run again"),
    "data": ("mindvl.cli.data", "data around training: render, import, run recipes, index, see what was consumed"),
    "average": ("mindvl.cli.average", "mean of the weights of several saved models"),
    "resolution": ("mindvl.cli.resolution", "pick a pixel budget for each benchmark, and say what it gains"),
    "export": ("mindvl.cli.export", "write a trained model as stock transformers opens it, and prove that it does"),
    "plan": ("mindvl.cli.plan", "memory, communication and speed of a config on a cluster that need not be here"),
    "ops": ("mindvl.cli.ops", "which kernels run here and why; compare two backends layer by layer"),
    "routing": ("mindvl.cli.routing", "how a mixture of experts routes: record, report, compare, ablate, models"),
    "chat": ("mindvl.cli.chat", "ask a trained model about a picture of your own"),
}
"""Verb -> module with `add_arguments(parser)` and `run(args) -> int`, and what it is for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb and returns the exit status. Human errors are one line and status 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        from mindvl import __version__

        print(f"mindvl {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb in LIGHTNING_VERBS:
            from mindvl.cli.lightning_cli import run_lightning

            return run_lightning([verb, *rest])
        if verb in VERBS:
            module = importlib.import_module(VERBS[verb][0])
            parser = argparse.ArgumentParser(prog=f"mindvl {verb}", description=VERBS[verb][1])
            module.add_arguments(parser)
            return module.run(parser.parse_args(rest))
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        if os.environ.get("MINDVL_TRACEBACK"):
            raise
        print(f"mindvl {verb}: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # of `import torch`, which loads torch_npu where it is installed
        from mindvl.parallel.npu_missing import failed_autoload

        sentence = failed_autoload(error)
        if sentence is None or os.environ.get("MINDVL_TRACEBACK"):
            raise
        print(f"mindvl {verb}: {sentence}", file=sys.stderr)
        return 2
    near = difflib.get_close_matches(verb, [*LIGHTNING_VERBS, *VERBS], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    print(f"mindvl: unknown verb {verb!r}{hint}\n\n{_overview()}", file=sys.stderr)
    return 2


def console() -> int:
    """The console script: `main`, then an end of the process that its threads survive."""
    return run_to_end(main)


def _overview() -> str:
    lines = ["usage: mindvl VERB ...   (mindvl VERB --help says more)", "", "train and evaluate, with LightningCLI:"]
    lines += [f"  {verb:<12}{purpose}" for verb, purpose in LIGHTNING_VERBS.items()]
    lines += ["", "around it:"]
    lines += [f"  {verb:<12}{purpose}" for verb, (_, purpose) in VERBS.items()]
    lines += ["", "Errors are one line; MINDVL_TRACEBACK=1 shows where they come from."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(console())
