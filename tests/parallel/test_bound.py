"""Bytes that must take each way, worked out by hand, and never more time than schedules that move real bytes take."""

from collections import Counter
from itertools import permutations, product

import pytest

from mindvl.parallel.bound import crossing, crossings
from mindvl.parallel.device_types import DEVICE_TYPES, DeviceType

TOY = DeviceType("toy", 1e12, 1e9, 2, 8e9, 1e9, "nowhere", "nobody")
"""Two devices a node; links carry 8 GB/s, an adapter 1 GB/s."""
SLICE_BYTES = 1e9
GATHER, EXCHANGE = "all-gather of parameters", "all-to-all of experts"


def ways(kind, size, span, sent_bytes, device=TOY):
    found = crossing((kind, size, span), sent_bytes, device)
    return found.all_bytes, found.network_bytes, found.link_bytes


@pytest.mark.parametrize("kind", [GATHER, "reduce-scatter of gradients", "all-reduce of dense layers"])
def test_what_all_ranks_share_enters_a_node_once_over_all_its_adapters(kind):
    """2 nodes x 2 devices, slices of 1 GB: 2 GB come into a node over two adapters, 1 GB lies on the neighbour."""
    assert ways(kind, 4, 4, 3e9) == (3e9, 1e9, 1e9)
    found = crossing((kind, 4, 4), 3e9, TOY)
    assert found.network_s(TOY) == 1.0
    assert found.links_s(TOY) == pytest.approx(3e9 / 9e9)


def test_of_an_all_to_all_only_what_leaves_the_node_goes_by_network():
    """2 nodes x 2 devices, 1 GB for each other rank: two of them are on the other node, one is the neighbour."""
    assert ways(EXCHANGE, 4, 4, 3e9) == (3e9, 2e9, 1e9)
    assert crossing((EXCHANGE, 4, 4), 3e9, TOY).network_s(TOY) == 2.0


def test_within_a_node_nothing_goes_by_network():
    assert ways(GATHER, 2, 2, 5e9) == ways(EXCHANGE, 2, 2, 5e9) == (5e9, 0, 5e9)
    assert crossing((GATHER, 2, 2), 4e9, TOY).links_s(TOY) == 0.5


def test_ranks_that_lie_a_node_apart_have_the_network_alone():
    """Ranks 0, 2, 4 and 6 of four nodes."""
    assert ways(GATHER, 4, 7, 3e9) == ways(EXCHANGE, 4, 7, 3e9) == (3e9, 3e9, 0)


def test_exchanges_of_a_step_add_up_on_each_way():
    found = crossings({(GATHER, 4, 4): 3e9, (EXCHANGE, 4, 4): 3e9, (GATHER, 2, 2): 16e9}, TOY)
    assert (found.network_s(TOY), found.links_s(TOY)) == (3.0, pytest.approx(22e9 / 9e9))


# Schedules: transfers as (from, to, owners of the slices that travel), each before those that need it.


def ring(nodes):
    """Each rank hands on to the next what it got last."""
    ranks = [rank for node in nodes for rank in node]
    size = len(ranks)
    for step, at in product(range(1, size), range(size)):
        yield ranks[at], ranks[(at + 1) % size], {ranks[(at + 1 - step) % size]}


def pairwise(nodes):
    """Each rank sends each other its own slice, as in an all-to-all."""
    ranks = [rank for node in nodes for rank in node]
    yield from ((one, other, {one}) for one, other in permutations(ranks, 2))


def by_nodes(nodes):
    """A slice crosses once to each other node, where its receiver hands it to the neighbours."""
    columns = list(zip(*nodes, strict=True))
    for column in columns:
        yield from ((one, other, {one}) for one, other in permutations(column, 2))
    for node in nodes:
        for at, other in permutations(range(len(columns)), 2):
            yield node[at], node[other], set(columns[at])


def time_s(transfers, nodes, device):
    """As if all transfers were under way at once: the time of the busiest direction of an adapter or a link.

    Checks that nobody sends what it has not got and that all have everything in the end.
    """
    ranks = [rank for node in nodes for rank in node]
    held = {rank: {rank} for rank in ranks}
    busy_s = Counter()
    for source, target, owners in transfers:
        assert owners <= held[source]
        held[target] |= owners
        inside = source // device.node_devices == target // device.node_devices
        rate = device.link_bytes_per_s if inside else device.network_bytes_per_s
        for end in ((source, "out", inside), (target, "in", inside)):
            busy_s[end] += SLICE_BYTES * len(owners) / rate
    assert all(each == set(ranks) for each in held.values())
    return max(busy_s.values())


SHAPES = [shape for shape in product((1, 2, 3), (1, 2, 4), (1, 2, 4)) if shape[0] * max(1, shape[1] // shape[2]) > 1]


@pytest.mark.parametrize("network_bytes_per_s", [1e9, 8e9])
@pytest.mark.parametrize(("num_nodes", "node_devices", "stride"), SHAPES)
def test_no_schedule_beats_the_bound(num_nodes, node_devices, stride, network_bytes_per_s):
    """Groups of every n-th rank, on one node to twelve."""
    device = DeviceType("toy", 1e12, 1e9, node_devices, 8e9, network_bytes_per_s, "nowhere", "nobody")
    members = max(1, node_devices // stride)
    apart = max(node_devices, stride)
    nodes = [[node * apart + member * stride for member in range(members)] for node in range(num_nodes)]
    size, span = num_nodes * members, nodes[-1][-1] + 1
    for kind, schedules in ((GATHER, (ring, pairwise, by_nodes)), (EXCHANGE, (pairwise,))):
        found = crossing((kind, size, span), SLICE_BYTES * (size - 1), device)
        bound_s = max(found.network_s(device), found.links_s(device))
        taken_s = [time_s(schedule(nodes), nodes, device) for schedule in schedules]
        assert bound_s <= min(taken_s) * (1 + 1e-9)
        if found.network_s(device) > found.links_s(device):
            assert bound_s == pytest.approx(min(taken_s))  # and the best of them reaches it


def test_a_gather_over_two_machines_of_eight_takes_less_than_one_adapter_would_need():
    """16 H100: 8/15 of what a rank receives comes from elsewhere, an eighth of that over its own adapter."""
    device = DEVICE_TYPES["h100"]
    found = crossing((GATHER, 16, 16), 15e9, device)
    assert found.network_bytes == 1e9
    assert max(found.network_s(device), found.links_s(device)) == pytest.approx(15e9 / 500e9)
