from dataclasses import replace

import numpy as np
import pytest
import torch

from mindvl.batch import ImageGrid
from mindvl.data.images import open_image
from mindvl.data.patches import join_patches
from mindvl.data.sample import PixelBudget, cut_visuals, encode_sample, visual_grids, widen_placeholders

BUDGET = PixelBudget(28 * 28, 64 * 28 * 28, video_min_pixels=784, video_max_pixels=8 * 784, video_total_pixels=30 * 784)


def encode(encoder, messages, images, supervise="answers"):
    return encode_sample("key", "source", messages, images, encoder, BUDGET, supervise=supervise)


def test_each_placeholder_becomes_as_many_as_its_picture_has_visual_tokens(conversation, encoder):
    messages, images = conversation("which?", "the second", ((28, 56), (112, 84)))
    sample = encode(encoder, messages, images)
    assert [grid.merged() for grid in sample.grids] == [2, 12]
    assert (
        len(sample.image_positions) == 14 and (sample.input_ids[sample.image_positions] == encoder.image_token_id).all()
    )
    assert sample.patches.shape == (8 + 48, 588)


def test_targets_are_the_next_tokens_of_the_answer_and_its_end(conversation, encoder):
    sample = encode(encoder, *conversation("read it", "abc", ((56, 84),)))
    learnt = sample.targets >= 0
    assert encoder.tokenizer.decode(sample.targets[learnt]) == "abc<|im_end|>"
    assert (sample.targets[:-1][learnt[:-1]] == sample.input_ids[1:][learnt[:-1]]).all() and sample.targets[-1] == -1


def test_with_text_supervision_no_picture_token_is_a_target(conversation, encoder):
    sample = encode(encoder, *conversation("read it", "abc", ((56, 84),)), supervise="text")
    assert encoder.image_token_id not in sample.targets
    assert encoder.tokenizer.decode(sample.targets[sample.targets >= 0]) == "read itabc<|im_end|>"


def test_widening_keeps_the_mask_with_its_tokens():
    ids, learnt, where = widen_placeholders(
        np.array([1, 9, 2, 9, 3]), np.array([False, False, True, False, True]), [3, 1], 9
    )
    assert ids.tolist() == [1, 9, 9, 9, 2, 9, 3] and where.tolist() == [1, 2, 3, 5]
    assert learnt.tolist() == [False, False, False, False, True, False, True]


def test_more_placeholders_than_pictures_are_refused_with_both_numbers(conversation, encoder):
    messages, images = conversation("which?", "a", ((28, 56), (112, 84)))
    with pytest.raises(ValueError, match="has 2 image placeholders, the sample 1 images"):
        encode(encoder, messages, images[:1])


def test_a_picture_that_does_not_decode_is_refused(conversation, encoder):
    messages, (image,) = conversation("which?", "a", ((28, 56),))
    with pytest.raises(ValueError, match="does not decode"):
        encode(encoder, messages, [image[:-100]])


@pytest.fixture
def video(picture):
    """Frames of noise, 60x90 pixels."""
    return lambda num_frames, size=(60, 90): tuple(picture(*size, seed=number) for number in range(num_frames))


@pytest.mark.parametrize(("num_frames", "grid"), [(1, (1, 4, 6)), (2, (1, 4, 6)), (5, (3, 4, 6)), (12, (6, 2, 4))])
def test_a_video_is_cut_as_transformers_cuts_it_an_odd_last_frame_twice(stock, video, num_frames, grid):
    frames = video(num_frames)
    patches, (found,) = cut_visuals([frames], BUDGET)
    assert found == ImageGrid(*grid)
    size = (14 * found.width, 14 * found.height)
    resized = [np.asarray(open_image(frame).resize(size, 3)) for frame in frames]  # 3 is bicubic
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)[None]
    expected, *thw = stock.patchify(pixels, patch_size=14, merge_size=2, temporal_patch_size=2)
    assert tuple(thw) == grid and np.array_equal(patches, expected[0].numpy())


