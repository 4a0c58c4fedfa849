"""`mindvl resolution MODEL --select ... --report ... -o OUT`: the pixel budget for each benchmark, and its gain."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindvl_callbacks import ResolutionResult, SearchSample

FEW_SAMPLES = 50
"""Below this, the standard error of a score may be above 7 points: a pick is chance more than resolution."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; nothing heavy is imported."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a saved model")
    source = "[NAME[:SPLIT]=]PATH: shards with questions (a glob in quotes), or the file of a benchmark of that name"
    parser.add_argument("--select", action="append", required=True, metavar="SOURCE", help=source)
    parser.add_argument("--report", action="append", metavar="SOURCE", help="the same, of other questions")
    parser.add_argument(
        "--select-ratio", type=float, help="without --report: this share of each source selects, by picture"
    )
    tried = parser.add_mutually_exclusive_group(required=True)
    tried.add_argument("--budgets", metavar="LOW:HIGH,...", help="pixel budgets to try, such as 784:50176,784:313600")
    tried.add_argument("--grid", metavar="min=A,B,max=C,D", help="all pairs of these bounds")
    parser.add_argument("--default", metavar="LOW:HIGH", help="what gains are measured from (default: the model's own)")
    parser.add_argument("--method", choices=("grid", "halving"), default="grid")
    parser.add_argument("--eta", type=int, default=2, help="of halving: one in ETA budgets goes on (default: 2)")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder of the results")
    parser.add_argument("--limit", type=int, help="samples per source and split, at most")
    parser.add_argument("--compat", choices=("lmms-eval", "vlmevalkit"), help="whose prompts and rules benchmarks use")
    parser.add_argument("--max-new-tokens", type=int, help="length of an answer (default: the benchmark's, or 64)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wandb", action="store_true", help="log numbers and curve to W&B too (offline without a key)")


def run(args: argparse.Namespace) -> int:
    if not (args.model / "config.json").is_file():
        raise ValueError(f"{args.model} is no saved model: it has no config.json")
    if (args.report is None) == (args.select_ratio is None):
        raise ValueError("give either --report or --select-ratio: a pick is not reported on what it was made on")
    if args.select_ratio is not None and not 0 < args.select_ratio < 1:
        raise ValueError(f"--select-ratio is {args.select_ratio}, not between 0 and 1")
    tried = parse_budgets(args.budgets) if args.budgets else parse_grid(args.grid)
    default = parse_budgets(args.default) if args.default else []
    if len(default) > 1:
        raise ValueError(f"--default {args.default} names {len(default)} budgets, not 1")

    from mindvl_callbacks import ScoreCache, search_resolution

    from mindvl.cli.quiet import quiet_transformers
    from mindvl.cli.resolution_scorer import load_scorer, saved_fingerprint

    selection, report = _samples(args)
    quiet_transformers()
    scorer = load_scorer(args.model, batch_size=args.batch_size, progress=True)
    fingerprint = saved_fingerprint(args.model, args.max_new_tokens, args.compat)
    results = search_resolution(
        selection,
        report,
        budgets=[*(default or [scorer.default]), *tried],
        score=scorer,
        grid_of=scorer.grid_of,
        method=args.method,
        eta=args.eta,
        seed=args.seed,
        batch_size=args.batch_size,
        cache=ScoreCache(args.out / "scores", fingerprint),
    )
    _write(args, fingerprint, results, [*selection, *report])
    print("\n\n".join(result_table(result) for result in results.values()))
    print(f"\nscored {scorer.num_scored} samples; {args.out}/resolution.json has all numbers, resolution.png the curve")
    return 0


def parse_budgets(text: str) -> list[tuple[int, int]]:
    """Budgets of "784:50176,784:313600". Raises ValueError for other text, and for a minimum above its maximum."""
    budgets = []
    for part in text.split(","):
        low, colon, high = part.strip().partition(":")
        if not (colon and low.isdecimal() and high.isdecimal()):
            raise ValueError(f"budget {part!r} is not LOW:HIGH, two numbers of pixels such as 784:50176")
        if int(low) > int(high):
            raise ValueError(f"budget {part.strip()} has min_pixels {low}, more than its max_pixels {high}")
        budgets.append((int(low), int(high)))
    return budgets


