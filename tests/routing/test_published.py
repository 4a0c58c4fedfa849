"""The paper's numbers, against the statements that its text makes about them."""

import pytest

from mindvl.routing.families import FAMILIES
from mindvl.routing.floors import random_srp
from mindvl.routing.published import PUBLISHED, PUBLISHED_TOYS, SRP_OVER_LENGTH, published_model


def test_there_are_twenty_models_of_which_two_count_twice():
    assert len({row.model for row in PUBLISHED}) == 20 and len(PUBLISHED) == len({row.key for row in PUBLISHED}) == 22


def test_rows_stand_by_srp_and_no_model_falls_below_its_floor():
    values = [row.srp_percent for row in PUBLISHED]
    assert values == sorted(values, reverse=True)
    assert all(row.srp_percent > 100 * random_srp(row.k / row.num_experts) for row in PUBLISHED)


def test_the_first_group_ends_at_an_srp_of_one_half():
    assert [row.key for row in PUBLISHED if row.srp_percent > 50] == [
        "llamamoe2", "yuan", "powermoe", "qwen3", "phi", "olmoe", "grin",
    ]  # fmt: skip


def test_expert_counts_are_those_of_the_families_that_the_recorder_knows():
    known = {family.model: (family.num_experts, family.k, family.shared) for family in FAMILIES}
    for row in PUBLISHED:
        assert known[row.model] == (row.num_experts, row.k, row.shared)


def test_intervals_are_ordered_and_parameters_are_counted_not_in_billions():
    for row in PUBLISHED:
        assert row.hit_rate_percent[0] < row.hit_rate_percent[1] and 1e8 < row.active_params < row.total_params


def test_srp_at_sixteen_tokens_is_the_same_in_both_tables_and_falls_with_the_length():
    table = {row.key: row.srp_percent for row in PUBLISHED}
    for key, points in SRP_OVER_LENGTH.items():
        assert points[16] == table[key] and list(points.values()) == sorted(points.values(), reverse=True)


def test_toys_stand_by_srp_and_balance_and_consistency_trade_off_at_both_ends():
    toys = list(PUBLISHED_TOYS.values())
    assert [toy.srp_percent for toy in toys] == sorted((toy.srp_percent for toy in toys), reverse=True)
    assert toys[0].load_balance_percent > 10 and toys[-1].load_balance_percent < 2


@pytest.mark.parametrize(
    ("name", "part", "key"),
    [
        ("allenai/OLMoE-1B-7B-0125", "model", "olmoe"),
        ("/models/olmoe-1b-7b-0125/", "model", "olmoe"),
        ("google/switch-base-128", "decoder", "switch decoder"),
        ("facebook/nllb-moe-54b", "encoder", "nllb encoder"),
    ],
)
def test_a_model_is_found_by_its_hub_id_or_a_folder_of_its_name(name, part, key):
    assert published_model(name, part).key == key


def test_other_models_have_no_published_row():
    assert published_model("allenai/OLMoE-1B-7B-0125-Instruct") is None
