"""Differences between the models of a study, each with its interval and with what it says in a word.

All models answered the same test questions, so a difference is taken question by question, and questions are redrawn
within each family (paired bootstrap; every family weighs the same). An average of three models is set against

    its members    mean_0 0.66, its members 0.62, 0.64 and 0.63:     +0.030 [+0.018, +0.042]   helps
    the best one   0.65, which led the others on validation:         +0.010 [-0.003, +0.022]   within noise

at the default resolution and at the searched one. An interval speaks of other questions of these families; how far
other runs would differ is seen from one seed to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from mindvl_callbacks.resolution_bootstrap import Estimate, estimate

from mindvl.recipe.study_scores import Row

Resolution = Literal["default", "searched"]
RESOLUTIONS: tuple[Resolution, ...] = ("default", "searched")

COMPARISONS = {
    "members_default": "over its members' mean, default resolution",
    "best_default": "over its best member, default",
    "members_searched": "over its members' mean, searched",
    "best_searched": "over its best member, searched",
    "both": "searched, over its members' mean at the default",
    "more_together": "what search adds to it, less what it adds to its members",
}
"""Of each average; its "best member" is the one with the highest score on validation at that resolution."""


def verdict(difference: Estimate) -> str:
    """A difference whose interval holds 0 says nothing either way."""
    if difference.low > 0:
        return "helps"
    return "hurts" if difference.high < 0 else "within noise"


def compare(rows: Sequence[Row], families: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Row -> its scores, what search changes, and for an average its comparisons; all over the given families."""
    by_name = {row.stage: row for row in rows}
    strata = [family for family in families for _ in rows[0].families[family].default]
    compared: dict[str, dict[str, Any]] = {}
    for row in rows:
        default, searched = (scores_of(row, families, resolution) for resolution in RESOLUTIONS)
        facts: dict[str, Any] = {
            "default": estimate(default, strata),
            "searched": estimate(searched, strata),
            "difference": estimate(_minus(searched, default), strata),
            "moved_families": sum(row.families[name].moved for name in families),
            "kept": row.kept,
        }
        if row.members:
            facts["best_members"] = {}
            members = [by_name[name] for name in row.members]
            means = {each: _mean([scores_of(one, families, each) for one in members]) for each in RESOLUTIONS}
            for resolution, mine in zip(RESOLUTIONS, (default, searched), strict=True):
                best = best_member(members, families, resolution)
                facts["best_members"][resolution] = best.stage
                facts[f"members_{resolution}"] = estimate(_minus(mine, means[resolution]), strata)
                facts[f"best_{resolution}"] = estimate(_minus(mine, scores_of(best, families, resolution)), strata)
            gains = _minus(searched, default), _minus(means["searched"], means["default"])
            facts["both"] = estimate(_minus(searched, means["default"]), strata)
            facts["more_together"] = estimate(_minus(*gains), strata)
        compared[row.stage] = facts
    return compared


def scores_of(row: Row, families: Sequence[str], resolution: Resolution) -> list[float]:
    """One score per test question, family after family."""
    return [score for family in families for score in getattr(row.families[family], resolution)]


def best_member(members: Sequence[Row], families: Sequence[str], resolution: Resolution) -> Row:
    """The member with the highest mean over families on validation; of equal ones the first."""
    return max(
        members, key=lambda row: sum(getattr(row.families[name], f"selection_{resolution}") for name in families)
    )


def as_json(compared: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same with estimates as mappings, and each difference with its verdict."""
    return {
        name: {
            key: {**asdict(value), **({} if key in RESOLUTIONS else {"verdict": verdict(value)})}
            if isinstance(value, Estimate)
            else value
            for key, value in facts.items()
        }
        for name, facts in compared.items()
    }


def markdown(group: str, compared: Mapping[str, Mapping[str, Any]], *, num_families: int) -> str:
    """Two tables, of all rows and of the averages, in per cent."""
    questions = next(iter(compared.values()))["default"].num_samples
    lines = [
        f"## {group}: {num_families} families, {questions} test questions",
        "",
        "| model | default resolution | searched | search changes | picks other than the default |",
        "|---|---|---|---|---|",
    ]
    for name, facts in compared.items():
        scores = [_score(facts[each]) for each in RESOLUTIONS]
        moved = f"{facts['moved_families']} of {num_families}"
        lines.append(f"| `{name}` | {scores[0]} | {scores[1]} | {_difference(facts['difference'])} | {moved} |")
    averages = {name: facts for name, facts in compared.items() if "both" in facts}
    if averages:
        lines += ["", f"| average | {' | '.join(COMPARISONS.values())} |", f"|{'---|' * (len(COMPARISONS) + 1)}"]
    for name, facts in averages.items():
        lines.append(f"| `{name}` | {' | '.join(_difference(facts[key]) for key in COMPARISONS)} |")
    lines += [""] if averages else []
    for name, facts in averages.items():
        best = facts["best_members"]
        lines.append(
            f"- `{name}` averages {', '.join(f'`{each}`' for each in facts['kept'])}; its best member on validation is "
            f"`{best['default']}` at the default resolution, `{best['searched']}` at the searched one."
        )
    return "\n".join(lines)


def _score(score: Estimate) -> str:
    return f"{100 * score.score:.1f} ({100 * score.low:.1f} to {100 * score.high:.1f})"


def _difference(change: Estimate) -> str:
    return f"{100 * change.score:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f}), {verdict(change)}"


def _minus(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(left, right, strict=True)]


def _mean(lists: Sequence[Sequence[float]]) -> list[float]:
    return [sum(scores) / len(scores) for scores in zip(*lists, strict=True)]
