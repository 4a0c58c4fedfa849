"""Operators of ours take the place of stock ones: same names, same results, nothing else touched."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from mindvl.model import operators
from mindvl.model.operators import replace_operators
from mindvl.ops.linear import Linear
from mindvl.ops.loss import Head
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


def test_every_linear_layer_of_the_model_is_ours_and_the_last_one_knows_the_loss(make_model):
    model = make_model()
    assert type(model.get_output_embeddings()) is Head
    kinds = {type(module) for module in model.modules() if isinstance(module, torch.nn.Linear)}
    assert kinds == {Linear, Head}


@pytest.fixture
def rotary_calls(monkeypatch):
    """How often our rotary embedding was asked, by the heads that it turned."""
    calls, original = [], operators.apply_rotary

    def counted(states, cos, sin):
        calls.append(states.shape[1])
        return original(states, cos, sin)

    monkeypatch.setattr(operators, "apply_rotary", counted)
    return calls


def test_the_language_model_turns_queries_and_keys_by_our_rotary_embedding(stock, rotary_calls):
    replace_operators(stock)
    rotary_calls.clear()
    stock(input_ids=torch.arange(20)[None])
    assert rotary_calls == [4, 2] * 2, "heads of queries and of keys, in each layer"
    rotary_calls.clear()
    stock(input_ids=torch.arange(20).view(2, 10))
    assert rotary_calls == [], "padded rows are transformers' own business"


def test_a_rotary_embedding_that_pairs_channels_otherwise_is_left_alone():
    from transformers.models.cohere import modeling_cohere
    from transformers.models.qwen3 import modeling_qwen3

    before = modeling_cohere.apply_rotary_pos_emb
    operators._replace_rotary(modeling_cohere.__name__)
    assert modeling_cohere.apply_rotary_pos_emb is before
    operators._replace_rotary(modeling_qwen3.__name__)
    ours = modeling_qwen3.apply_rotary_pos_emb
    operators._replace_rotary(modeling_qwen3.__name__)
    assert modeling_qwen3.apply_rotary_pos_emb is ours, "replacing twice is replacing once"


def test_replacing_twice_is_replacing_once(stock):
    ids = torch.arange(20)[None]
    replace_operators(stock)
    once = stock(input_ids=ids).logits
    replace_operators(stock)
    assert torch.equal(stock(input_ids=ids).logits, once)