def test_beside_a_video_a_picture_is_written_as_two_equal_frames(video, picture):
    still, _ = cut_visuals([picture(56, 84)], BUDGET)
    alone, _ = cut_visuals([video(3)], BUDGET)
    patches, grids = cut_visuals([picture(56, 84), video(3), picture(56, 84)], BUDGET)
    assert still.shape[1] == 588 and patches.shape == (24 + 48 + 24, 1176) and len(grids) == 3
    assert np.array_equal(patches, join_patches([still, alone, still]))


def test_a_tower_that_takes_frames_one_by_one_gets_them_so(video, picture):
    budget = replace(BUDGET, frames=1, video_total_pixels=2 * BUDGET.video_total_pixels)
    patches, grids = cut_visuals([picture(56, 84), video(3)], budget)
    alone = [cut_visuals([frame], replace(budget, min_pixels=784, max_pixels=8 * 784))[0] for frame in video(3)]
    assert patches.shape == (24 + 3 * 24, 588) and grids == [ImageGrid(1, 4, 6), ImageGrid(3, 4, 6)]
    assert np.array_equal(patches[24:], np.concatenate(alone))
    assert budget.patch_bytes(has_video=True) == 588 and visual_grids([video(3)], budget) == grids[1:]


def test_patches_go_to_the_memory_that_is_given_and_not_beyond_it(video, picture):
    visuals = [picture(56, 84), video(3)]
    expected, _ = cut_visuals(visuals, BUDGET)
    room = np.full((80, 1176), 9, np.uint8)
    patches, _ = cut_visuals(visuals, BUDGET, room)
    assert np.shares_memory(patches, room) and np.array_equal(patches, expected) and (room[72:] == 9).all()
    with pytest.raises(ValueError, match="more patches than planned: 72, the pack has room for 71"):
        cut_visuals(visuals, BUDGET, room[:71])


def test_the_grids_by_the_headers_are_those_of_the_patches(video, picture):
    visuals = [picture(30, 200), video(1), video(4, (30, 200)), picture(100, 100), video(13)]
    assert visual_grids(visuals, BUDGET) == cut_visuals(visuals, BUDGET)[1]


def test_visual_tokens_of_pictures_and_videos_lie_in_reading_order(encoder, video, picture):
    content = [{"type": "video"}, {"type": "text", "text": "and"}, {"type": "image"}, {"type": "text", "text": "?"}]
    second = [{"type": "image"}, {"type": "video"}]
    messages = []
    for part in (content, second):
        messages += [{"role": "user", "content": part}, {"role": "assistant", "content": "a"}]
    visuals = [video(3), picture(28, 28), picture(28, 56), video(2)]
    sample = encode(encoder, messages, visuals)
    ids = sample.input_ids[sample.image_positions]
    tokens = [grid.merged() for grid in sample.grids]
    assert tokens == [12, 1, 2, 6]
    kinds = [encoder.video_token_id, encoder.image_token_id, encoder.image_token_id, encoder.video_token_id]
    assert ids.tolist() == np.repeat(kinds, tokens).tolist()
    assert (np.diff(sample.image_positions) > 1).sum() == 3


def test_a_video_in_a_pictures_place_is_refused(encoder, video, conversation):
    messages, _ = conversation("which?", "a", ((28, 56),))
    with pytest.raises(ValueError, match="placeholder 0 is of type image, the sample has a video there"):
        encode(encoder, messages, [video(2)])


def test_frames_of_unequal_size_and_videos_without_frames_are_refused(video):
    with pytest.raises(ValueError, match="frames of a video differ in size: 90x60 and 84x56"):
        cut_visuals([video(2) + video(1, (56, 84))], BUDGET)
    with pytest.raises(ValueError, match="the video has 0 frames"):
        cut_visuals([()], BUDGET)


def test_a_lower_bound_above_the_upper_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="min_pixels is 10, more than max_pixels, 9"):
        PixelBudget(10, 9)
