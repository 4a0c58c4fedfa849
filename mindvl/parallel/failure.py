"""When one rank fails or hangs, all end, soon, and say which rank it was.

Ranks wait for each other in every layer, so that one that fails leaves the rest waiting; and who waits knows nothing of
the cause. Each rank therefore has a thread that looks once a second into the store of the job:

    a rank fails      it writes down its number and its error; the other threads print it and end their processes
    a rank hangs      the others' next exchange with it fails after `timeout_s`. Every rank has kept in the store how
                      far it has come; the one that is behind is named. Ranks hang alike where none is behind

A process that its thread ends, ends without hooks: no checkpoint is written by ranks that no longer agree.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time

from torch.distributed import PrefixStore, Store

_NUMBERS = itertools.count()
"""Of the watches in this process, which are as many on every rank: one fit does not read what another has left."""
_LOOK_S = 1.0
_GRACE_S = 5.0
"""Time for a rank's main thread to end by its own exception, which says more."""
_FAILURE = "failure"


class FailureWatch:
    """One rank's watch over the others.

    Args:
        store: shared by the job; a connection of its own, since the main thread may wait in another.
        timeout_s: without a sign of progress for so long, the job is ended.
    """

    def __init__(self, store: Store, rank: int, world_size: int, *, timeout_s: float):
        self._store = PrefixStore(f"mindvl_watch_{next(_NUMBERS)}", store)
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self._place = (0, "at the start")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="failure-watch", daemon=True)
        self._thread.start()

    def at(self, place: str) -> None:
        """This rank has come to its next place, such as "in a forward pass"; all ranks come to the same in order."""
        self._place = (self._place[0] + 1, place)

    def report(self, error: BaseException) -> None:
        """Tell the other ranks that this one has failed. The first that speaks is believed."""
        self.stop()
        cause = f"rank {self.rank} failed: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        try:
            if "timed out" in str(error).lower() or "timeout" in str(error).lower():
                cause = f"{self._behind()} ({cause})"
            first = self._store.compare_set(_FAILURE, "", cause).decode()
        except RuntimeError:  # the store went with the rank that held it
            return
        if first != cause or not first.startswith(f"rank {self.rank} failed"):
            print(f"rank {self.rank} ends: {first}", file=sys.stderr, flush=True)
        if self.rank == 0:
            time.sleep(2 * _LOOK_S)  # it holds the store: the others must have read it

    def stop(self) -> None:
        """End the watch; its thread is gone when this returns, since one inside the store outlives no interpreter."""
        self._done.set()
        self._thread.join(_GRACE_S)

    def _watch(self) -> None:
        told, since = (0, ""), time.monotonic()
        while not self._done.wait(_LOOK_S):
            place = self._place
            try:
                if place != told:
                    self._store.set(f"place/{self.rank}", f"{place[0]} {place[1]}")
                    told, since = place, time.monotonic()
                elif place[0] and time.monotonic() - since > self.timeout_s + _GRACE_S:
                    self._store.compare_set(_FAILURE, "", self._behind())
                if self._store.check([_FAILURE]):
                    return self._end(self._store.get(_FAILURE).decode())
            except RuntimeError:
                return self._end("rank 0 is gone, and the job's store with it")

    def _behind(self) -> str:
        """Which ranks have not come as far as the others."""
        places = {}
        for rank in range(self.world_size):
            key = f"place/{rank}"
            count, _, place = (
                self._store.get(key).decode() if self._store.check([key]) else "0 at the start"
            ).partition(" ")
            places[rank] = int(count), place
        last, furthest = min(places.values()), max(places.values())
        if last == furthest:
            return f"no rank has gone on for {self.timeout_s:g} s: all are {last[1]} (place {last[0]})"
        late = ", ".join(str(rank) for rank, place in places.items() if place == last)
        return (
            f"rank {late} hangs: nothing for {self.timeout_s:g} s; it is {last[1]} (place {last[0]}), while others are "
            f"{furthest[1]} (place {furthest[0]})"
        )

    def _end(self, cause: str) -> None:
        if self._done.wait(_GRACE_S):
            return
        print(f"rank {self.rank} ends: {cause}", file=sys.stderr, flush=True)
        os._exit(1)
