import numpy as np
import pytest

from mindvl.data.sample import PixelBudget, encode_sample, widen_placeholders

BUDGET = PixelBudget(28 * 28, 64 * 28 * 28)


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


def test_a_lower_bound_above_the_upper_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="min_pixels is 10, more than max_pixels, 9"):
        PixelBudget(10, 9)
