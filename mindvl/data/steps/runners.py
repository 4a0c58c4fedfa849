"""Two ways to run the same function over pieces of work: processes of this machine, or Ray Data on many.

Workers talk through files only: what a piece makes lies in the recipe's work folder, what it returns is a little JSON.
So both runners give the same bytes. For Ray on several machines `out` and the sources must be on storage that all of
them see under one path.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from mindvl.cores import num_cores

RUNNERS = ("local", "ray")


class Runner(Protocol):
    """Runs function(item) for each item and yields (number of the item, result) as they are done."""

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]: ...


@contextmanager
def open_runner(name: str, *, workers: int | None = None) -> Iterator[Runner]:
    """A runner whose processes, or whose Ray, live until the context ends.

    workers: processes; None for one on each core that this process may use. A Ray that is there already, in this
    process or at RAY_ADDRESS, has its own number.
    """
    check_runner(name)
    workers = workers or num_cores()
    if name == "ray":
        with _ray(workers):
            yield _on_ray
    elif workers == 1:
        yield lambda function, items: ((number, function(item)) for number, item in enumerate(items))
    else:
        # Spawned, not forked: the caller may hold torch's threads, and a forked lock never opens again.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                yield lambda function, items: _on_processes(pool, function, items)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def in_order(done: Iterable[tuple[int, Any]], total: int, *, title: str) -> list[Any]:
    """All results in the order of the items, with a progress bar on stderr while they come."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    results: dict[int, Any] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(title, total=total)
        for number, result in done:
            results[number] = result
            progress.advance(bar)
    return [results[number] for number in range(total)]


def check_runner(name: str) -> None:
    """Raises ValueError when the runner is unknown, or is Ray and is not installed."""
    if name not in RUNNERS:
        raise ValueError(f"runner is {name!r}; known are {', '.join(RUNNERS)}")
    if name == "ray" and importlib.util.find_spec("ray") is None:
        raise ValueError("the runner ray needs Ray Data: pip install 'mindvl[ray]'")


def _on_processes(
    pool: ProcessPoolExecutor, function: Callable[[Any], Any], items: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    numbers = {pool.submit(function, item): number for number, item in enumerate(items)}
    for future in as_completed(numbers):
        yield numbers[future], future.result()


@contextmanager
def _ray(workers: int) -> Iterator[None]:
    """The Ray that this process is connected to, or the cluster at RAY_ADDRESS, or one that is started and stopped."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = (
        {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    )
    ray.init(logging_level=logging.WARNING, **settings)
    try:
        yield
    finally:
        ray.shutdown()


def _on_ray(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """A Ray data set with one row for each piece, mapped by the function."""
    import ray.data

    if not items:
        return

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it describes its plan at length
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items([{"number": number} for number in range(len(items))], override_num_blocks=len(items))
    for row in rows.map(partial(_do_row, function=function, items=list(items))).iter_rows():
        if row["error"]:
            raise ValueError(row["error"])
        yield row["number"], json.loads(row["result"])


def _do_row(row: dict[str, Any], function: Callable[[Any], Any], items: list[Any]) -> dict[str, Any]:
    """Runs in a Ray worker. A function of the module, for Ray to find by name."""
    number = int(row["number"])
    try:
        return {"number": number, "result": json.dumps(function(items[number])), "error": ""}
    except ValueError as error:  # our own words, not Ray's account of a failed task
        return {"number": number, "result": "null", "error": str(error)}
