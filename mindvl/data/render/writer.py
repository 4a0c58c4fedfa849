"""Shards appear whole or not at all, and `render.json` appears when all of them have.

Each shard is one task for one worker process, written under a temporary name and renamed. `render.json` comes last and
holds the config's fingerprint: a second run with the same config finds it and does nothing, a run with another config
is refused, an interrupted run has no `render.json` and starts over.
"""

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mindvl import __version__
from mindvl.cores import num_cores
from mindvl.data.render.config import RenderConfig, Source, check_config
from mindvl.data.render.sample import draw_document, encode_sample
from mindvl.data.render.split import SPLITS


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to write one shard."""

    path: Path
    source: Source
    seed: int
    split: str
    first: int
    samples: int
    image_format: str


@dataclass(frozen=True)
class ShardResult:
    path: Path
    samples: int
    heights_pixels: tuple[int, int] | None
    widths_pixels: tuple[int, int] | None


def render(
    config: Mapping[str, Any], out: Path | str, *, workers: int | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Writes the shards that a config describes to `OUT/{split}/{source}-{shard:06d}.tar`; returns `render.json`.

    workers: processes to draw with; None for one on each core that this process may use, 1 for none but this one.
    overwrite: replace shards that another config has drawn. Raises `ValueError` for them otherwise.
    """
    out, plan = Path(out), check_config(config)
    fingerprint = plan.fingerprint()
    if (out / "render.json").exists() and not overwrite:
        done = json.loads((out / "render.json").read_text())
        if done["fingerprint"] != fingerprint:
            raise ValueError(
                f"{out} was rendered with config {done['fingerprint']}, this config is {fingerprint}: "
                "choose another folder or overwrite"
            )
        print(f"{out}: {done['samples']} samples of config {fingerprint} are already there", file=sys.stderr)
        return done
    tasks = list(shard_tasks(plan, out))
    _try_first_documents(plan)
    _check_leftovers(out, {task.path for task in tasks}, overwrite=overwrite)
    for split in {task.split for task in tasks}:
        (out / split).mkdir(parents=True, exist_ok=True)
    results = _run(tasks, workers if workers is not None else num_cores())
    summary = _summary(plan, fingerprint, out, tasks, results)
    temporary = out / f"render.json.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(summary, indent=1))
    temporary.replace(out / "render.json")
    return summary


def shard_tasks(plan: RenderConfig, out: Path) -> Iterator[ShardTask]:
    """The shards of a plan in a fixed order."""
    for source in plan.sources.values():
        for split in SPLITS:
            for shard, first in enumerate(range(0, source.samples[split], plan.samples_per_shard)):
                samples = min(plan.samples_per_shard, source.samples[split] - first)
                path = out / split / f"{source.name}-{shard:06d}.tar"
                yield ShardTask(path, source, plan.seed, split, first, samples, plan.image_format)


def write_shard(task: ShardTask) -> ShardResult:
    """Draws one shard; runs in a worker process."""
    from webdataset import TarWriter  # brings torch, which the front door must not wait for

    heights, widths = [], []
    temporary = task.path.with_name(f"{task.path.name}.{os.getpid()}.tmp")
    try:
        # A fixed mtime: the same config gives the same bytes, so checksums of shards mean something.
        with temporary.open("wb") as stream, TarWriter(stream, encoder=False, mtime=0) as writer:
            for index in range(task.first, task.first + task.samples):
                document = draw_document(task.source, seed=task.seed, split=task.split, index=index)
                if document.image:
                    heights.append(document.image.height)
                    widths.append(document.image.width)
                writer.write(
                    encode_sample(document, task.source, split=task.split, index=index, image_format=task.image_format)
                )
        temporary.replace(task.path)
    finally:
        temporary.unlink(missing_ok=True)
    spans = [(min(sizes), max(sizes)) if sizes else None for sizes in (heights, widths)]
    return ShardResult(task.path, task.samples, *spans)


def _run(tasks: list[ShardTask], workers: int) -> list[ShardResult]:
    """Results in the order of the tasks, with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("rendering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("rendering", total=sum(task.samples for task in tasks))
        results: dict[Path, ShardResult] = {}

        def done(result: ShardResult) -> None:
            results[result.path] = result
            progress.advance(bar, result.samples)

        if min(workers, len(tasks)) <= 1:
            for task in tasks:
                done(write_shard(task))
        else:
            # Spawned, not forked: the caller may hold torch's threads, and a forked lock never opens again.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
                try:
                    for future in as_completed([pool.submit(write_shard, task) for task in tasks]):
                        done(future.result())
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    return [results[task.path] for task in tasks]


def _try_first_documents(plan: RenderConfig) -> None:
    """Settings that can never be drawn fail here, in one process and before any file is made."""
    for source in plan.sources.values():
        for split, samples in source.samples.items():
            if samples:
                draw_document(source, seed=plan.seed, split=split, index=0)


def _check_leftovers(out: Path, planned: set[Path], *, overwrite: bool) -> None:
    """Shards that this plan would not replace must not stay among its own."""
    strays = [path for split in SPLITS for path in sorted((out / split).glob("*.tar")) if path not in planned]
    if strays and not overwrite:
        raise ValueError(f"{out} holds {len(strays)} other shards, such as {strays[0]}: overwrite or move them")
    indexes = [beside for path in strays for beside in path.parent.glob(f"{path.name}.*")]  # they go with their shards
    for path in [*strays, *indexes, out / "render.json"]:
        path.unlink(missing_ok=True)


def _summary(
    plan: RenderConfig, fingerprint: str, out: Path, tasks: list[ShardTask], results: list[ShardResult]
) -> dict[str, Any]:
    def span(name: str) -> list[int] | None:
        spans = [getattr(result, name) for result in results if getattr(result, name)]
        return [min(low for low, _ in spans), max(high for _, high in spans)] if spans else None

    counts = {split: {s.name: s.samples[split] for s in plan.sources.values() if s.samples[split]} for split in SPLITS}
    return {
        "fingerprint": fingerprint,
        "version": __version__,
        "seed": plan.seed,
        "samples": sum(task.samples for task in tasks),
        "counts": counts,
        "image_height_pixels": span("heights_pixels"),
        "image_width_pixels": span("widths_pixels"),
        "shards": [{"path": result.path.relative_to(out).as_posix(), "samples": result.samples} for result in results],
        "config": asdict(plan),
    }
