"""Pictures go where their placeholders are, or the call is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl.batch import ImageGrid
from mindvl.model.joining import join, placeholder_positions

IMAGE = 99


def text(*runs):
    """Runs of placeholders with a word before, between and after."""
    ids = [1]
    for run in runs:
        ids += [IMAGE] * run + [1]
    return ids


def positions(rows, grids):
    return placeholder_positions(torch.tensor(rows), grids, image_token_id=IMAGE, merge=2)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=5))
def test_every_placeholder_position_is_found_in_order(sizes):
    grids = [ImageGrid(1, 2 * height, 2 * width) for height, width in sizes]
    ids = text(*(grid.merged() for grid in grids))
    assert positions([ids], grids).tolist() == [place for place, token in enumerate(ids) if token == IMAGE]


def test_pictures_of_several_rows_are_counted_in_reading_order():
    rows = [[IMAGE, IMAGE, 1, 1], [1, IMAGE, 1, IMAGE]]
    grids = [ImageGrid(1, 2, 4), ImageGrid(1, 2, 2), ImageGrid(1, 2, 2)]
    assert positions(rows, grids).tolist() == [0, 1, 5, 7]


def test_a_run_that_ends_a_row_is_not_joined_to_one_that_begins_the_next():
    assert positions([[1, IMAGE], [IMAGE, 1]], [ImageGrid(1, 2, 2), ImageGrid(1, 2, 2)]).tolist() == [1, 2]


def test_swapped_pictures_are_refused_although_the_totals_agree():
    with pytest.raises(
        ValueError, match=r"picture 0 of 2 has 6 visual tokens \(4x6 patches\), but its text holds 2 placeholders"
    ):
        positions([text(2, 6)], [ImageGrid(1, 4, 6), ImageGrid(1, 2, 4)])


def test_a_run_of_the_wrong_length_is_refused_naming_its_picture():
    with pytest.raises(ValueError, match=r"picture 1 of 2 has 6 visual tokens .* its text holds 5 placeholders"):
        positions([text(2, 5)], [ImageGrid(1, 2, 4), ImageGrid(1, 4, 6)])


@pytest.mark.parametrize("runs", [(), (2,), (2, 2, 2)])
def test_more_or_fewer_runs_than_pictures_are_refused_with_both_numbers(runs):
    with pytest.raises(ValueError, match=f"{len(runs)} runs of placeholders, but 2 pictures"):
        positions([text(*runs)], [ImageGrid(1, 2, 4), ImageGrid(1, 2, 4)])


VIDEO = 98


def mixed(ids, grids):
    return placeholder_positions(torch.tensor([ids]), grids, image_token_id=IMAGE, video_token_id=VIDEO, merge=2)


def test_pictures_and_videos_are_counted_in_reading_order_also_side_by_side():
    picture, video = ImageGrid(1, 2, 4), ImageGrid(3, 2, 2)
    ids = [1, VIDEO, VIDEO, VIDEO, IMAGE, IMAGE, 1, VIDEO, VIDEO, VIDEO, 1]
    assert mixed(ids, [video, picture, video]).tolist() == [1, 2, 3, 4, 5, 7, 8, 9]
    assert mixed([1, VIDEO, 1], [ImageGrid(1, 2, 2)]).tolist() == [1], "a video of two frames is one slice"
    with pytest.raises(ValueError, match=r"picture 1 of 3 has 3 visual tokens \(3x2x2 patches\), .* 2 placeholders"):
        mixed(ids, [video, video, picture])


def test_a_video_in_the_place_of_a_picture_is_refused_although_the_numbers_agree():
    with pytest.raises(ValueError, match="picture 0 of 1 is a video of 2 pairs of frames, but its placeholders are"):
        mixed([1, IMAGE, IMAGE, 1], [ImageGrid(2, 2, 2)])


def test_without_a_token_for_videos_its_id_is_a_word_like_others():
    assert positions([[1, VIDEO, IMAGE, 1]], [ImageGrid(1, 2, 2)]).tolist() == [2]


def test_joining_replaces_the_named_rows_and_no_other_and_passes_gradients_to_both():
    embeddings, features = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    joined = join(embeddings, features, torch.tensor([1, 5]))
    assert torch.equal(joined.view(6, 4)[[1, 5]], features)
    assert torch.equal(joined.view(6, 4)[[0, 2, 3, 4]], embeddings.view(6, 4)[[0, 2, 3, 4]])
    joined.sum().backward()
    assert torch.equal(features.grad, torch.ones(2, 4))
    assert embeddings.grad.view(6, 4).sum(1).tolist() == [4, 0, 4, 4, 4, 0]


def test_the_model_refuses_pictures_that_do_not_fit_the_text(make_model, samples):
    model = make_model()
    sample = samples[2]
    pixels = torch.cat(torch.from_numpy(sample.patches).split([grid.patches for grid in sample.grids])[::-1])
    thw = torch.tensor([(grid.frames, grid.height, grid.width) for grid in sample.grids[::-1]])
    with pytest.raises(ValueError, match=r"picture 0 of 2 has 12 visual tokens .* its text holds 2 placeholders"):
        model(input_ids=torch.from_numpy(sample.input_ids)[None], pixel_values=pixels, image_grid_thw=thw)
