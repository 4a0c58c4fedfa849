"""Videos from a shard to a pack: planned as large as they are, never cut through, and equal to what they are alone."""

import json
from collections import Counter

import pytest
import torch

from mindvl.data.cost import CostModel
from mindvl.data.dataset import PackDataset
from mindvl.data.indexing import index_shards
from mindvl.data.mixture import Source
from mindvl.data.overview import describe
from mindvl.data.pack import PATCH_STEP
from mindvl.data.pixels import PixelBudget
from mindvl.data.plan import PackBudget
from mindvl.data.storage import find_shards
from mindvl.data.table import SampleTable
from mindvl.data.tokenizer import tokenizer_fingerprint
from mindvl.data.transport import PackLoader, slot_bytes_of

PIXELS = PixelBudget(
    784, 64 * 784, video_min_pixels=784, video_max_pixels=6 * 784, video_total_pixels=20 * 784
)  # frames of 56x84 become 56x84 up to 6 frames, 28x56 for 8


@pytest.fixture
def shards(tmp_path, picture, write_tar):
    """Eight conversations: text, a picture, a video, a video between two pictures in two turns, twice."""

    def part(kind):
        return {"type": kind} if kind else {"type": "text", "text": "and?"}

    shown = [[None], ["image", None], ["video", None], ["image", "video", None, "image"]] * 2
    members = []
    for number, kinds in enumerate(shown):
        turns = [kinds[:3], kinds[3:]] if len(kinds) > 3 else [kinds]
        messages = []
        for turn in turns:
            messages += [{"role": "user", "content": [part(kind) for kind in turn]}]
            messages += [{"role": "assistant", "content": f"answer {number}"}]
        members.append((f"{number}.json", json.dumps({"messages": messages}).encode()))
        for place, kind in enumerate(kind for kind in kinds if kind):
            if kind == "image":
                members.append((f"{number}.{place}.png", picture(28, 56, seed=number)))
                continue
            for frame in range(3 if number < 4 else 8):
                members.append((f"{number}.{place}.{frame:04d}.jpg", picture(56, 84, seed=frame, format="JPEG")))
    write_tar(tmp_path / "all-0.tar", members)
    return tmp_path


def table_of(folder, encoder, *, tokens=256, patches=1024, images=99, **settings):
    index_shards(find_shards(folder), encoder)
    budget, tokenizer = PackBudget(tokens, patches, images), tokenizer_fingerprint(encoder.tokenizer)
    source = Source(str(folder / "*.tar"))
    return SampleTable({"all": source}, tokenizer=tokenizer, pixels=PIXELS, budget=budget, **settings)


def dataset_of(table, encoder, **settings):
    return PackDataset(table, encoder, supervise="answers", window_tokens=2, **settings)


def test_a_video_is_planned_as_large_as_it_is(shards, encoder):
    table = table_of(shards, encoder, cost=CostModel(patch=1.0, patch_pair=0.5))
    dataset = dataset_of(table, encoder)
    assert table.has_video.tolist() == [False, False, True, True] * 2
    assert table.images.tolist() == [0, 1, 1, 3] * 2
    slices = {2: 2 * (24,), 3: (8, 24, 24, 8), 6: 4 * (8,), 7: (8, *4 * (8,), 8)}
    for row in range(8):
        sample = dataset.encode(row)
        assert table.tokens[row] == len(sample.input_ids) and table.patches[row] == len(sample.patches)
        patches = [grid.height * grid.width for grid in sample.grids for _ in range(grid.frames)]
        assert tuple(patches) == slices.get(row, tuple(patches))
        assert table.vision_cost[row] == sum(n + 0.5 * n**2 for n in patches), "a slice attends to itself"


@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_packs_are_twice_as_wide_only_where_they_hold_a_video(fixed_shapes, shards, encoder):
    dataset = dataset_of(table_of(shards, encoder), encoder, fixed_shapes=fixed_shapes)
    still, mixed = dataset[[0, 1]], dataset[[1, 2, 3]]
    padded = PATCH_STEP if fixed_shapes else 0
    assert still.vision.patches.shape == (padded or 8, 588)
    assert mixed.vision.patches.shape == (padded or 8 + 48 + 64, 1176)
    assert mixed.vision.grid_thw.tolist() == [[1, 2, 4], [2, 4, 6], [1, 2, 4], [2, 4, 6], [1, 2, 4]]
    assert mixed.vision.image_lengths[:7] == (8, 24, 24, 8, 24, 24, 8) and mixed.num_images == 5
    kinds = mixed.input_ids[mixed.image_index].tolist()
    image, video = encoder.image_token_id, encoder.video_token_id
    assert kinds == [image] * 2 + [video] * 12 + [image] * 2 + [video] * 12 + [image] * 2


