"""A checkpoint with LoRA's matrices is read as the model that they make of it."""

import pytest
import torch

from mindvl.model.export.adapters import MergedWeights, has_adapters
from mindvl.model.lora import merged_state


@pytest.fixture
def state():
    torch.manual_seed(0)
    layer = "language_model.model.layers.0.self_attn.q_proj"
    return {
        f"{layer}.base_layer.weight": torch.randn(6, 4),
        f"{layer}.base_layer.bias": torch.randn(6),
        f"{layer}.lora_A.default.weight": torch.randn(2, 4),
        f"{layer}.lora_B.default.weight": torch.randn(6, 2),
        "language_model.lm_head.weight": torch.randn(5, 4),
    }


def test_every_element_is_that_of_the_merged_state_to_the_bit(state, state_weights):
    weights, wanted = MergedWeights(state_weights(state), 0.5), merged_state(state, 0.5)
    assert weights.tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        read = torch.cat([weights.read(name, start, start + 1) for start in range(tensor.numel())])
        assert torch.equal(read.view(tensor.shape), tensor), name
    merged = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(wanted[merged], state[merged.replace(".weight", ".base_layer.weight")])


def test_a_layer_is_merged_once_for_all_its_blocks(state, state_weights):
    source = state_weights(state)
    weights = MergedWeights(source, 0.5)
    for start in range(0, 24, 8):
        weights.read("language_model.model.layers.0.self_attn.q_proj.weight", start, start + 8)
    assert len(source.reads) == 3


def test_only_a_checkpoint_with_adapters_has_them(state, state_weights):
    assert has_adapters(state_weights(state))
    assert not has_adapters(state_weights(merged_state(state, 1.0)))


def test_half_an_adapter_is_refused(state, state_weights):
    del state["language_model.model.layers.0.self_attn.q_proj.lora_B.default.weight"]
    with pytest.raises(ValueError, match="is not whole"):
        MergedWeights(state_weights(state), 0.5)
