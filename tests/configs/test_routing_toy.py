"""The ablation's configs: each differs from the baseline in what its name says and has a place in the paper's order."""

from dataclasses import asdict
from pathlib import Path

import pytest

from mindvl.routing.published import PUBLISHED_TOYS
from mindvl.routing.toy import build_toy, read_toy

FILES = sorted((Path(__file__).parents[2] / "configs" / "routing_toy").glob("*.yaml"))
TOYS = {file.stem: read_toy(file) for file in FILES}
DIFFERENCES = {
    "baseline": set(),
    "no_balance": {"balance"},
    "strong_balance": {"balance"},
    "more_active": {"k"},
    "fewer_active": {"k"},
    "fewer_experts": {"num_experts", "k", "expert_size"},
    "one_shared": {"k", "shared_experts"},
    "two_shared": {"k", "shared_experts"},
    "dense_first": {"dense"},
    "dense_half": {"dense"},
}


def test_each_toy_of_the_paper_has_a_config_and_differs_from_the_baseline_in_one_thing():
    assert set(TOYS) == set(PUBLISHED_TOYS) == set(DIFFERENCES)
    baseline = asdict(TOYS["baseline"])
    for name, toy in TOYS.items():
        changed = {key for key, value in asdict(toy).items() if key != "name" and value != baseline[key]}
        assert changed == DIFFERENCES[name]


def test_shared_and_routed_experts_of_a_token_are_as_many_as_in_the_baseline():
    baseline = TOYS["baseline"]
    for name in ("one_shared", "two_shared"):
        assert TOYS[name].k + TOYS[name].shared_experts == baseline.k
    few = TOYS["fewer_experts"]
    assert few.k * few.expert_size == baseline.k * baseline.expert_size
    assert few.k / few.num_experts == baseline.k / baseline.num_experts


def test_the_baseline_has_the_parameters_that_its_head_states():
    model = build_toy(TOYS["baseline"], vocabulary=2048, end_token_id=0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == pytest.approx(3.7e6, rel=0.02)
    tokens = TOYS["baseline"].steps * TOYS["baseline"].rows * TOYS["baseline"].length_tokens
    assert tokens == pytest.approx(1.6e6, rel=0.03)
