import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from mindvl.recipe import curves


@pytest.fixture
def draw(monkeypatch):
    """The axes of a drawn search, and its pixels as height x width x 3."""
    figures = []
    plain = curves._figure
    monkeypatch.setattr(curves, "_figure", lambda height: figures.append(plain(height)) or figures[-1])

    def of(resolution):
        file = curves.draw_resolution(resolution)
        return figures[-1].axes[0], np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))

    return of


def search(*floors):
    """A search in which all floors score alike under each ceiling."""
    grid = [
        {
            "min_pixels": floor * floor,
            "max_pixels": side * side,
            "selection_score": score,
            "mean_visual_tokens": side / 4,
        }
        for floor in floors
        for side, score in ((224, 0.4), (336, 0.5), (560, 0.675))
    ]
    best = grid[2] | {"test_score": 0.675}
    return {"selection_split": "validation", "grid": grid, "default": best, "chosen": best}


@pytest.mark.parametrize(("floors", "told"), [((28,), True), ((28, 112), False)], ids=["one floor", "two floors"])
def test_the_axis_promises_tokens_where_the_ticks_have_them(draw, floors, told):
    axes, _ = draw(search(*floors))
    assert [" tokens" in label.get_text() for label in axes.get_xticklabels()] == [told] * 3
    assert ("visual tokens" in axes.get_xlabel()) == told


def test_floors_and_splits_that_score_alike_are_all_seen_in_one_place(draw):
    axes, pixels = draw(search(28, 112, 224))
    column, row = axes.transData.transform((560 * 560, 67.5)).astype(int)
    around = pixels[len(pixels) - row - 25 : len(pixels) - row + 25, column - 25 : column + 25]
    for color in (*curves.COLORS[:3], curves.ACCENT):
        wanted = np.round(255 * np.array(to_rgb(color)))
        assert (np.abs(around - wanted).max(axis=-1) <= 2).sum() >= 20, color
