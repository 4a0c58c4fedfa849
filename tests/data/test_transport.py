"""Packs that come through shared slots are the packs that were sent, whatever their size and whoever else reads."""

import itertools

import pytest
import torch
from torch.utils.data import DataLoader

from mindvl.data.transport import PackLoader, SlotRing, slot_bytes_of


def same(one, other) -> bool:
    tensors = ("input_ids", "position_ids", "cu_seqlens", "supervised_index", "targets", "image_index")
    pictures = ("patches", "grid_thw", "position_ids", "window_index", "restore_index")
    plain = ("doc_lengths", "num_tokens", "num_supervised", "num_patches", "keys", "sources", "skipped", "patch_budget")
    if (one.vision is None) != (other.vision is None):
        return False
    if one.vision is not None:
        equal = all(torch.equal(getattr(one.vision, name), getattr(other.vision, name)) for name in pictures)
        if not equal or one.vision.window_lengths != other.vision.window_lengths:
            return False
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors) and all(
        getattr(one, name) == getattr(other, name) for name in plain
    )


class Packs(torch.utils.data.Dataset):
    def __init__(self, packs):
        self.packs = packs

    def __getitem__(self, number):
        return self.packs[number]


@pytest.fixture(scope="module")
def packs(samples, pack):
    chosen = itertools.chain.from_iterable(itertools.combinations(range(4), size) for size in (1, 2, 3))
    return [pack(*(samples[number] for number in numbers)) for numbers in chosen]


@pytest.mark.parametrize(("workers", "prefetch"), [(0, None), (1, 1), (2, 3), (2, 1)])
def test_every_pack_arrives_whole_and_in_order_also_when_slots_are_used_again(workers, prefetch, packs):
    order = [number % len(packs) for number in range(40)]
    loader = PackLoader(Packs(packs), order, slot_bytes=1 << 20, num_workers=workers, prefetch_factor=prefetch)
    received = list(loader)  # all are kept: none may change when its slot is written again
    assert len(received) == len(loader) == 40
    assert all(same(pack, packs[number]) for pack, number in zip(received, order, strict=True))


def test_a_pack_that_does_not_fit_into_a_slot_arrives_all_the_same(packs):
    loader = PackLoader(Packs(packs), range(len(packs)), slot_bytes=20_000, num_workers=1, prefetch_factor=2)
    sizes = [0 if pack.vision is None else pack.vision.patches.nbytes for pack in packs]
    assert min(sizes) < 20_000 < max(sizes)
    assert all(same(received, pack) for received, pack in zip(loader, packs, strict=True))


def test_two_readers_of_one_loader_do_not_disturb_each_other(packs):
    loader = PackLoader(Packs(packs), range(len(packs)), slot_bytes=1 << 20, num_workers=1, prefetch_factor=1)
    for one, other, pack in zip(loader, loader, packs, strict=True):
        assert same(one, pack) and same(other, pack)


def test_a_worker_never_writes_a_slot_that_is_still_to_be_read(packs):
    """The rule behind the ring: with prefetch packs on their way, prefetch + 1 slots are enough, and prefetch not."""
    prefetch = 2
    ring = SlotRing(1, prefetch + 1, 1 << 20)
    notes = [ring.write(packs[number], 0) for number in range(prefetch)]
    for number in range(prefetch, len(packs)):
        notes.append(ring.write(packs[number], 0))  # asked for when pack number - prefetch has arrived
        assert same(ring.read(notes[number - prefetch], pin_memory=False), packs[number - prefetch])


def test_the_room_of_a_slot_is_enough_for_a_pack_at_both_budgets(packs):
    for pack in packs:
        patches = 0 if pack.vision is None else len(pack.vision.patches)
        ring = SlotRing(1, 1, slot_bytes_of(len(pack.input_ids), patches, 588))
        assert ring.write(pack, 0) is not pack


def test_an_error_in_a_worker_reaches_the_reader(packs):
    loader = PackLoader(Packs(packs), [0, 99], slot_bytes=1 << 20, num_workers=1)
    received = iter(loader)
    assert same(next(received), packs[0])
    with pytest.raises(IndexError):
        next(received)


def test_it_is_a_dataloader_for_those_who_ask(packs):
    assert isinstance(PackLoader(Packs(packs), range(3), slot_bytes=1), DataLoader)
