import json
import math
from dataclasses import asdict

import pytest
from mindvl_callbacks import SearchSample, budget_grid, search_resolution
from mindvl_callbacks.resolution_search import rung_sizes

SMALL, MIDDLE, LARGE = (1, 4), (1, 9), (1, 36)


def squares(count, *, benchmark="docs", sides=(2, 3, 4, 5), first=0, stratum=""):
    """Samples with a square picture each, whose sides take turns."""
    return [
        SearchSample(f"picture {number}", benchmark, sides[number % len(sides)], stratum)
        for number in range(first, first + count)
    ]


def grid_of(sample, budget):
    """The side that comes nearest, when an area must lie within the budget."""
    low, high = budget
    side = min(max(sample.content, math.isqrt(low - 1) + 1), math.isqrt(high))
    return ((side, side),)


class Scorer:
    """Scores by a rule of (sample, side under the budget), and keeps what it was asked."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def __call__(self, samples, budget):
        self.asked += [(sample.benchmark, sample.key, grid_of(sample, budget)) for sample in samples]
        return [float(self.rule(sample, grid_of(sample, budget)[0][0])) for sample in samples]


def likes(side):
    """A model that is better the nearer to a side its pictures are."""
    return lambda sample, resized: 1 / (1 + abs(resized - side))


def search(budgets, rule, *, selection=None, report=None, **settings):
    scorer = rule if isinstance(rule, Scorer) else Scorer(rule)
    selection = squares(40) if selection is None else selection
    report = squares(40, first=40) if report is None else report
    return search_resolution(selection, report, budgets=budgets, score=scorer, grid_of=grid_of, **settings)


def budget_of(point):
    return point.min_pixels, point.max_pixels


def mean(rule, samples, budget):
    """The slow plain twin: each sample at the budget, without a table."""
    return sum(rule(sample, grid_of(sample, budget)[0][0]) for sample in samples) / len(samples)


def test_the_selection_split_picks_and_the_other_reports():
    def rule(sample, side):
        selects = int(sample.key.split()[1]) < 40
        return side == 2 if selects else side > 2  # the reported samples would have picked another

    found = search([LARGE, SMALL], rule)["docs"]
    assert (budget_of(found.chosen), found.chosen.selection.score, found.chosen.report.score) == (SMALL, 1.0, 0.0)
    assert (budget_of(found.default), found.default.selection.score, found.default.report.score) == (LARGE, 0.25, 0.75)
    assert (found.difference.score, found.difference.num_samples) == (-0.75, 40)
    assert found.difference.low < -0.75 < found.difference.high < 0


def test_every_score_of_the_grid_is_that_of_a_run_of_its_own():
    budgets = budget_grid([1, 9, 25], [9, 25, 100])
    found = search(budgets, likes(4))["docs"]
    assert [budget_of(point) for point in found.grid] == budgets
    for point in found.grid:
        assert point.selection.score == pytest.approx(mean(likes(4), squares(40), budget_of(point)))
        assert point.mean_visual_tokens == mean(lambda _, side: side**2, squares(40), budget_of(point))
    assert [point.report is not None for point in found.grid] == [
        budget_of(point) in (budgets[0], budget_of(found.chosen)) for point in found.grid
    ]
    assert found.chosen.report_visual_tokens == mean(lambda _, side: side**2, squares(40), budget_of(found.chosen))


def test_budgets_that_resize_a_sample_to_the_same_grid_are_scored_once():
    scorer = Scorer(likes(4))
    budgets = budget_grid([1, 4, 9], [9, 16, 100])
    found = search(budgets, scorer)["docs"]
    assert len(scorer.asked) == len(set(scorer.asked))
    distinct = {(sample.key, grid_of(sample, budget)) for sample in squares(40) for budget in budgets}
    cost = found.cost
    assert (cost.num_scored, cost.num_separate) == (len(distinct), 9 * 40)
    assert cost.visual_tokens_scored == sum(rows * columns for _, ((rows, columns),) in distinct)
    assert cost.scored_ratio < 0.6


def test_batches_hold_samples_of_one_budget_and_never_more_than_allowed():
    sizes = []

    class Counting(Scorer):
        def __call__(self, samples, budget):
            sizes.append(len(samples))
            return super().__call__(samples, budget)

    search([SMALL, LARGE], Counting(likes(3)), batch_size=7)
    assert max(sizes) == 7
    # 40 small squares on each split; of the large budget's, the quarter of side 2 is known already
    assert sum(sizes) == (40 + 30) * 2


def test_among_equal_scores_fewer_visual_tokens_win():
    assert budget_of(search([LARGE, SMALL, MIDDLE], lambda *_: 0.8)["docs"].chosen) == SMALL


def test_the_same_scores_on_other_samples_are_a_tie():
    def rule(sample, side):  # one sample in ten scores 0.1: another one under each budget, summed in another order
        return 0.1 if (int(sample.key.split()[1]) + side) % 10 == 0 else 0.7

    found = search([(16, 16), (4, 4)], rule)["docs"]
    assert found.grid[0].selection.score == found.grid[1].selection.score
    assert budget_of(found.chosen) == (4, 4)


def test_a_budget_given_twice_is_one_and_the_first_is_the_default():
    found = search([LARGE, SMALL, LARGE], likes(5))["docs"]
    assert [budget_of(point) for point in found.grid] == [LARGE, SMALL]
    assert found.default == found.chosen
    assert asdict(found.difference) == {"score": 0.0, "low": 0.0, "high": 0.0, "num_samples": 40}


def test_each_benchmark_has_a_pick_of_its_own():
    def rule(sample, side):
        return likes(2 if sample.benchmark == "charts" else 5)(sample, side)

    both = [*squares(20), *squares(20, benchmark="charts")]
    others = [*squares(20, first=20), *squares(20, first=20, benchmark="charts")]
    found = search([MIDDLE, SMALL, LARGE], rule, selection=both, report=others)
    assert {name: budget_of(result.chosen) for name, result in found.items()} == {"docs": LARGE, "charts": SMALL}


def test_strata_weigh_the_same_however_many_samples_they_have():
    selection = [*squares(30, stratum="many"), *squares(10, first=30, stratum="few")]
    report = [*squares(30, first=40, stratum="many"), *squares(10, first=70, stratum="few")]
    found = search([LARGE], lambda sample, _: sample.stratum == "few", selection=selection, report=report)["docs"]
    assert found.default.selection.score == found.default.report.score == 0.5


def test_pictures_of_one_size_exactly_and_tiny_ones_pass_through():
    found = search([(9, 9), (1, 1)], likes(3), selection=squares(4, sides=(1, 9)))["docs"]
    assert [point.mean_visual_tokens for point in found.grid] == [9.0, 1.0]
    assert budget_of(found.chosen) == (9, 9)


def test_a_sample_without_pictures_is_scored_once_for_all_budgets():
    asked = []

    def score(samples, budget):
        asked.extend(samples)
        return [0.5] * len(samples)

    found = search_resolution(
        squares(3), squares(3, first=3), budgets=[SMALL, LARGE], score=score, grid_of=lambda sample, budget: ()
    )["docs"]
    assert len(asked) == 6
    assert found.chosen.mean_visual_tokens == 0


def test_the_rungs_of_eight_budgets_and_of_nine_in_threes():
    assert rung_sizes(8) == [(8, 0.25), (4, 0.5), (2, 1.0)]
    assert rung_sizes(9, 3) == [(9, 1 / 3), (3, 1.0)]
    assert rung_sizes(5) == [(5, 0.25), (3, 0.5), (2, 1.0)]
    assert rung_sizes(1) == [(1, 1.0)]


def test_halving_finds_the_pick_of_the_grid_for_fewer_scores():
    budgets = [(side**2, side**2) for side in range(2, 10)]  # no two come to the same grid
    selection, report = squares(80), squares(40, first=80)
    whole = search(budgets, likes(6), selection=selection, report=report)["docs"]
    halved = search(budgets, likes(6), selection=selection, report=report, method="halving")["docs"]
    assert whole.cost.scored_ratio == 1.0
    assert [asdict(rung) for rung in halved.rungs] == [
        {"num_budgets": 8, "num_samples": 20},
        {"num_budgets": 4, "num_samples": 40},
        {"num_budgets": 2, "num_samples": 80},
    ]
    assert halved.cost.num_scored == 8 * 20 + 4 * 20 + 2 * 40  # a rung knows what the ones before it have asked
    assert halved.cost.scored_ratio == 0.5
    assert (halved.chosen, halved.difference) == (whole.chosen, whole.difference)
    assert sorted(point.selection.num_samples for point in halved.grid) == [20, 20, 20, 20, 40, 40, 80, 80]


def test_no_rung_of_few_samples_drops_a_budget():
    budgets = [(side**2, side**2) for side in range(2, 10)]
    found = search(budgets, likes(6), selection=squares(12), method="halving")["docs"]
    assert [rung.num_samples for rung in found.rungs] == [8, 8, 12]


def test_the_order_of_the_samples_does_not_matter():
    ahead = search([SMALL, MIDDLE, LARGE, (4, 36)], likes(4), method="halving")
    behind = search(
        [SMALL, MIDDLE, LARGE, (4, 36)],
        likes(4),
        selection=squares(40)[::-1],
        report=squares(40, first=40)[::-1],
        method="halving",
    )
    assert ahead == behind


def test_the_result_is_json_and_states_its_settings():
    found = search([SMALL, LARGE], likes(3), method="halving", eta=3, seed=5, resamples=200, confidence=0.9)["docs"]
    record = json.loads(json.dumps(asdict(found)))
    settings = {"benchmark": "docs", "method": "halving", "eta": 3, "seed": 5, "resamples": 200, "confidence": 0.9}
    assert settings.items() <= record.items()
    assert (record["num_selection"], record["num_report"], len(record["grid"])) == (40, 40, 2)
    assert search([SMALL], likes(3))["docs"].eta is None


def test_a_sample_of_both_splits_is_refused_by_name():
    with pytest.raises(ValueError, match="docs: 2 samples are both selected on and reported, such as 'picture 38'"):
        search([SMALL], likes(3), report=squares(40, first=38))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selection": []}, "docs has 0 samples to select on and 40 to report on; an interval needs at least 2"),
        ({"report": squares(1, first=40)}, "docs has 40 samples to select on and 1 to report on"),
        ({"selection": [], "report": []}, "0 samples given"),
        ({"selection": squares(3) + squares(2)}, "docs: 5 samples have 3 keys; 'picture 0' comes twice"),
        ({"budgets": [SMALL, (50, 40)]}, "min_pixels 50, more than its max_pixels 40"),
        ({"budgets": [(0, 40)]}, "min_pixels 0, less than 1"),
        ({"budgets": []}, "0 pixel budgets given"),
        ({"eta": 1}, "eta is 1, less than 2"),
        ({"resamples": 10}, "10 resamples leave 0 outside each end of a 0.95 interval"),
    ],
)
def test_what_cannot_be_searched_is_refused(change, message):
    settings = {"budgets": [SMALL, LARGE], **change}
    with pytest.raises(ValueError, match=message):
        search(rule=likes(3), **settings)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda samples, budget: [1.0], "the scorer was given 40 samples and returned 1 scores"),
        (lambda samples, budget: [math.nan] * len(samples), r"docs: sample 'picture 0' scores nan at \(1, 4\)"),
    ],
)
def test_a_scorer_that_does_not_keep_its_promise_is_refused(score, message):
    with pytest.raises(ValueError, match=message):
        search_resolution(squares(40), squares(40, first=40), budgets=[SMALL], score=score, grid_of=grid_of)


def test_a_grid_leaves_out_pairs_that_are_no_budget():
    assert budget_grid([1, 9], [4, 9]) == [(1, 4), (1, 9), (9, 9)]
    with pytest.raises(ValueError, match="the smallest min_pixels is 16, the largest max_pixels 9"):
        budget_grid([16, 25], [4, 9])
