"""One unit of work: make samples, pass them through the steps, write those that survive, note what became of each.

All steps that look at one sample run here, in order, and so do the signatures of corpus steps between them. What a
corpus step will decide is not known yet, so later steps see its future victims too; `decide` sets the counts right.
Thus every picture is decoded in one pass, and the second pass only copies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mindvl.data.images import image_size
from mindvl.data.importing.outcome import Rejected
from mindvl.data.raw import RawSample
from mindvl.data.steps.recipe import DataRecipe
from mindvl.data.steps.sources import Unit, read_unit
from mindvl.data.steps.table import STEPS, make_step
from mindvl.data.steps.text import message_text
from mindvl.data.storage import write_whole

READ = -1
"""The place of reading itself among a source's steps."""


@dataclass
class Fate:
    """What became of one sample."""

    key: str
    dropped_at: int | None = None
    """Place of the step that dropped it in the list of its source's steps; READ if it never became a sample."""
    reason: str = ""
    signatures: dict[int, str] = field(default_factory=dict)
    """Place of a corpus step -> signature in hex."""
    chars: int = 0
    picture_sizes: list[list[int]] = field(default_factory=list)
    """[height, width] in pixels, of samples that survived."""
    picture_bytes: int = 0


@dataclass(frozen=True)
class UnitJob:
    """A unit with all that a worker needs to know."""

    recipe: DataRecipe
    unit: Unit
    work: Path

    @property
    def fates_path(self) -> Path:
        return self.work / f"{self.unit.number:06d}.json"

    @property
    def shard_path(self) -> Path:
        """Survivors of the unit's own steps; not there if there are none."""
        return self.work / f"{self.unit.number:06d}-000000.tar"


def do_unit(job: UnitJob) -> int:
    """Does a unit unless an earlier run has; returns its number of samples. Runs in a worker process."""
    from mindvl.data.shard_writer import ShardWriter

    if job.fates_path.exists():
        return len(load_fates(job))
    fates: list[Fate] = []
    no_limit = 1 << 62
    name = f"{job.unit.number:06d}"
    with ShardWriter(job.work, name, samples_per_shard=no_limit, max_shard_bytes=no_limit) as writer:
        for sample, fate in pass_steps(job.recipe, job.unit):
            fates.append(fate)
            if sample is not None:
                writer.write(sample)
    write_whole(str(job.fates_path), json.dumps([asdict(fate) for fate in fates], ensure_ascii=True).encode())
    return len(fates)


def load_fates(job: UnitJob) -> list[Fate]:
    """Fates of the samples of a unit that is done, in their order."""
    fates = []
    for entry in json.loads(job.fates_path.read_text()):
        signatures = {int(place): value for place, value in entry.pop("signatures").items()}
        fates.append(Fate(signatures=signatures, **entry))
    return fates


def pass_steps(recipe: DataRecipe, unit: Unit) -> Iterator[tuple[RawSample | None, Fate]]:
    """Each sample of a unit as it leaves the last step, or None, with its fate.

    Raises ValueError naming source, step and sample when a step fails instead of deciding.
    """
    source = next(source for source in recipe.sources if source.name == unit.source)
    steps = [(call.name, make_step(call.name, call.arguments)) for call in recipe.steps_of(source)]
    for made in read_unit(recipe, unit):
        fate = Fate(made.key)
        if isinstance(made, Rejected):
            fate.dropped_at, fate.reason = READ, made.reason
            yield None, fate
            continue
        sample: RawSample | None = made
        for place, (name, step) in enumerate(steps):
            try:
                result = _apply(name, step, made, fate, place)
            except Exception as error:
                raise ValueError(f"source {source.name}, step {name}, sample {made.key}: {error!r}") from error
            if isinstance(result, str):
                fate.dropped_at, fate.reason = place, result
                sample = None
                break
            sample = made = result
        if sample is not None:
            _measure(sample, fate)
        yield sample, fate


def _apply(name: str, step: Any, sample: RawSample, fate: Fate, place: int) -> RawSample | str:
    if not STEPS[name].sees_corpus:
        return step(sample)
    fate.signatures[place] = step.signature(sample).hex()
    return sample


def _measure(sample: RawSample, fate: Fate) -> None:
    fate.chars = sum(len(message_text(message)) for message in sample.messages)
    fate.picture_bytes = sum(map(len, sample.files))
    for data in sample.files:
        try:
            fate.picture_sizes.append(list(image_size(data)))
        except ValueError:  # a recipe without `resolution` or `decodes` keeps it
            fate.picture_sizes.append([0, 0])
