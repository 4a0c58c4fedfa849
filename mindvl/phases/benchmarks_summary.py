"""From the lines of all ranks to a score that carries its settings.

docvqa.jsonl    a line per question in the order of the benchmark's file: what was asked, said, read and scored
summary.json    per benchmark the score with all that it hangs on, and MindVL's "overall" if its six columns are there
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mindvl.eval.benchmarks import PAPER_COLUMNS, Benchmark, overall
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
    """The plain mean of the paper's six, MME as sum / 28; None unless each is there once, with a score."""
    scores: dict[str, list[float]] = {}
    for summary in summaries.values():
        if summary["score"] is not None:
            scores.setdefault(summary["benchmark"], []).append(summary["score"])
    if any(len(scores.get(name, [])) != 1 for name in PAPER_COLUMNS):
        return None
    return overall({name: values[0] for name, values in scores.items()})


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
    return "\n".join(lines)
