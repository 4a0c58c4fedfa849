"""The size rule, compared with transformers' to the letter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as stock

from mindvl.data.images import smart_resize, smart_resize_many

BUDGETS = [(56 * 56, 28 * 28 * 1280), (28 * 28, 28 * 28 * 4), (4 * 784, 16384 * 784), (784, 784)]


@settings(deadline=None, max_examples=400)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(BUDGETS))
def test_the_size_of_any_picture_equals_transformers_or_both_refuse_it(height, width, budget):
    results = []
    for rule in (smart_resize, stock):
        try:
            results.append(rule(height, width, factor=28, min_pixels=budget[0], max_pixels=budget[1]))
        except ValueError:
            results.append("refused")
    assert results[0] == results[1]


@pytest.mark.parametrize("budget", BUDGETS)
def test_halves_round_to_even_as_in_transformers(budget):
    sides = np.arange(14, 28 * 12, 14)
    for height in sides.tolist():
        for width in sides.tolist():
            kwargs = {"factor": 28, "min_pixels": budget[0], "max_pixels": budget[1]}
            assert smart_resize(height, width, **kwargs) == stock(height, width, **kwargs)


def test_the_photograph_of_the_docstring_has_the_size_it_shows():
    assert smart_resize(427, 640) == (420, 644)


def test_an_aspect_ratio_over_200_is_refused_with_the_sides():
    assert smart_resize(2, 400) == stock(2, 400)
    with pytest.raises(ValueError, match=r"smaller than 200: got 200.5 \(2x401 pixels\)"):
        smart_resize(2, 401)


def test_a_side_of_zero_is_an_error_as_in_transformers():
    for rule in (smart_resize, stock):
        with pytest.raises(ZeroDivisionError):
            rule(0, 10)


def test_many_pictures_are_resized_as_each_of_them_is():
    rng = np.random.default_rng(0)
    height = np.concatenate([np.exp(rng.uniform(0, 9, 5000)).astype(int), [1, 0, 28, 56, 2, 200, 1400, 14, 42, 70]])
    width = np.concatenate([np.exp(rng.uniform(0, 9, 5000)).astype(int), [1, 5, 28, 56, 400, 1, 7, 14, 42, 70]])
    for low, high in ((56 * 56, 1280 * 28 * 28), (784, 64 * 784), (4096, 4096)):
        many = smart_resize_many(height, width, min_pixels=low, max_pixels=high)
        for h, w, *found in zip(height.tolist(), width.tolist(), *(side.tolist() for side in many), strict=True):
            try:
                expected = smart_resize(h, w, min_pixels=low, max_pixels=high)
            except (ValueError, ZeroDivisionError):
                expected = (0, 0)
            assert tuple(found) == expected, (h, w)