def parse_grid(text: str) -> list[tuple[int, int]]:
    """All budgets of "min=784,3136,max=50176,313600"; pairs whose minimum is above the maximum are no budgets."""
    from mindvl_callbacks import budget_grid

    bounds: dict[str, list[int]] = {"min": [], "max": []}
    name = ""
    for part in text.replace(" ", ",").split(","):
        head, equals, number = part.rpartition("=")
        name = head if equals else name
        if name not in bounds or not number.isdecimal():
            raise ValueError(f"--grid {text!r}: {part!r} is neither a number of pixels nor starts with min= or max=")
        bounds[name].append(int(number))
    budgets = budget_grid(bounds["min"], bounds["max"])
    left_out = len(bounds["min"]) * len(bounds["max"]) - len(budgets)
    if left_out:
        print(f"--grid: {left_out} pairs have a minimum above their maximum, {len(budgets)} are tried", file=sys.stderr)
    return budgets


def _samples(args: argparse.Namespace) -> tuple[list[SearchSample], list[SearchSample]]:
    from mindvl.cli.resolution_questions import divided, load_samples, picture_digests

    settings = {"limit": args.limit, "compat": args.compat, "max_new_tokens": args.max_new_tokens}
    selection = [sample for source in args.select for sample in load_samples(source, **settings)]
    if args.report is None:
        selection, report = divided(selection, args.select_ratio)
    else:
        report = [sample for source in args.report for sample in load_samples(source, **settings)]
    for benchmark in sorted({sample.benchmark for sample in [*selection, *report]}):
        sides = [[one for one in side if one.benchmark == benchmark] for side in (selection, report)]
        if min(map(len, sides)) < FEW_SAMPLES:
            print(
                f"warning: {benchmark} has {len(sides[0])} samples to select on and {len(sides[1])} to report on; "
                f"below {FEW_SAMPLES}, a pick is chance more than resolution",
                file=sys.stderr,
            )
        pictures = [{digest for sample in side for digest in picture_digests(sample)} for side in sides]
        if shared := pictures[0] & pictures[1]:
            print(
                f"warning: {benchmark} selects on {len(shared)} of the {len(pictures[1])} pictures that it reports on",
                file=sys.stderr,
            )
    return selection, report


def _write(
    args: argparse.Namespace,
    fingerprint: str,
    results: dict[str, ResolutionResult],
    samples: Sequence[SearchSample],
) -> None:
    import json
    from dataclasses import asdict

    from mindvl_callbacks.resolution_curve import draw_resolution_curve, png_bytes

    from mindvl import __version__

    args.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "model": str(args.model),
        "fingerprint": fingerprint,
        "mindvl": __version__,
        "select": args.select,
        "report": args.report,
        "select_ratio": args.select_ratio,
        "limit": args.limit,
        "compat": args.compat,
        "max_new_tokens": args.max_new_tokens,
        "results": {name: asdict(result) for name, result in results.items()},
        "failed": [
            {"benchmark": sample.benchmark, "key": sample.key, "reason": sample.content.failure}
            for sample in samples
            if sample.content.failure
        ],
    }
    (args.out / "resolution.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.out / "resolution.png").write_bytes(png_bytes(draw_resolution_curve(results)))
    if args.wandb:
        from mindvl_callbacks.resolution_callback import log_resolution

        from mindvl.cli.loggers import default_loggers

        loggers = default_loggers(args.out, name="resolution")
        log_resolution(loggers, results, step=0)
        for logger in loggers:
            logger.finalize("success")


def result_table(result: ResolutionResult) -> str:
    """One benchmark's budgets as text, with the pick's gain below."""
    lines = [f"{result.benchmark}", f"{'pixels':>17}  tokens  selection               report"]
    for point in result.grid:
        marks = [name for name in ("default", "pick") if point == getattr(result, _FIELDS[name])]
        partial = "" if point.selection.num_samples == result.num_selection else f"  on {point.selection.num_samples}"
        reported = "" if point.report is None else _shown(point.report)
        size = f"{point.min_pixels}-{point.max_pixels}"
        lines.append(
            f"{size:>17}  {point.mean_visual_tokens:>6.1f}  {_shown(point.selection)}  {reported:<22}"
            f"  {' and '.join(marks)}{partial}".rstrip()
        )
    lines.append(
        f"pick - default on {result.num_report} reported samples: {result.difference.score:+.3f} "
        f"[{result.difference.low:+.3f}, {result.difference.high:+.3f}]; "
        f"{result.cost.num_scored} scores asked, {result.cost.num_separate} without the search"
    )
    return "\n".join(lines)


_FIELDS = {"default": "default", "pick": "chosen"}


def _shown(estimate: Any) -> str:
    return f"{estimate.score:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
