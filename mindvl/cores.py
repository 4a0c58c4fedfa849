"""The processor cores that this process may use, and how ranks of one machine share them.

Without binding, the data workers of eight ranks wander over all cores and push each other and the training processes
about. MindVL's framework binds the processes of each rank to cores of its own. Eight cores, three ranks:

    rank 0   cores 0 1        rank 1   cores 2 3 4        rank 2   cores 5 6 7

Cores are divided by number, in equal runs. Which memory or which device lies near a core is not looked at; where that
matters, let the launcher bind each rank (numactl, torchrun), and bind nothing here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path


def num_cores() -> int:
    """Cores that this process may use, which a container or a scheduler may have made fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_rank(rank: int, num_ranks: int) -> tuple[int, ...]:
    """This machine's cores that belong to one of its ranks; no core belongs to two.

    Those are divided that this process could use when it first asked, before it bound itself. Raises ValueError where
    there are more ranks than cores, and on systems that bind no process.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise ValueError("cores can be bound on Linux only; leave out bind_cores")
    cores = _cores_at_first()
    if num_ranks > len(cores):
        raise ValueError(f"{num_ranks} ranks cannot each have a core of their own: {len(cores)} cores may be used")
    first, after = (len(cores) * number // num_ranks for number in (rank, rank + 1))
    return cores[first:after]


@cache
def _cores_at_first() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0)))


def bind_process(cores: Iterable[int]) -> None:
    """Keep every thread of this process, and those that it starts from now on, on these cores."""
    wanted = set(cores)
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), wanted)
        except ProcessLookupError:
            continue  # it has ended meanwhile
