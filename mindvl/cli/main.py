"""One door: `mindvl VERB ...`.

Verbs are rooms that open only when asked for: listing them, or drawing shards, imports neither torch nor lightning.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import select
import signal
import sys
from collections.abc import Sequence

from mindvl.cli.ending import run_to_end

LIGHTNING_VERBS = {
    "fit": "train a phase: mindvl fit -c CONFIG (continues where a killed run stopped)",
    "validate": "loss on held-out shards, and benchmarks that the config names",
    "test": "ask the questions of held-out shards and score the answers",
    "predict": "answer the questions of held-out shards, one JSON line each",
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
    except Exception as error:
        sentence = _sentence(error)
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
    return run_to_end(_until_nobody_reads)


def _until_nobody_reads() -> int:
    """`main`, ended quietly where stdout leads into a pipe whose reader has left: `mindvl ops | head -1`."""
    try:
        try:
            return main()
        finally:
            if sys.stdout is not None:  # as under `>&-`
                sys.stdout.flush()
    except BrokenPipeError:
        if not _has_no_reader(sys.stdout.fileno()):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return 128 + signal.SIGPIPE


def _has_no_reader(descriptor: int) -> bool:
    watched = select.poll()
    watched.register(descriptor, select.POLLOUT)
    return any(state & select.POLLERR for _, state in watched.poll(0))


def _sentence(error: Exception) -> str | None:
    """What there is to say about an error of the user's or the machine's; None for ours, which need their traceback."""
    if isinstance(error, ValueError | FileNotFoundError | FloatingPointError):
        return str(error)
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # transformers' are of many lines
        return str(error).strip().partition("\n")[0]
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, known by name lest light verbs import it
        return " ".join(str(error).split())
    if isinstance(error, RuntimeError):  # of `import torch`, which loads torch_npu where it is installed
        from mindvl.parallel.npu_missing import failed_autoload

        return failed_autoload(error)
    return None


def _overview() -> str:
    lines = ["usage: mindvl VERB ...   (mindvl VERB --help says more)", "", "train and evaluate, with LightningCLI:"]
    lines += [f"  {verb:<12}{purpose}" for verb, purpose in LIGHTNING_VERBS.items()]
    lines += ["", "around it:"]
    lines += [f"  {verb:<12}{purpose}" for verb, (_, purpose) in VERBS.items()]
    lines += ["", "Errors are one line; MINDVL_TRACEBACK=1 shows where they come from."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(console())
