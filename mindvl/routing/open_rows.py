"""Samples while they grow: rows of a batch stay open, since a later call may continue them from its cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindvl.routing.batch_rows import BatchRows
from mindvl.routing.sample import RoutingSample, TokenKind


class _Growing:
    """One sample in pieces: the prompt, then a token per decode step."""

    def __init__(self, key: str, domain: str):
        self.key, self.domain = key, domain
        self.pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []
        self.ended = False

    def add(self, ids: np.ndarray, kinds: np.ndarray, weights: np.ndarray | None) -> None:
        self.pieces.append((ids, kinds, weights))

    def sample(self) -> RoutingSample:
        ids, kinds, weights = zip(*self.pieces, strict=True)
        joined = None if weights[0] is None else np.concatenate(weights)
        return RoutingSample(np.concatenate(ids), np.concatenate(kinds), self.key, self.domain, joined)


class OpenRows:
    """Assigns the tokens of each call to samples, new ones or those that a cache continues.

    Args:
        end_token_ids: a generated token of these ends its row. Once it is fed back, the row only computes filling for
            rows that still write; neither is recorded, as neither would run if the row were alone.
    """

    def __init__(self, end_token_ids: frozenset[int]):
        self.end_token_ids = end_token_ids
        self.done: list[RoutingSample] = []
        self._open: list[_Growing] = []
        self._cached_tokens = self._before = 0
        self._cache: Any = None

    def expect(self, rows: BatchRows) -> None:
        """Look at a call before it runs. Raises ValueError when its cache is not that of the open rows."""
        before = self._cached_tokens
        if rows.past_tokens == 0 or before == 0:  # new rows, maybe behind a prefix that was not recorded
            before = rows.past_tokens
        elif rows.past_tokens != before or self._cache not in (None, rows.cache):
            raise ValueError(
                f"the cache holds {rows.past_tokens} tokens a row, those recorded so far have {self._cached_tokens}: "
                "tokens were taken back (assisted decoding), or it belongs to other rows"
            )
        self._before, self._cached_tokens = before, before + rows.num_columns
        self.let_go_of_cache()
        if hasattr(rows.cache, "reorder_cache"):
            self._cache = rows.cache
            self._cache.reorder_cache = _refuse_beams

    def forget_step(self) -> None:
        """The call failed."""
        self._cached_tokens = self._before

    def let_go_of_cache(self) -> None:
        """Give the cache its own method back."""
        if self._cache is not None:
            self._cache.__dict__.pop("reorder_cache", None)
        self._cache = None

    def take(self, rows: BatchRows, ids: np.ndarray, weights: np.ndarray | None) -> None:
        """Hand out the tokens of a finished call; ids (tokens, layers, k)."""
        if rows.past_tokens and len(self._open) == rows.num_rows:
            self._continue(rows, ids, weights)
            return
        if rows.past_tokens and self._open:
            raise ValueError(f"{len(self._open)} rows were recorded, a call with their cache has {rows.num_rows}")
        self.close()
        kinds, positions = rows.kinds(), rows.positions()
        keys = _labels("keys", rows.labels.keys, len(positions))
        domains = _labels("domains", rows.labels.domains, len(positions))
        for where, key, domain in zip(positions, keys, domains, strict=True):
            growing = _Growing(key, domain)
            growing.add(ids[where], kinds[where], None if weights is None else weights[where])
            self._open.append(growing)
        if rows.lengths is not None:  # a pack has no cache to go on from
            self.close()

    def _continue(self, rows: BatchRows, ids: np.ndarray, weights: np.ndarray | None) -> None:
        kinds, ends = rows.kinds(), np.zeros(rows.num_tokens, bool)
        if rows.num_columns == 1:  # several at once are the rest of a prompt, or the next turn of a chat
            kinds[:] = TokenKind.GENERATED
            if rows.input_ids is not None and self.end_token_ids:
                ends = np.isin(rows.input_ids.reshape(-1).cpu().numpy(), list(self.end_token_ids))
        for row, where in zip(self._open, rows.positions(), strict=True):
            row.ended |= bool(ends[where].any())
            if not row.ended:
                row.add(ids[where], kinds[where], None if weights is None else weights[where])

    def close(self) -> None:
        """No call will continue the open rows."""
        self.done += [row.sample() for row in self._open]
        self._open = []

    def samples(self) -> list[RoutingSample]:
        """Finished samples and open ones as they are."""
        return [*self.done, *(row.sample() for row in self._open)]


def _labels(what: str, given: Any, count: int) -> list[str]:
    if given is None:
        return [""] * count
    if len(given) != count:
        raise ValueError(f"{len(given)} {what} were given for a call of {count} samples")
    return list(given)


def _refuse_beams(*_: Any) -> None:
    raise ValueError("beam search moves rows of the cache, so tokens would land in the wrong sample: use num_beams=1")
