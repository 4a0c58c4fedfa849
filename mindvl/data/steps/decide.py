"""Corpus steps pass judgement over the fates of all samples, as if each step had run after the one before it.

A sample takes part in a corpus step if it reached it: no earlier step has dropped it, be it a step of its own or a
corpus step that was settled a moment ago. If the verdict drops it, what later steps said about it does not count.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mindvl.data.steps.corpus import Entry
from mindvl.data.steps.recipe import SPLITS, DataRecipe, DataSource
from mindvl.data.steps.sources import Unit
from mindvl.data.steps.table import STEPS, make_step
from mindvl.data.steps.unit import READ, Fate


@dataclass(frozen=True)
class UnitFates:
    """A unit and what became of its samples."""

    unit: Unit
    fates: list[Fate]


def settle(recipe: DataRecipe, done: list[UnitFates]) -> None:
    """Runs the corpus steps over all fates, which it changes in place.

    Precedence: test before validation before training, then the order of the recipe; so held-out samples stay and
    their twins in training go. Raises ValueError when a step drops all that it was given (see `check_not_empty`).
    """
    ordered = sorted(done, key=lambda item: (SPLITS.index(item.unit.split), item.unit.number))
    for source in recipe.sources:
        mine = [item for item in ordered if item.unit.source == source.name]
        for place, call in enumerate(source.steps):
            if STEPS[call.name].sees_corpus:
                _judge(call.name, call.arguments, [(place, item) for item in mine])
    offsets = {source.name: len(source.steps) for source in recipe.sources}
    for place, call in enumerate(recipe.steps):
        if STEPS[call.name].sees_corpus:
            _judge(call.name, call.arguments, [(offsets[item.unit.source] + place, item) for item in ordered])
    for source in recipe.sources:
        check_not_empty(recipe, source, [item for item in ordered if item.unit.source == source.name])
    if not any(fate.dropped_at is None for item in ordered for fate in item.fates):
        last = Counter(fate.reason for item in ordered for fate in item.fates).most_common()
        raise ValueError(f"no sample is left of {sum(len(item.fates) for item in ordered)}: {_listed(last)}")


def check_not_empty(recipe: DataRecipe, source: DataSource, done: list[UnitFates]) -> None:
    """Raises ValueError when a per-sample step leaves nothing of a source: its settings, or the data, are not right.

    A source may vanish in a corpus step: all of it can be duplicates of another.
    """
    if not done:
        return  # an optional source that is not there
    fates = [fate for item in done for fate in item.fates]
    if not fates:
        raise ValueError(f"source {source.name} has no samples: 0 records in {source.settings.get('path')}")
    names = ["read", *(call.name for call in recipe.steps_of(source))]
    given = len(fates)
    for place, name in enumerate(names, READ):
        reasons = Counter(fate.reason for fate in fates if fate.dropped_at == place)
        if given and sum(reasons.values()) == given and not (place > READ and STEPS[name].sees_corpus):
            raise ValueError(
                f"source {source.name}: step {name} drops all {given} samples: {_listed(reasons.most_common())}"
            )
        given -= sum(reasons.values())


def _judge(name: str, arguments: dict, members: list[tuple[int, UnitFates]]) -> None:
    places, fates, entries = [], [], []
    for place, item in members:
        for fate in item.fates:
            if fate.dropped_at is None or fate.dropped_at > place:
                places.append(place)
                fates.append(fate)
                entries.append(Entry(fate.key, item.unit.split, bytes.fromhex(fate.signatures[place])))
    for place, fate, reason in zip(places, fates, make_step(name, arguments).verdicts(entries), strict=True):
        if reason is not None:
            fate.dropped_at, fate.reason = place, reason


def _listed(reasons: list[tuple[str, int]]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in reasons)
