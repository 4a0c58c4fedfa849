"""From the lines of all ranks to a score that carries its settings.

docvqa.jsonl    a line per question in the order of the benchmark's file: what was asked, said, read and scored
summary.json    per benchmark the score with all that it hangs on, and MindVL's "overall" if its six columns are whole
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mindvl.eval.benchmarks import PAPER_COLUMNS, Benchmark, overall
from mindvl.eval.metrics.mme import CATEGORIES
from mindvl.phases.benchmarks_answers import as_json
from mindvl.phases.benchmarks_asking import judgement_of


def write_lines(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """All lines of a benchmark, whole or not at all."""
    write_whole(file, "".join(as_json(line) + "\n" for line in lines))


def write_whole(file: Path, text: str) -> None:
    """A file that is never seen half written."""
    beside = file.with_name(file.name + ".partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(file)


def summarise(
    benchmark: Benchmark, lines: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], *, seconds: float, asked: int
) -> dict[str, Any]:
    """The score and what it is of.

    Args:
        lines: one for every question.
        settings: under which all of them were answered.
        seconds: of this run; `asked` of the questions were answered in it.
    """
    summary = benchmark.summarise([judgement_of(line) for line in lines])
    failed = [[line["id"], line["error"]] for line in lines if line["error"]]
    failed_ids = {id for id, _ in failed}
    return {
        "score": summary.score,
        "interval": summary.interval and asdict(summary.interval),
        "parts": list(summary.parts),
        "n": summary.num_questions,
        "num_scored": summary.num_scored,
        **settings,
        "judge": "none",
        "by_category": summary.by_category,
        "details": summary.details,
        "failed": failed,
        "unjudged": [[id, reason] for id, reason in summary.unjudged if id not in failed_ids],
        "cut": sum(line["finish"] == "length" for line in lines),
        "mean_visual_tokens": sum(line["visual_tokens"] for line in lines) / len(lines),
        "seconds": round(seconds, 3),
        "asked": asked,
    }


def paper_overall(summaries: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The plain mean of the paper's six, MME as sum / 28; None unless each is there once and whole, with a score."""
    if lacking(summaries):
        return None
    return overall({one["benchmark"]: one["score"] for one in summaries.values()})


def lacking(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why there is no "overall": ["mmbench", "mme (2 of 14 categories)"]; nothing where there is one."""
    found = []
    for name in PAPER_COLUMNS:
        its = [one for one in summaries.values() if one["benchmark"] == name]
        if not its:
            found.append(name)
        elif len(its) > 1:
            found.append(f"{name} (asked {len(its)} times)")
        elif its[0]["score"] is None:
            found.append(f"{name} (its answers are not public)")
        elif name == "mme" and (gone := [one for one in CATEGORIES if one not in its[0]["by_category"]]):
            there = len(CATEGORIES) - len(gone)
            found.append(f"mme ({there} of {len(CATEGORIES)} categories; it lacks {', '.join(gone)})")
    return found


def score_table(summaries: Mapping[str, Mapping[str, Any]], mean: float | None) -> str:
    """The summaries as text, a line for each benchmark."""
    width = max(len("benchmark"), *(len(label) for label in summaries))
    lines = [f"{'benchmark':<{width}}  score  95 % interval   questions  failed  unjudged  tokens  seconds  data"]
    for label, one in summaries.items():
        score = "    -" if one["score"] is None else f"{one['score']:5.1f}"
        bounds = one["interval"]
        interval = "" if bounds is None else f"{bounds['low']:5.1f} to {bounds['high']:5.1f}"
        lines.append(
            f"{label:<{width}}  {score}  {interval:<14}  {one['n']:>9}  {len(one['failed']):>6}  "
            f"{len(one['unjudged']):>8}  {one['mean_visual_tokens']:>6.1f}  {one['seconds']:>7.0f}  "
            f"{', '.join(one['parts'])}"
        )
    if mean is not None:
        lines.append(f"{'overall':<{width}}  {mean:5.1f}")
    elif any(one["benchmark"] in PAPER_COLUMNS for one in summaries.values()):
        lines.append(f"{'overall':<{width}}      -  without {', '.join(lacking(summaries))}")
    return "\n".join(lines)
