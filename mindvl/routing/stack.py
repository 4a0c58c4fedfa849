"""One pass over the requests of a sample gives the hits of every cache size at once.

Mattson's observation (1970), for any policy that evicts the expert of least priority, where priorities do not depend
on the cache's size: a cache of C experts holds a subset of what a cache of C + 1 holds. So all caches are one list, the
*stack*; the cache of size C is its first C entries, and an expert at place r (from 0) is a hit for all C > r.

**Serial replay**, the published one. Hits of a token are counted against the cache as it is when the token starts. Then
its experts enter one by one, in router order: x goes to the top; on the way down to where x was, the better of (carried
entry, entry here) stays and the worse is carried on, since that is what a full cache of this size evicts.

    LRU, stack [a b c d], x = c        priority = time of last use: a > b > d
      x on top, carry a                [c . . .]
      place 1: b < a, a stays, carry b [c a . .]
      place 2: here was c, b drops in  [c a b d]

An expert of the token may be evicted before its turn, though it was counted as a hit. That is the published number, and
it needs only one slot.

**Atomic replay**: the k experts of a token are needed together, so none of them is evicted while the token lasts. All
that changes is that their priority is above any other until the token ends. A cache of C >= k then holds, after the
token, those k, and of what it held besides the C - k of highest priority; and the subset property holds: an entry
among the best C - k of a set is among the best C + 1 - k of that set with one entry more.

    k = 2, token {d, e}, e new, stack [a b c d], priorities b > c > a
      cache of 2 held {a, b}     -> {d, e}                  cache of 4 held {a, b, c, d} -> {d, e, b, c}
      cache of 3 held {a, b, c}  -> {d, e, b}               cache of 5 keeps all         -> {d, e, b, c, a}
    new stack [d e b c a]

A cache of C < k cannot hold a token. Its experts then pass through a working slot beside the cache, which keeps the C
of highest priority among them: the first k places of the stack are the token's experts, ordered by priority.

An entry of the stack is one 64-bit number, priority << id_bits | expert, so that comparing entries compares priorities,
and the way down has no branch to mispredict: that is what makes it fast.
"""

from __future__ import annotations

import typing

import numpy as np
from numba import njit

NEEDED_NOW = np.int64(1) << 62
"""Added to entries of the current token's experts in atomic replay."""


@njit(cache=True, nogil=True)
@typing.no_type_check
def replay(requests, starts, num_experts, atomic, step, lookahead, belady, clock_bits, id_bits, free_cold, places):
    """Adds to places (1 or samples, experts) the requests (tokens, k) found at each place; -1 asks for nothing.

    `priority` is count << clock_bits | time of last use, and a use adds `step` to the count: 0 for LRU, 1 for LFU, -1
    for SCH, where tokens that come into sight add what they ask for. Belady's is the nearness of the next use instead.
    """
    width = requests.shape[1]
    id_mask = (np.int64(1) << id_bits) - 1
    one = np.int64(1) << clock_bits
    needed_now = NEEDED_NOW if atomic else np.int64(0)
    stack = np.empty(num_experts, np.int64)
    rank = np.empty(num_experts, np.int64)
    priority = np.empty(num_experts, np.int64)
    longest = 0
    for sample in range(len(starts) - 1):
        longest = max(longest, starts[sample + 1] - starts[sample])
    next_use = np.empty(longest * width if belady else 0, np.int32)
    latest = np.empty(num_experts if belady else 0, np.int32)

    for sample in range(len(starts) - 1):
        begin, end = starts[sample], starts[sample + 1]
        into = places[sample if len(places) > 1 else 0]
        horizon = (end - begin) * width + num_experts
        priority[:] = 0
        rank[:] = -1
        depth, clock = 0, 0
        for token in range(begin, min(begin + lookahead, end)):
            for slot in range(width):
                if requests[token, slot] >= 0:
                    priority[requests[token, slot]] += one
        if belady:
            for expert in range(num_experts):  # never used again: after the end, by id
                latest[expert] = (end - begin) * width + expert
            for use in range((end - begin) * width - 1, -1, -1):
                expert = requests[begin + use // width, use % width]
                if expert >= 0:
                    next_use[use] = latest[expert]
                    latest[expert] = use

        for token in range(begin, end):
            for place in range(depth):
                expert = stack[place] & id_mask
                rank[expert] = place
                stack[place] = priority[expert] << id_bits | expert
            distinct = depth
            present = 0
            for slot in range(width):
                expert = requests[token, slot]
                if expert < 0:
                    continue
                present += 1
                if rank[expert] >= 0:
                    into[rank[expert]] += 1
                    stack[rank[expert]] += needed_now
                elif free_cold:
                    into[distinct] += 1
                    distinct += 1

            for slot in range(width):
                expert = requests[token, slot]
                if expert < 0:
                    continue
                if depth > 0 and stack[0] & id_mask != expert:
                    carried = stack[0]
                    if rank[expert] < 0:
                        for place in range(1, depth):
                            here = stack[place]
                            stack[place] = max(here, carried)
                            carried = min(here, carried)
                        stack[depth] = carried
                    else:
                        place = 1
                        while stack[place] & id_mask != expert:
                            here = stack[place]
                            stack[place] = max(here, carried)
                            carried = min(here, carried)
                            place += 1
                        stack[place] = carried
                if rank[expert] < 0:
                    depth += 1
                if belady:
                    priority[expert] = horizon - next_use[(token - begin) * width + slot]
                else:
                    clock += 1
                    priority[expert] = (((priority[expert] >> clock_bits) + step) << clock_bits) | clock
                stack[0] = (priority[expert] << id_bits | expert) + needed_now

            if atomic:  # order the token's own experts, nearly sorted already
                for place in range(1, present):
                    moved = stack[place]
                    above = place
                    while above > 0 and stack[above - 1] < moved:
                        stack[above] = stack[above - 1]
                        above -= 1
                    stack[above] = moved

            if 0 < lookahead < end - token:
                for slot in range(width):
                    if requests[token + lookahead, slot] >= 0:
                        priority[requests[token + lookahead, slot]] += one
