import itertools

import pytest
import torch

from mindvl.model.parts import PARTS, part_of, train_only, trained_parameters

SUBSETS = [subset for size in range(1, 4) for subset in itertools.combinations(PARTS, size)]


def test_every_parameter_belongs_to_one_part_and_every_part_has_parameters(make_model):
    assert {part_of(name) for name, _ in make_model().named_parameters()} == set(PARTS)


@pytest.mark.parametrize("parts", SUBSETS, ids="+".join)
def test_train_only_gives_gradients_to_the_named_parts_and_no_other(parts, make_model, samples, pack):
    model = make_model()
    train_only(model, parts)
    model(packed=pack(*samples)).loss.backward()
    with_gradient = {part_of(name) for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == set(parts)
    for name, parameter in trained_parameters(model):
        assert part_of(name) in parts and parameter.grad.abs().max() > 0, name


def test_train_only_thaws_what_it_froze_before(make_model):
    model = make_model()
    train_only(model, ["projector"])
    train_only(model, ["language"])
    assert {part_of(name) for name, _ in trained_parameters(model)} == {"language"}


def test_a_frozen_part_gives_the_trained_ones_the_gradients_they_had_before(make_model, samples, pack):
    model, batch = make_model(), pack(*samples)
    model(packed=batch).loss.backward()
    free = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    train_only(model, ["projector"])
    model(packed=batch).loss.backward()
    for name, parameter in trained_parameters(model):
        torch.testing.assert_close(parameter.grad, free[name], rtol=1e-5, atol=1e-6)


def test_an_unknown_part_is_refused_by_name(make_model):
    with pytest.raises(ValueError, match=r"unknown parts \['eyes'\]; a MindVL has vision, projector, language"):
        train_only(make_model(), ["eyes"])


def test_a_parameter_of_no_part_is_refused_by_name():
    with pytest.raises(ValueError, match=r"parameter head\.weight belongs to none"):
        part_of("head.weight")
