"""A batch as a run of bytes."""

import dataclasses

import torch

from mindvl.parallel.sharing import pack, unpack


def test_a_pack_with_pictures_comes_back_as_it_was(step_packs):
    batch = step_packs[0]
    back = unpack(*pack(batch))
    for item in dataclasses.fields(batch):
        ours, theirs = getattr(back, item.name), getattr(batch, item.name)
        if isinstance(theirs, torch.Tensor):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
        elif item.name != "vision":
            assert ours == theirs
    assert torch.equal(back.vision.patches, batch.vision.patches)
    assert back.vision.window_lengths == batch.vision.window_lengths


def test_whole_numbers_travel_in_32_bits_where_they_fit():
    narrow, wide = torch.arange(1000), torch.arange(1000) + 2**40
    assert pack(narrow)[0].numel() < 4400
    assert pack(wide)[0].numel() > 8000
    assert torch.equal(unpack(*pack(wide)), wide)
    assert unpack(*pack(narrow)).dtype == torch.int64


def test_tensors_of_a_batch_do_not_share_memory():
    first, second = unpack(*pack([torch.ones(3), torch.zeros(3)]))
    first.fill_(7)
    assert torch.equal(second, torch.zeros(3))
