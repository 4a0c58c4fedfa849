"""Pictures seen by another rank's tower give the loss and the gradients that they would have given at home."""

import numpy as np
import pytest
import torch

from mindvl.model.mindvl import MindVL
from mindvl.parallel import MindVLStrategy
from mindvl.parallel.vision_balance import VisionBalance, loads_of, max_over_mean, plan_moves, rows_in_order

ALWAYS = {"trigger": 1.0, "flops_per_byte": 0.0}
MANY, NONE, ONE = range(3)
"""Numbers of the packs: three pictures of 8, 24 and 48 patches; none; one of 24."""
SCENARIOS = {
    2: {
        "balanced": (ALWAYS, (MANY, NONE)),
        "even enough": ({**ALWAYS, "trigger": 2.5}, (MANY, NONE)),
        "transfer too dear": ({**ALWAYS, "flops_per_byte": 1e9}, (MANY, NONE)),
        "no pictures": (ALWAYS, (NONE, NONE)),
        "one picture": (ALWAYS, (NONE, ONE)),
    },
    3: {"balanced": (ALWAYS, (ONE, MANY, NONE)), "several give": (ALWAYS, (MANY, NONE, MANY))},
}
CASES = [(size, name) for size, scenarios in SCENARIOS.items() for name in scenarios]


@pytest.fixture(scope="module")
def packs(make_sample, pack):
    return [
        pack(make_sample("which?", "the second", ((28, 56), (56, 84), (84, 112)), seed=2)),
        pack(make_sample("no picture here", "so be it")),
        pack(make_sample("read it", "abc", ((56, 84),), seed=1), make_sample("why?", "because")),
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory, make_model, specs, step_packs, packs, run_script):
    folder = tmp_path_factory.mktemp("balance")
    model = make_model()
    torch.save((model.config, model.state_dict(), packs, SCENARIOS), folder / "models")
    torch.save(specs["qwen3"], folder / "qwen3.spec")
    torch.save(step_packs, folder / "packs")
    run = run_script("balance_ranks.py", str(folder))
    assert run.returncode == 0, run.stderr[-6000:]
    return lambda name: torch.load(folder / f"{name}.result")


@pytest.fixture(scope="module")
def at_home(make_model, packs):
    """Losses and gradients of each pack alone."""
    model: MindVL = make_model()
    found = []
    for each in packs:
        model.zero_grad()
        loss = model(packed=each).loss
        loss.backward()
        gradients = {
            key: torch.zeros_like(it) if it.grad is None else it.grad.clone() for key, it in model.named_parameters()
        }
        found.append((loss.item(), gradients))
    return found


@pytest.mark.parametrize(("size", "name"), CASES)
def test_losses_and_gradients_are_those_of_packs_whose_pictures_stay(size, name, results, at_home):
    numbers = SCENARIOS[size][name][1]
    for rank, number in enumerate(numbers):
        ours = results(f"{size}.{rank}")[name]
        assert ours["loss"].item() == pytest.approx(at_home[number][0], rel=1e-6)
    for key, gradient in ours["gradients"].items():
        theirs = sum(at_home[number][1][key] for number in numbers)
        assert (gradient - theirs).abs().max() <= 1e-6 * max(1.0, theirs.abs().max().item()), key


@pytest.mark.parametrize(
    ("size", "name", "expected"),
    [
        (2, "balanced", (1.0, 2.0, 1.2)),  # 80 and 0 patches: the picture of 48 moves
        (2, "even enough", (0.0, 2.0, 2.0)),
        (2, "transfer too dear", (0.0, 2.0, 2.0)),
        (2, "one picture", (0.0, 2.0, 2.0)),  # it would be as lonely elsewhere
        (3, "balanced", (1.0, 80 / (104 / 3), 48 / (104 / 3))),
    ],
)
def test_all_ranks_report_whether_pictures_moved_and_how_even_it_was(size, name, expected, results):
    for rank in range(size):
        report = results(f"{size}.{rank}")[name]["report"]
        assert list(report.values()) == pytest.approx(expected)


def test_packs_without_pictures_are_no_step_to_balance(results):
    assert results("2.0")["no pictures"]["report"] == {}


def test_a_sharded_fit_with_balance_ends_as_a_single_process_and_logs_it(results):
    ours, theirs = results("balanced.0"), results("alone.0")
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
    assert ours["norms"] == pytest.approx(theirs["norms"], rel=1e-5)
    assert max((weight - theirs["weights"][key]).abs().max() for key, weight in ours["weights"].items()) <= 1e-5
    logged = ours["logged"]
    assert logged["vision_balance/balanced_ratio"] == 0.5  # packs 0 and 1 hold one picture, 2 and 3 hold two
    assert logged["vision_balance/max_over_mean_before"] == 2.0
    assert logged["vision_balance/max_over_mean_after"] < 2.0


def test_the_dearest_rank_hands_over_what_evens_out_best():
    costs = [[4.0, 3.0, 3.0], [1.0]]
    holders = plan_moves(costs)
    assert holders == [[1, 0, 0], [1]]
    assert loads_of(costs, holders) == [6.0, 5.0]
    assert max_over_mean([10.0, 1.0]) == pytest.approx(1.82, abs=0.01)


def test_a_single_large_picture_stays_where_it_is():
    assert plan_moves([[100.0], [0.5, 0.5], []]) == [[0], [1, 1], []]
    assert plan_moves([[], []]) == [[], []]


def test_no_plan_makes_the_dearest_rank_dearer_and_many_pictures_come_out_even():
    random = np.random.default_rng(0)
    for ranks in (2, 5, 64):
        costs = [list(random.lognormal(size=random.integers(0, 12))) for _ in range(ranks)]
        before, after = loads_of(costs, [[rank] * len(each) for rank, each in enumerate(costs)]), None
        after = loads_of(costs, plan_moves(costs))
        assert sum(after) == pytest.approx(sum(before)) and max(after) <= max(before)
        largest = max(cost for each in costs for cost in each)
        assert max(after) <= sum(after) / ranks + largest


def test_rows_follow_their_pieces():
    assert rows_in_order([2, 3, 1], [2, 0, 1]).tolist() == [5, 0, 1, 2, 3, 4]
    assert rows_in_order([], []).tolist() == []


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"trigger is 0\.9; the dearest rank costs at least 1"):
        VisionBalance(trigger=0.9)
    with pytest.raises(ValueError, match="flops_per_byte is -1"):
        VisionBalance(flops_per_byte=-1)
    with pytest.raises(ValueError, match=r"vision_balance moves whole pictures .* strategy\.context is 2"):
        MindVLStrategy(context=2, vision_balance=VisionBalance())
