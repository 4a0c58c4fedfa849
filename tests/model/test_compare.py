"""A backend whose backward pass is wrong is found, and so is the layer."""

import pytest
import torch

from mindvl.model.compare import Comparison, Difference, LayerDifference, compare_backends
from mindvl.ops import swiglu as ops
from mindvl.ops.table import parse_choices

HAND = parse_choices("swiglu=recomputing")
PLAIN = parse_choices("swiglu=reference")


def compared(model, pack, first, second, **options):
    return compare_backends((model, model), (pack, pack), (first, second), **options)


@pytest.fixture
def faulty(monkeypatch):
    """Makes the n-th gated activation of a forward pass wrong; the tower has three, then comes the language model."""

    def plant(number, *, forward=1.0, backward=1.0):
        original, calls = ops.recomputing_swiglu, []

        class Scaled(torch.autograd.Function):
            @staticmethod
            def forward(ctx, gate):
                return gate * forward

            @staticmethod
            def backward(ctx, grad):
                return grad * backward

        def wrong(gate, up):
            calls.append(1)
            return original(Scaled.apply(gate) if len(calls) - 1 == number else gate, up)

        monkeypatch.setattr(ops, "recomputing_swiglu", wrong)

    return plant


def test_entries_that_agree_agree_in_every_layer(make_model, pack, samples):
    comparison = compared(make_model(), pack(*samples), parse_choices("auto"), parse_choices("reference"))
    assert comparison.first_forward(1e-4) is None and comparison.first_backward(1e-4) is None
    assert comparison.losses[0] == pytest.approx(comparison.losses[1], rel=1e-5)
    names = [layer.layer for layer in comparison.layers]
    for expected in ("vision.patch_embed", "vision.blocks.2.attn", "vision.merger", "language_model.model.norm"):
        assert expected in names
    assert names[-1] == "language_model.lm_head" and len(names) == len(set(names))
    assert all(layer.output is not None and layer.output_gradient is not None for layer in comparison.layers)


@pytest.mark.parametrize(
    ("number", "layer"), [(3, "language_model.model.layers.0.mlp"), (4, "language_model.model.layers.1.mlp"),
                          (1, "vision.blocks.1.mlp")]
)  # fmt: skip
def test_gradients_that_differ_while_forward_passes_agree_name_their_layer(
    number, layer, faulty, make_model, pack, samples
):
    faulty(number, backward=1.5)
    comparison = compared(make_model(), pack(*samples), HAND, PLAIN)
    assert comparison.first_forward(1e-4) is None
    found = comparison.first_backward(1e-4)
    assert found.layer == layer
    assert found.output_gradient.relative < 1e-4 < found.parameters.relative
    assert comparison.losses[0] == pytest.approx(comparison.losses[1], rel=1e-6)


def test_a_forward_pass_that_differs_names_its_layer(faulty, make_model, pack, samples):
    faulty(3, forward=1.2)
    found = compared(make_model(), pack(*samples), HAND, PLAIN).first_forward(1e-4)
    assert found.layer == "language_model.model.layers.0.mlp" and found.output.relative > 1e-2


def test_an_infinite_gradient_is_beyond_any_tolerance(faulty, make_model, pack, samples):
    faulty(4, backward=float("nan"))
    found = compared(make_model(), pack(*samples), HAND, PLAIN).first_backward(1e9)
    assert found.layer == "language_model.model.layers.1.mlp" and found.parameters.relative == float("inf")


def test_a_difference_is_relative_to_the_second_and_knows_the_angle():
    ours, theirs = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])
    difference = Difference.of(ours, theirs)
    assert difference.relative == pytest.approx(4 / 3) and difference.cosine == pytest.approx(0.6)
    assert Difference.of(None, None) is None
    assert Difference.of(torch.zeros(2), torch.zeros(2)) == Difference(0.0, 1.0)
    for one, other in ((None, ours), (ours, None), (ours, torch.zeros(2))):
        assert Difference.of(one, other).relative == float("inf")


def test_the_first_layer_is_counted_from_the_pixels_forward_and_from_the_loss_backward():
    good, bad = Difference(0.0, 1.0), Difference(0.5, 0.9)
    layers = [LayerDifference(name, bad, good, bad) for name in ("a", "b")] + [LayerDifference("c", good, good, None)]
    comparison = Comparison(layers, (1.0, 1.0))
    assert comparison.first_forward(0.1).layer == "a" and comparison.first_backward(0.1).layer == "b"


def test_comparing_leaves_the_model_as_it_was(make_model, pack, samples):
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compared(model, pack(*samples), HAND, PLAIN)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_frozen_tower_is_compared_by_its_outputs_alone(make_model, pack, samples):
    model = make_model()
    model.vision.requires_grad_(False)
    layers = {layer.layer: layer for layer in compared(model, pack(*samples), HAND, PLAIN).layers}
    assert layers["vision.blocks.0"].output is not None
    assert layers["vision.blocks.0"].output_gradient is None and layers["vision.blocks.0.mlp"].parameters is None


def test_a_model_without_such_layers_is_refused(pack, samples):
    with pytest.raises(ValueError, match="this model has neither"):
        compared(torch.nn.Linear(2, 2), pack(*samples), HAND, PLAIN)