def test_the_loss_and_gradients_of_a_pack_are_those_of_its_samples_alone(shards, encoder, make_model):
    model, dataset = make_model().double(), dataset_of(table_of(shards, encoder), encoder)
    packs = [dataset[[row]] for row in range(8)]
    apart = sum(model(packed=pack).loss for pack in packs)
    apart.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    together = model(packed=dataset[list(range(8))]).loss
    together.backward()
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=0)
    for name, parameter in model.named_parameters():
        difference = (parameter.grad - gradients[name]).abs().max() / gradients[name].abs().max()
        assert difference <= 1e-9, f"{name}: {difference:.1e}"


def test_a_video_whose_frame_does_not_decode_leaves_a_hole(shards, encoder, write_tar, picture, tmp_path):
    messages = [{"role": "user", "content": [{"type": "video"}]}, {"role": "assistant", "content": "a"}]
    frames = [picture(56, 84, seed=number) for number in range(2)]
    frames[1] = frames[1][:-2000] + bytes(2000)
    members = [("x.json", json.dumps({"messages": messages}).encode())]
    members += [(f"x.0.{number:04d}.png", frame) for number, frame in enumerate(frames)]
    write_tar(tmp_path / "bad-0.tar", members)
    table = table_of(shards, encoder)
    batch = dataset_of(table, encoder)[[1, 8]]
    assert [skipped.reason for skipped in batch.skipped] == ["the picture does not decode"]
    assert batch.hole_tokens == table.tokens[8] and batch.vision.patches.shape == (8, 1176)


def test_a_conversation_is_cut_before_a_video_and_never_inside_one(shards, encoder):
    whole = table_of(shards, encoder)
    longest = int(whole.tokens.max())
    for policy in ("drop", "cut"):
        table = table_of(shards, encoder, tokens=longest - 1, too_long=policy)
        left_out = Counter(item.reason for item in table.left_out.elements())
        if policy == "drop":
            assert left_out == {f"longer than the sequence of {longest - 1} tokens": 1} and len(table) == 7
        else:
            assert not left_out and table.messages.tolist() == [0, 0, 0, 2, 0, 0, 0, 0]
            assert table.images[3] == 2 and table.has_video[3]
            sample = dataset_of(table, encoder).encode(3)
            assert [grid.frames for grid in sample.grids] == [1, 2]
    few = table_of(shards, encoder, patches=40, too_long="cut")
    assert few.left_out.total() == 2 and few.row.tolist() == [0, 1, 4, 5, 6, 7], "samples 2 and 3 begin with 48 patches"
    assert few.patches.tolist() == [0, 8, 0, 8, 32, 40] and few.messages.tolist() == [0, 0, 0, 0, 0, 2]


def test_packs_of_videos_come_through_the_slots_of_workers(shards, encoder):
    table = table_of(shards, encoder)
    dataset = dataset_of(table, encoder)
    rows = [[1, 2], [0, 1], [3, 6, 7], [2]]
    room = slot_bytes_of(256, 256, PIXELS.patch_bytes(has_video=True))
    loader = PackLoader(dataset, rows, slot_bytes=room, num_workers=1, prefetch_factor=2)
    for pack, expected in zip(loader, map(dataset.__getitem__, rows), strict=True):
        assert not pack.input_ids.is_shared(), "PyTorch's way shows as a shared tensor"
        assert torch.equal(pack.vision.patches, expected.vision.patches) and pack.keys == expected.keys
        del pack


def test_the_record_of_a_run_names_the_bounds_of_frames_only_where_there_are_videos(shards, encoder, write_tar, record):
    def described():
        table = table_of(shards, encoder)
        return describe(table, table.plan(weigh_by="epochs", packs_per_step=1, seed=0))

    assert described()["video_total_pixels"] == 20 * 784
    write_tar(shards / "all-0.tar", [("a.json", record())])
    assert "max_pixels" in described() and "video_total_pixels" not in described()
