"""The time that the exchanges of a step take at least: what must cross the network, and what must cross fast links.

Bytes reach a rank over the links of its node and over its own network adapter. Two nodes of two devices gather 4 GB, a
slice of 1 GB on each of four ranks, so that each rank receives 3 GB:

    network    2 GB must come into a node, 1 GB over each of its two adapters: whatever is inside may then spread it
    links      1 GB, the slice of the other rank of the node
    both       3 GB, everything, over links and adapter together

Were each rank to send the others 1 GB of their own instead (all-to-all), no byte would serve two ranks: 2 GB over each
adapter and 1 GB over the links. Reductions are gathers run backwards, and an all-reduce is one of each.

Ranks exchange among themselves here. Switches that add up or copy on the way (NVLink SHARP) can do with fewer bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mindvl.parallel.device_types import DeviceType

Exchange = tuple[str, int, int]
"""A collective, the ranks that take part, and how far apart the first and the last of them are, both counted."""
_ONE_TO_ONE = "all-to-all"


@dataclass(frozen=True)
class Crossing:
    """Bytes that a rank receives in some exchanges, on average over the ranks."""

    all_bytes: float
    network_bytes: float
    """Of all, those that come over its own network adapter at least."""
    link_bytes: float
    """Of all, those that only links carry: what ranks of its own node hold."""

    def network_s(self, device: DeviceType) -> float:
        return self.network_bytes / device.network_bytes_per_s

    def links_s(self, device: DeviceType) -> float:
        """With the adapter taking over from the links what it can."""
        together = device.link_bytes_per_s + (device.network_bytes_per_s if self.network_bytes else 0.0)
        return max(self.link_bytes / device.link_bytes_per_s, self.all_bytes / together)


def crossing(exchange: Exchange, sent_bytes: float, device: DeviceType) -> Crossing:
    """Of the bytes that a rank sends in an exchange, which is also what it receives, how many must take which way."""
    kind, size, _ = exchange
    here = node_members(exchange, device)
    others = sent_bytes / (size - 1)
    shared = 1 if kind.startswith(_ONE_TO_ONE) else here
    return Crossing(sent_bytes, others * (size - here) / shared, others * (here - 1))


def crossings(sent: Mapping[Exchange, float], device: DeviceType) -> Crossing:
    """All exchanges of a step together."""
    each = [crossing(exchange, sent_bytes, device) for exchange, sent_bytes in sent.items()]
    return Crossing(
        sum(one.all_bytes for one in each),
        sum(one.network_bytes for one in each),
        sum(one.link_bytes for one in each),
    )


def node_members(exchange: Exchange, device: DeviceType) -> int:
    """The most ranks of an evenly spaced group that one node can hold, which is the cheapest place for them."""
    _, size, span = exchange
    stride = max(1, (span - 1) // (size - 1))
    return min(size, (device.node_devices - 1) // stride + 1)
