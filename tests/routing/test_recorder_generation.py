"""Recording while a model writes: decode steps join their prompt, and what moves tokens in the cache is refused."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, DynamicCache

from mindvl.routing.recorder import RoutingRecorder
from mindvl.routing.sample import TokenKind
from mindvl.routing.stack_listener import StackListener

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


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **QWEN)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model


@pytest.fixture(scope="module")
def ids():
    return torch.randint(1, 64, (2, 7), generator=torch.Generator().manual_seed(3))


def alone(model, row):
    """Ids of one unpadded row, recorded by itself."""
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(input_ids=row[None])
    return recorder.recording().sample(0).ids


def test_generated_tokens_join_the_row_of_their_prompt(model, ids):
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with RoutingRecorder(model) as recorder:
        written = model.generate(input_ids=ids * mask, attention_mask=mask, max_new_tokens=5, do_sample=False)
        again = model.generate(input_ids=ids[:1], max_new_tokens=2, do_sample=False)
    recording = recorder.recording()
    assert len(recording) == 3
    for row, start in ((0, 4), (1, 0)):  # the last token was never read by the model
        one = recording.sample(row)
        assert np.array_equal(one.ids, alone(model, written[row, start:-1]))
        assert one.kinds.tolist() == [TokenKind.TEXT] * (7 - start) + [TokenKind.GENERATED] * 4
    assert np.array_equal(recording.sample(2).ids, alone(model, again[0, :-1]))
    assert [len(run) for run in recording.select(kind="generated")] == [4, 4, 1]


def test_a_row_that_has_ended_is_recorded_as_if_it_were_alone(model, ids):
    free = model.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[:, 7:]
    end = next(int(token) for token in free[0, :4] if token not in free[1])
    with RoutingRecorder(model, end_token_ids=[end]) as recorder:
        model.generate(input_ids=ids, max_new_tokens=6, do_sample=False, eos_token_id=end, pad_token_id=0)
    for row in range(2):
        with RoutingRecorder(model) as by_itself:
            model.generate(
                input_ids=ids[row : row + 1], max_new_tokens=6, do_sample=False, eos_token_id=end, pad_token_id=0
            )
        assert np.array_equal(recorder.recording().sample(row).ids, by_itself.recording().sample(0).ids)


def test_a_mindvl_that_answers_about_pictures_is_recorded_with_its_prompt(make_model, samples):
    model = make_model(language=DEEPSEEK)
    sample = samples[0]
    inputs = {
        "input_ids": torch.from_numpy(sample.input_ids)[None],
        "attention_mask": torch.ones(1, len(sample.input_ids), dtype=torch.long),
        "pixel_values": torch.from_numpy(sample.patches),
        "image_grid_thw": torch.tensor([(g.frames, g.height, g.width) for g in sample.grids]),
    }
    with RoutingRecorder(model) as recorder:
        model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    one = recorder.recording().sample(0)
    assert len(one) == len(sample.input_ids) + 2
    assert np.array_equal(np.flatnonzero(one.kinds == TokenKind.PICTURE), np.sort(sample.image_positions))


def test_encoder_and_decoder_of_a_generation_are_two_parts():
    config = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2}
    config |= {
        "decoder_start_token_id": 0,
        "num_heads": 4,
        "num_experts": 4,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
    }
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("switch_transformers", **config)).eval()
    with RoutingRecorder(model) as recorder:
        model.generate(input_ids=torch.randint(2, 64, (2, 6)), max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert [ids.shape for ids in recorder.recording("encoder")] == [(6, 1, 1)] * 2
    assert [ids.shape for ids in recorder.recording("decoder")] == [(4, 1, 1)] * 2
    with pytest.raises(ValueError, match="has the parts encoder, decoder: say which"):
        recorder.recording()


def test_beam_search_is_refused_and_the_cache_gets_its_method_back(model, ids):
    cache = DynamicCache(config=model.config)
    with RoutingRecorder(model), pytest.raises(ValueError, match="beam search moves rows of the cache"):
        model.generate(input_ids=ids, max_new_tokens=3, num_beams=2, do_sample=False, past_key_values=cache)
    assert "reorder_cache" not in vars(cache)


def test_a_cache_that_was_cut_back_is_refused(model, ids):
    cache = DynamicCache(config=model.config)
    with RoutingRecorder(model), torch.no_grad():
        model(input_ids=ids, past_key_values=cache)
        cache.crop(-2)
        with pytest.raises(ValueError, match=r"cache holds 5 tokens a row, those recorded so far have 7"):
            model(input_ids=ids[:, :1], past_key_values=cache)


def test_a_prompt_read_in_pieces_is_one_sample_of_text(model, ids):
    cache = DynamicCache(config=model.config)
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(input_ids=ids[:, :3], past_key_values=cache)
        model(input_ids=ids[:, 3:], past_key_values=cache)
    recording = recorder.recording()
    assert len(recording) == 2 and (recording.sample(0).kinds == TokenKind.TEXT).all()
    assert np.array_equal(recording.sample(1).ids, alone(model, ids[1]))


def test_tokens_behind_a_prefix_that_was_not_recorded_are_samples_of_their_own(model, ids):
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=ids[:, :3], past_key_values=cache)
        with RoutingRecorder(model) as recorder:
            model(input_ids=ids[:, 3:], past_key_values=cache)
    assert np.array_equal(recorder.recording().sample(1).ids, alone(model, ids[1])[3:])


def test_steps_that_come_home_late_as_on_an_accelerator_give_the_same_record(model, ids, monkeypatch):
    def generated():
        with RoutingRecorder(model, weights=True) as recorder:
            model.generate(input_ids=ids, max_new_tokens=5, do_sample=False)
            model.generate(input_ids=ids[:1], max_new_tokens=3, do_sample=False)
        return recorder.recording().samples

    at_once = generated()
    monkeypatch.setattr(StackListener, "_late_steps", staticmethod(lambda device: 1))
    late = generated()
    assert len(late) == 3
    for one, other in zip(at_once, late, strict=True):
        assert np.array_equal(one.ids, other.ids) and np.array_equal(one.weights, other.weights)
