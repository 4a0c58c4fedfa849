"""Operators of ours take the place of stock ones: same names, same results, nothing else touched."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from mindvl.model.operators import replace_operators
from mindvl.ops.rms_norm import RMSNorm
from mindvl.ops.swiglu import SwiGLU

MOE = {"model_type": "qwen3_moe", "moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2}


@pytest.fixture(params=[{}, {"model_type": "llama"}, MOE], ids=["qwen3", "llama", "qwen3_moe"])
def stock(request, make_config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(make_config(language=request.param).text_config).eval()


def test_replaced_operators_keep_names_weights_and_logits(stock):
    ids = torch.arange(20)[None]
    before, names = stock(input_ids=ids).logits, list(stock.state_dict())
    parameters = {name: id(parameter) for name, parameter in stock.named_parameters()}
    assert replace_operators(stock) > 0
    assert list(stock.state_dict()) == names
    assert {name: id(parameter) for name, parameter in stock.named_parameters()} == parameters
    torch.testing.assert_close(stock(input_ids=ids).logits, before, rtol=1e-5, atol=1e-6)


def test_every_norm_of_the_model_is_ours(make_model):
    model = make_model()
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    assert norms and all(type(module) is RMSNorm for module in norms)
    assert sum(type(module) is SwiGLU for module in model.modules()) == 2 + 3  # layers of language model and tower


def test_replacing_twice_is_replacing_once(stock):
    ids = torch.arange(20)[None]
    replace_operators(stock)
    once = stock(input_ids=ids).logits
    replace_operators(stock)
    assert torch.equal(stock(input_ids=ids).logits, once)
