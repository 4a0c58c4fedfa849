import numpy as np
import pytest
import torch

from mindvl.routing import vocabulary_specialization


def test_the_worked_example_has_the_values_of_its_page():
    words = np.repeat([7, 900, 12, 5], [40, 20, 30, 19])  # the last is too rare
    first = np.repeat([0, 1, 1, 0, 1, 1], [30, 10, 20, 27, 3, 19])
    order = np.random.default_rng(0).permutation(len(words))
    ids = np.stack([first, 1 - first], axis=-1)[order][None, :, None]
    found = vocabulary_specialization(ids, words[order][None], num_experts=3)
    assert found[0, :2].tolist() == pytest.approx([0.825, 1.0]) and np.isnan(found[0, 2])
    rare_too = vocabulary_specialization(ids, torch.from_numpy(words[order][None]), num_experts=3, min_occurrences=19)
    assert rare_too[0, 1] == 1.0


def test_ragged_samples_and_layers_equal_a_count_word_by_word():
    rng = np.random.default_rng(1)
    ids = [np.argsort(rng.random((length, 2, 5)), axis=-1)[..., :2] for length in (40, 0, 25)]
    words = [rng.integers(0, 6, len(sample)) for sample in ids]
    ids[0][:5, 1, 0] = -1
    found = vocabulary_specialization(ids, words, num_experts=5, min_occurrences=9, allow_dropped=True)
    for layer in range(2):
        shares = {expert: [] for expert in range(5)}
        for word in range(6):
            at = (np.concatenate(words) == word) & (np.concatenate(ids)[:, layer, 0] >= 0)
            count = np.bincount(np.concatenate(ids)[at, layer, 0], minlength=5)
            if at.sum() >= 9:
                shares[int(count.argmax())].append(count.max() / at.sum())
        expected = [np.mean(share) if share else np.nan for share in shares.values()]
        assert found[layer].tolist() == pytest.approx(expected, nan_ok=True)


def test_token_ids_must_be_one_per_routed_token():
    ids = np.zeros((2, 3, 1, 1), int)
    with pytest.raises(ValueError, match=r"sample 1 has 3 routed tokens, its token ids have shape \(2,\)"):
        vocabulary_specialization(ids, [np.zeros(3, int), np.zeros(2, int)], num_experts=2)
    with pytest.raises(ValueError, match="token ids for 1 samples, routing for 2"):
        vocabulary_specialization(ids, np.zeros((1, 3), int), num_experts=2)
