"""The recorder against plain runs: nothing changes, every token lands once in its own sample."""

import re

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from mindvl.routing.recorder import RoutingRecorder, record_routing
from mindvl.routing.sample import TokenKind
from mindvl.routing.trace import Trace

QWEN = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}
MOE = {"model_type": "qwen3_moe", "moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 3,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}


def qwen(**changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3_moe", **QWEN | changes)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model


@pytest.fixture(scope="module")
def model():
    return qwen()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(1, 64, (2, 7), generator=torch.Generator().manual_seed(3))


def alone(model, row):
    """Ids of one unpadded row, recorded by itself."""
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(input_ids=row[None])
    return recorder.recording().sample(0).ids


def test_outputs_and_gradients_do_not_change_by_a_bit(ids):
    model = qwen().train()

    def step():
        model.zero_grad()
        output = model(input_ids=ids, labels=ids)
        output.loss.backward()
        return output.logits.detach().clone(), [parameter.grad.clone() for parameter in model.parameters()]

    logits, gradients = step()
    with RoutingRecorder(model, weights=True):
        recorded_logits, recorded_gradients = step()
    assert torch.equal(logits, recorded_logits)
    assert all(torch.equal(*pair) for pair in zip(gradients, recorded_gradients, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_runs_the_forward_twice_and_is_recorded_once(use_reentrant, ids):
    model = qwen().train()
    with RoutingRecorder(model) as plain:
        model(input_ids=ids, labels=ids).loss.backward()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    calls = []
    model.model.layers[0].mlp.gate.register_forward_hook(lambda *_: calls.append(1))
    with RoutingRecorder(model) as recorder:
        for _ in range(2):
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert len(calls) == 4
    expected = list(plain.recording())
    recorded = list(recorder.recording())
    assert len(recorded) == 4
    assert all(np.array_equal(*pair) for pair in zip(recorded, expected * 2, strict=True))


def test_padding_is_left_out_and_rows_do_not_depend_on_their_neighbours(model, ids):
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    with RoutingRecorder(model) as recorder, torch.no_grad():
        recorder.label(keys=["a", "b"], domains=["math", "books"])
        model(input_ids=ids * mask, attention_mask=mask)
        model(input_ids=ids[:1])  # labels are for one call
    recording = recorder.recording()
    assert np.array_equal(recording.sample(0).ids, alone(model, ids[0]))
    assert np.array_equal(recording.sample(1).ids, alone(model, ids[1, 3:]))
    assert recording.domains == ["math", "books", ""]
    assert [recording.sample(number).key for number in range(3)] == ["a", "b", ""]
    assert recording.sample(0).ids.dtype == np.int16 and recording.sample(0).weights is None


def test_a_mask_of_four_dimensions_does_not_tell_padding_and_a_label_does(model, ids):
    mask = torch.ones(2, 1, 7, 7).tril().bool()
    real = np.ones((2, 7), bool)
    real[1, :3] = False
    mask[1, :, :, :3] = False
    with RoutingRecorder(model) as recorder, torch.no_grad():
        with pytest.raises(
            ValueError, match=r"attention_mask \(\(2, 1, 7, 7\)\) does not say which tokens are padding"
        ):
            model(input_ids=ids, attention_mask=mask)
        recorder.label(mask=real)
        model(input_ids=ids, attention_mask=mask)
    recording = recorder.recording()
    assert [len(each) for each in recording] == [7, 4]
    assert np.array_equal(recording.sample(0).ids, alone(model, ids[0]))


@pytest.mark.parametrize("language", [MOE, DEEPSEEK], ids=["qwen3_moe", "deepseek_v3"])
def test_a_pack_of_a_mindvl_becomes_its_documents_with_pictures_marked(language, make_model, samples, pack):
    model = make_model(language=language)
    batch = pack(*samples)
    with RoutingRecorder(model) as recorder:
        model(packed=batch).loss.backward()
    recording = recorder.recording()
    assert recording.meta.num_experts == 8 and len(recording.meta.layers) == 2
    assert recording.meta.layers[0].startswith("language_model.model.layers.")
    assert recording.domains == ["made"] * 4
    for number, sample in enumerate(samples):
        one = recording.sample(number)
        assert one.key == sample.key and len(one) == len(sample.input_ids)
        pictures = np.flatnonzero(one.kinds == TokenKind.PICTURE)
        assert np.array_equal(pictures, np.sort(sample.image_positions))
        with RoutingRecorder(model) as by_itself, torch.no_grad():
            model(packed=pack(sample))
        assert np.array_equal(by_itself.recording().sample(0).ids, one.ids)
    assert sum(len(run) for run in recording.select(kind="picture")) == len(batch.image_index)


def test_a_packs_document_of_padding_is_left_out(make_model, samples):
    from mindvl.data.pack import pack_samples

    model = make_model(language=MOE)
    batch = pack_samples(samples, token_budget=512, merge=2, window_tokens=2)
    padded = type(batch)(
        **vars(batch)
        | {
            "input_ids": torch.nn.functional.pad(batch.input_ids, (0, 5)),
            "position_ids": torch.nn.functional.pad(batch.position_ids, (0, 5)),
            "doc_lengths": (*batch.doc_lengths, 5),
        }
    )
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(packed=padded)
    assert [len(each) for each in recorder.recording()] == [len(sample.input_ids) for sample in samples]


def test_one_row_of_several_samples_is_split_by_lengths(model, ids):
    with RoutingRecorder(model) as recorder, torch.no_grad():
        recorder.label(lengths=[3, 4], domains=["x", "y"], kinds=np.array([1, 1, 0, 0, 0, 0, 1]))
        model(input_ids=ids[:1])
        with pytest.raises(ValueError, match=r"lengths \(5, 6\) do not fit a call of 1 rows of 7 tokens"):
            recorder.label(lengths=[5, 6])
            model(input_ids=ids[:1])
        with pytest.raises(ValueError, match="1 domains were given for a call of 2 samples"):
            recorder.label(domains=["x"])
            model(input_ids=ids)
    recording = recorder.recording()
    assert [len(each) for each in recording] == [3, 4] and recording.domains == ["x", "y"]
    assert [len(run) for run in recording.select(kind="picture")] == [2, 1]
    assert [len(run) for run in recording.select(kind="text", domain="y")] == [3]


def test_weights_are_those_that_multiply_the_experts_outputs(model, ids):
    seen = []
    experts = model.model.layers[1].mlp.experts
    handle = experts.register_forward_pre_hook(lambda experts, args: seen.append(args[2]))
    with RoutingRecorder(model, weights=True) as recorder, torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    weights = np.concatenate([recorder.recording().sample(row).weights for row in range(2)])
    assert weights.dtype == np.float32 and np.array_equal(weights[:, 1], seen[0].numpy())


def test_finished_samples_go_to_a_trace_and_further_runs_append(model, ids, tmp_path):
    for append in (False, True):
        with record_routing(model, folder=tmp_path / "trace", append=append) as recorder, torch.no_grad():
            recorder.label(domains=["a", "b"])
            model(input_ids=ids)
        assert len(recorder.recording()) == 0
    trace = Trace(tmp_path / "trace")
    assert trace.domains == ["a", "b", "a", "b"]
    assert np.array_equal(trace.sample(2).ids, alone(model, ids[0]))


def test_a_run_that_fails_leaves_a_trace_without_its_end(model, ids, tmp_path):
    with pytest.raises(KeyError), RoutingRecorder(model, folder=tmp_path / "trace"):
        model(input_ids=ids)
        raise KeyError("something else")
    with pytest.raises(ValueError, match=r"no end line.*2 samples with 14 tokens are whole"):
        Trace(tmp_path / "trace")


def test_a_recorder_is_entered_once(model):
    with RoutingRecorder(model) as recorder:
        with pytest.raises(ValueError, match="already recording"):
            recorder.__enter__()
        with pytest.raises(ValueError, match="nothing was recorded yet: Qwen3MoeForCausalLM was not called"):
            recorder.recording()
    with pytest.raises(ValueError, match="finished; a recorder is entered once"):
        recorder.__enter__()


def test_layers_that_differ_in_experts_per_token_are_refused(ids):
    model = qwen()
    model.model.layers[1].mlp.gate.top_k = 3
    with (
        RoutingRecorder(model),
        pytest.raises(ValueError, match=r"number of experts per token: .*0\.mlp\.experts has 2.*1\.mlp\.experts has 3"),
    ):
        model(input_ids=ids)
    with RoutingRecorder(model, only=r"layers\.1\.") as recorder:
        model(input_ids=ids)
    assert recorder.recording().meta.k == 3


def test_calls_that_bypass_the_recorded_module_are_refused(model, ids):
    with RoutingRecorder(model), pytest.raises(ValueError, match=r"ran outside a forward call of Qwen3MoeForCausalLM"):
        model.model(input_ids=ids)


def test_a_layer_that_runs_twice_in_a_call_is_refused(ids):
    model = qwen()
    model.model.layers[1] = model.model.layers[0]
    with RoutingRecorder(model), pytest.raises(ValueError, match=r"layers\.0\.mlp\.experts ran twice in one forward"):
        model(input_ids=ids, use_cache=False)


def test_a_skipped_layer_ran_no_expert_and_a_call_without_any_is_refused(ids):
    model = qwen()
    kept = model.model.layers[1].mlp.forward
    model.model.layers[1].mlp.forward = torch.zeros_like
    with RoutingRecorder(model) as recorder:
        model(input_ids=ids)
        model.model.layers[0].mlp.forward = torch.zeros_like
        with pytest.raises(ValueError, match="none of the 2 MoE layers of Qwen3MoeForCausalLM ran in this call"):
            model(input_ids=ids)
        model.model.layers[1].mlp.forward = kept
    recorded = recorder.recording().sample(0).ids
    assert (recorded[:, 1] == -1).all() and (recorded[:, 0] >= 0).all()


def test_a_failed_call_is_no_sample(model, ids):
    def fail(*_):
        raise RuntimeError("out of memory")

    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(input_ids=ids)
        handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            model(input_ids=ids)
        handle.remove()
        model(input_ids=ids)
    assert len(recorder.recording()) == 4


def test_ids_beyond_the_experts_are_refused(ids):
    model = qwen()
    with RoutingRecorder(model) as recorder:
        for part in recorder._parts.values():
            part.layers[1] = type(part.layers[1])(**vars(part.layers[1]) | {"num_experts": 4})
        with pytest.raises(ValueError, match=r"layers\.1\.mlp\.experts chose ids from 0 to 7, it has 4 experts"):
            model(input_ids=ids)


@pytest.mark.skipif(not transformers.__version__.startswith("5.23."), reason="true of transformers 5.23")
def test_nllb_in_transformers_5_23_runs_two_experts_whatever_its_router_says(ids):
    """Why its record is the router's dispatch: one-hot masks are taken for ids, so experts 0 and 1 do everything."""
    sizes = {"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
    sizes |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_experts": 8}
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("nllb-moe", **sizes, encoder_sparse_step=1)).eval()
    ran = set()
    for name, module in model.named_modules():
        expert = re.search(r"expert_(\d+)$", name)
        if expert:
            module.register_forward_hook(lambda *_, number=int(expert[1]): ran.add(number))
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(input_ids=ids, decoder_input_ids=ids)
    assert ran == {0, 1}
    assert len(np.unique(np.concatenate(list(recorder.recording("encoder"))))) > 4
