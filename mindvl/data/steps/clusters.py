"""From pairs of look-alikes to one representative per cluster.

Being alike is made transitive (a union-find): if 0~3 and 3~7, then 3 and 7 both fall to 0, although 0 and 7 were never
compared. The first in the given order represents its cluster, so the result depends on that order alone.
"""

from __future__ import annotations

from collections.abc import Iterable


def representatives(count: int, alike: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` things the smallest number in its cluster; itself where it is like nothing before it."""
    parent = list(range(count))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for one, other in alike:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(number) for number in range(count)]
