"""Fresh weights depend on the seed and on names, not on what else was drawn."""

import pytest
import torch

from mindvl.model.initial import initialise
from mindvl.model.mindvl import MindVL


def drawn(config, *, seed, skip=()):
    with torch.device("meta"):
        model = MindVL(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(7)
    model.tie_weights()
    initialise(model, seed=seed, skip=skip)
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def test_weights_are_as_large_as_those_of_transformers_and_buffers_equal(make_config):
    ours, stock = drawn(make_config(), seed=1), MindVL(make_config())
    for name, buffer in stock.named_buffers():
        assert torch.equal(ours[name], buffer), name
    for name, parameter in stock.named_parameters():
        if parameter.std() == 0:
            assert torch.equal(ours[name], parameter), name
        else:
            assert 0.8 < ours[name].std() / parameter.std() < 1.25, name


def test_the_same_seed_draws_the_same_and_another_one_others(make_config):
    first, second, other = (drawn(make_config(), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    assert not torch.equal(first[name], other[name])


def test_no_two_modules_get_the_same_numbers(make_config):
    found = drawn(make_config(), seed=1)
    first, second = (found[f"language_model.model.layers.{number}.mlp.up_proj.weight"] for number in (0, 1))
    assert not torch.equal(first, second)


def test_another_tower_leaves_the_language_model_as_it_would_have_been(make_config):
    first, second = drawn(make_config(), seed=1), drawn(make_config(vision={"depth": 5}), seed=1)
    language = [name for name in first if name.startswith("language_model.")]
    assert all(torch.equal(first[name], second[name]) for name in language)


def test_what_is_skipped_keeps_its_values(make_config):
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    found = drawn(make_config(), seed=1, skip={name})
    assert (found[name] == 7).all()
    assert not (found["language_model.model.layers.1.mlp.up_proj.weight"] == 7).any()


def test_drawing_leaves_the_global_generator_alone(make_config):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    drawn(make_config(), seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_a_tower_without_rules_gets_the_values_it_is_built_with(make_config, monkeypatch):
    kind = type(MindVL(make_config()).vision)
    monkeypatch.setattr(kind, "_init_weights", lambda self, module: None)
    first, second = drawn(make_config(), seed=1), drawn(make_config(), seed=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (first["vision.merger.ln_q.weight"] == 1).all()
    assert 0 < first["vision.merger.mlp.0.weight"].std() < 1


def test_what_nothing_has_a_rule_for_is_named(make_config, monkeypatch):
    kind = type(MindVL(make_config()).language_model)
    monkeypatch.setattr(kind, "_init_weights", lambda self, module: None)
    with pytest.raises(ValueError, match=r"no rule for fresh values of language_model.model.embed_tokens: weight"):
        drawn(make_config(), seed=1)
