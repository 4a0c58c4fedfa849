"""Packs that come through shared slots are the packs that were sent, whatever their size and whoever else reads."""

import dataclasses
import gc
import itertools

import pytest
import torch
from torch.utils.data import DataLoader

from mindvl.data.transport import PackLoader, Slots, slot_bytes_of


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


def test_a_slot_is_free_when_the_last_tensor_on_it_is_gone(packs):
    slots = Slots(1, 2, 1 << 20)
    pack = next(pack for pack in packs if pack.vision is not None)
    slot = slots.take(0)
    received = slots.read(slots.write(pack, slot), pin_memory=False)
    assert same(received, pack) and slots.take(0) != slot and slots.take(0) is None
    kept = received.vision.patches[3:5].float()  # a copy
    view = received.vision.patches[3:5]
    del received
    gc.collect()
    assert slots.take(0) is None and torch.equal(view.float(), kept)
    del view
    gc.collect()
    assert slots.take(0) == slot


def test_tensors_that_were_made_in_the_slot_are_not_copied(packs):
    slots = Slots(2, 1, 1 << 20)
    pack = next(pack for pack in packs if pack.vision is not None)
    slot = slots.take(1)
    patches = slots.allocate(tuple(pack.vision.patches.shape), slot=slot)
    patches[:] = pack.vision.patches.numpy()
    made_there = dataclasses.replace(pack, vision=dataclasses.replace(pack.vision, patches=torch.from_numpy(patches)))
    received = slots.read(slots.write(made_there, slot), pin_memory=False)
    assert same(received, pack) and received.vision.patches.data_ptr() == patches.ctypes.data


def test_packs_that_are_let_go_come_through_slots_and_packs_that_are_kept_arrive_all_the_same(packs):
    order = [number % len(packs) for number in range(30)]
    loader = PackLoader(Packs(packs), order, slot_bytes=1 << 20, num_workers=1, prefetch_factor=2)
    on_slots = []
    for pack, number in zip(loader, order, strict=True):
        assert same(pack, packs[number])
        on_slots.append(not pack.input_ids.is_shared())
        del pack
    assert all(on_slots), "PyTorch's way shows as a shared tensor"
    kept = list(PackLoader(Packs(packs), order, slot_bytes=1 << 20, num_workers=1, prefetch_factor=2))
    assert any(pack.input_ids.is_shared() for pack in kept)
    assert all(same(pack, packs[number]) for pack, number in zip(kept, order, strict=True))


def test_the_room_of_a_slot_is_enough_for_a_pack_at_both_budgets(packs):
    for pack in packs:
        patches = 0 if pack.vision is None else len(pack.vision.patches)
        slots = Slots(1, 1, slot_bytes_of(len(pack.input_ids), patches, 588))
        assert slots.write(pack, 0) is not None


def test_an_error_in_a_worker_reaches_the_reader(packs):
    loader = PackLoader(Packs(packs), [0, 99], slot_bytes=1 << 20, num_workers=1)
    received = iter(loader)
    assert same(next(received), packs[0])
    with pytest.raises(IndexError):
        next(received)


def test_it_is_a_dataloader_for_those_who_ask(packs):
    assert isinstance(PackLoader(Packs(packs), range(3), slot_bytes=1), DataLoader)
