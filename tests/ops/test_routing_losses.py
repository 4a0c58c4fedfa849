"""Loads, balance losses and bias steps against numbers worked by hand and plain loops."""

import math

import pytest
import torch

from mindvl.ops.routing_losses import (
    batch_balance,
    bias_step,
    expert_counts,
    load_statistics,
    router_z,
    sequence_balance,
    token_documents,
    token_weights,
)

# Documents of 2, 3 and 1 tokens; the first has one supervised token, the second two, the third none.
BOUNDS = torch.tensor([0, 2, 5, 6], dtype=torch.int32)
SUPERVISED, TARGETS = torch.tensor([1, 2, 4, 0, 0]), torch.tensor([7, 7, 7, -100, -100])
CHOSEN = torch.tensor([[0, 1], [0, 2], [1, 2], [1, 0], [1, 3], [3, 2]])


def layout():
    documents = token_documents(BOUNDS, 6)
    return documents, token_weights(documents, BOUNDS, SUPERVISED, TARGETS)


def random_logits(seed=0, dtype=torch.float64):
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_tokens_know_their_document_and_weigh_what_it_teaches():
    documents, weights = layout()
    assert documents.tolist() == [0, 0, 1, 1, 1, 2]
    assert weights.tolist() == pytest.approx([1 / 2, 1 / 2, 2 / 3, 2 / 3, 2 / 3, 0])


def test_counts_are_of_the_experts_that_each_group_chose_and_silent_tokens_count_nowhere():
    groups = torch.tensor([0, 1, 1, 0, 2, 2])
    counts = expert_counts(CHOSEN, groups, num_groups=2, num_experts=5)
    assert counts.tolist() == [[2, 2, 0, 0, 0], [1, 1, 2, 0, 0]]


def test_the_sequence_loss_is_the_papers_sum_over_each_document():
    documents, weights = layout()
    shares = random_logits().softmax(-1)
    expected = 0.0
    for tokens, supervised in (((0, 1), 1), ((2, 3, 4), 2), ((5,), 0)):
        balance = 0.0
        for expert in range(4):
            routed = sum(expert in CHOSEN[token].tolist() for token in tokens)
            frequency = 4 / (2 * len(tokens)) * routed
            balance += frequency * sum(shares[token, expert].item() for token in tokens) / len(tokens)
        expected += supervised * balance
    assert sequence_balance(shares, CHOSEN, documents, BOUNDS, weights).item() == pytest.approx(expected, rel=1e-6)


def test_the_sequence_loss_of_even_shares_is_one_for_each_supervised_token_and_four_if_all_goes_to_one_expert():
    documents, weights = layout()
    even = torch.full((6, 4), 0.25)
    assert sequence_balance(even, CHOSEN, documents, BOUNDS, weights).item() == pytest.approx(3)
    all_to_one = torch.tensor([[1.0, 0, 0, 0]]).expand(6, 4)
    first = torch.zeros(6, 1, dtype=torch.int64)
    assert sequence_balance(all_to_one, first, documents, BOUNDS, weights).item() == pytest.approx(4 * 3)


def test_the_batch_loss_takes_its_frequencies_from_the_counts_it_is_given():
    _, weights = layout()
    shares, counts = random_logits().softmax(-1), torch.tensor([6, 1, 1, 0])
    mean_shares = (shares * weights[:, None]).sum(0)
    expected = sum(4 * count / 8 * share for count, share in zip([6, 1, 1, 0], mean_shares.tolist(), strict=True))
    assert batch_balance(shares, counts, weights).item() == pytest.approx(expected, rel=1e-12)
    assert batch_balance(shares, torch.tensor([2, 2, 2, 2]), weights).item() == pytest.approx(3, rel=1e-6)
    assert batch_balance(shares, torch.zeros(4, dtype=torch.int64), weights).item() == 0


def test_the_z_loss_and_its_gradient_are_those_of_the_formula():
    _, weights = layout()
    logits = random_logits().requires_grad_()
    value = router_z(logits, weights)
    value.backward()
    expected = 0.0
    for row, weight, gradient in zip(logits.tolist(), weights.tolist(), logits.grad, strict=True):
        total = sum(math.exp(logit) for logit in row)
        expected += weight * math.log(total) ** 2
        by_hand = [2 * weight * math.log(total) * math.exp(logit) / total for logit in row]
        assert gradient.tolist() == pytest.approx(by_hand, rel=1e-6, abs=1e-12)
    assert value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_have_finite_losses_and_gradients(scale):
    documents, weights = layout()
    logits = torch.zeros(6, 4)
    logits[:, 0] = scale
    logits.requires_grad_()
    chosen = torch.zeros(6, 1, dtype=torch.int64)
    shares = logits.softmax(-1)
    counts = expert_counts(chosen, documents * 0, num_groups=1, num_experts=4)[0]
    loss = sequence_balance(shares, chosen, documents, BOUNDS, weights)
    loss = loss + batch_balance(shares, counts, weights) + router_z(logits, weights)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_a_bias_rises_below_the_mean_load_falls_above_it_and_rests_at_it():
    assert bias_step(torch.tensor([4, 2, 2, 0]), 0.001).tolist() == pytest.approx([-0.001, 0, 0, 0.001])
    # A mean of 5 / 3 is no float, and the comparison is exact all the same.
    assert bias_step(torch.tensor([2, 2, 1]), 1.0).tolist() == [-1, -1, 1]


def test_load_statistics_of_the_example_at_the_head_of_the_module():
    found = load_statistics(torch.tensor([[4, 2, 2, 0], [5, 5, 5, 5], [8, 0, 0, 0], [0, 0, 0, 0]]))
    assert found["load_max_over_mean"].tolist() == pytest.approx([2, 1, 4, math.nan], nan_ok=True)
    assert found["load_cv"].tolist() == pytest.approx([0.5**0.5, 0, 3**0.5, math.nan], nan_ok=True)
    assert found["dead_ratio"].tolist() == pytest.approx([0.25, 0, 0.75, math.nan], nan_ok=True)
    assert found["entropy_ratio"].tolist() == pytest.approx([0.75, 1, 0, math.nan], nan_ok=True)
