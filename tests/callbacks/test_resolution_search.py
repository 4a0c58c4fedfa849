import pytest
from mindvl_callbacks import search_resolution

SMALL, MIDDLE, LARGE = (1, 10), (1, 20), (1, 40)


class Table:
    """A scorer that reads its scores from a table and remembers what it was asked."""

    def __init__(self, scores, tokens=None):
        self.scores, self.tokens, self.asked = scores, tokens or {budget: float(budget[1]) for budget in scores}, []

    def __call__(self, low, high):
        self.asked.append((low, high))
        return self.scores[low, high], self.tokens[low, high]


def budget_of(point):
    return point.min_pixels, point.max_pixels


def test_the_selection_scorer_picks_and_the_other_reports():
    select = Table({MIDDLE: 0.5, SMALL: 0.9, LARGE: 0.7})
    report = Table({MIDDLE: 0.4, SMALL: 0.3, LARGE: 1.0})  # what the reported questions would have picked
    found = search_resolution([MIDDLE, SMALL, LARGE], select, report)
    assert (budget_of(found.chosen), found.chosen.selection_score, found.chosen.test_score) == (SMALL, 0.9, 0.3)
    assert (budget_of(found.default), found.default.test_score) == (MIDDLE, 0.4)
    assert sorted(report.asked) == [SMALL, MIDDLE]


def test_the_grid_keeps_the_order_given_and_only_reported_budgets_have_a_test_score():
    scores = {MIDDLE: 0.5, SMALL: 0.9, LARGE: 0.7}
    found = search_resolution([MIDDLE, SMALL, LARGE], Table(scores), Table(scores))
    assert [budget_of(point) for point in found.grid] == [MIDDLE, SMALL, LARGE]
    assert [point.test_score for point in found.grid] == [0.5, 0.9, None]
    assert [point.mean_visual_tokens for point in found.grid] == [20.0, 10.0, 40.0]


def test_among_equal_scores_fewer_visual_tokens_win():
    scores = dict.fromkeys((LARGE, SMALL, MIDDLE), 0.8)
    found = search_resolution([LARGE, SMALL, MIDDLE], Table(scores), Table(scores))
    assert budget_of(found.chosen) == SMALL


def test_a_budget_given_twice_is_scored_once():
    select, report = Table({SMALL: 0.8, LARGE: 0.7}), Table({SMALL: 0.6})
    found = search_resolution([SMALL, LARGE, SMALL], select, report)
    assert select.asked == [SMALL, LARGE] and len(found.grid) == 2
    assert report.asked == [SMALL]
    assert found.default == found.chosen


def test_a_lower_bound_above_the_upper_is_refused_before_anything_is_scored():
    select = Table({SMALL: 0.8})
    with pytest.raises(ValueError, match="min_pixels 50, more than its max_pixels 40"):
        search_resolution([SMALL, (50, 40)], select, select)
    assert select.asked == []


def test_no_budget_at_all_is_refused():
    with pytest.raises(ValueError, match="0 pixel budgets given"):
        search_resolution([], Table({}), Table({}))
