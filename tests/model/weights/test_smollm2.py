"""A real language model under a MindVL: it says what it said before, and pictures change nothing until one is shown.

SmolLM2-135M-Instruct, 134.5 million parameters, in fp32. Its vocabulary of 49,152 has no vision tokens: four are added,
and the embedding grows to 49,168 rows.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mindvl.data.chat import ChatEncoder
from mindvl.data.pack import pack_samples
from mindvl.data.pixels import PixelBudget
from mindvl.data.sample import encode_sample
from mindvl.data.tokenizer import load_tokenizer
from mindvl.model.mindvl import MindVL

TOWER = {"depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 80, "fullatt_block_indexes": [1]}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TEXTS = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Name three colours.", "Red, green and blue are three colours of light that a screen mixes all others from."),
]


@pytest.fixture(scope="module")
def folder(asset):
    return asset("smollm2")


@pytest.fixture(scope="module")
def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def model(folder, tokenizer):
    return MindVL.from_pretrained(vision=TOWER, language=str(folder), tokenizer=tokenizer, dtype=torch.float32)


@pytest.fixture(scope="module")
def text_pack(tokenizer, conversation):
    encoder, budget = ChatEncoder(tokenizer), PixelBudget(28 * 28, 64 * 28 * 28)
    samples = [
        encode_sample(question, "made", *conversation(question, answer), encoder, budget, supervise="answers")
        for question, answer in TEXTS
    ]
    return pack_samples(samples, token_budget=256, merge=2, window_tokens=8)


def answer(model, tokenizer) -> str:
    """Greedy, from the tokenizer's own chat template."""
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_it_answers_as_in_transformers(plain, model, folder, tokenizer):
    before, now = answer(plain, AutoTokenizer.from_pretrained(folder)), answer(model, tokenizer)
    assert now == before and "Paris" in now


def test_its_vocabulary_grows_by_rows_that_are_the_mean(plain, model):
    old, new = plain.get_input_embeddings().weight, model.get_input_embeddings().weight
    assert (old.shape[0], new.shape[0]) == (49152, 49168)
    assert torch.equal(new[:49152], old)
    torch.testing.assert_close(new[49152:], old.double().mean(0).float().expand(16, -1), rtol=1e-6, atol=1e-8)
    assert model.get_output_embeddings().weight is new
    assert (model.config.vision_start_token_id, model.config.image_token_id) == (49152, 49154)


@torch.no_grad()
def test_logits_of_a_text_are_those_of_transformers(plain, model, text_pack):
    start = 0
    hidden = model.hidden_states(text_pack)
    for length in text_pack.doc_lengths[: len(text_pack.keys)]:
        ids = text_pack.input_ids[start : start + length]
        ours = model.get_output_embeddings()(hidden[start : start + length])[:, :49152]
        theirs = plain(input_ids=ids[None]).logits[0]
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
        assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
        start += length


@torch.no_grad()
def test_the_loss_of_a_text_is_what_it_was_whatever_the_tower_holds(plain, model, text_pack):
    before = model(packed=text_pack).loss
    for parameter in model.vision.parameters():
        parameter.add_(1.0)
    assert model(packed=text_pack).loss - before == 0.0
    # transformers' loss, over the rows that its vocabulary lacks as well: all of them have the mean row's logit
    start, total = 0, 0.0
    supervised = dict(zip(text_pack.supervised_index.tolist(), text_pack.targets.tolist(), strict=True))
    mean_row = plain.get_input_embeddings().weight.mean(0)
    for length in text_pack.doc_lengths[: len(text_pack.keys)]:
        states = plain.model(input_ids=text_pack.input_ids[start : start + length][None]).last_hidden_state[0]
        logits = torch.cat([plain.lm_head(states), (states @ mean_row)[:, None].expand(-1, 16)], dim=1)
        for position in range(length):
            if start + position in supervised:
                total += torch.nn.functional.cross_entropy(logits[position], torch.tensor(supervised[start + position]))
        start += length
    assert abs(before / total - 1) <= 1e-5


@torch.no_grad()
def test_the_new_rows_add_next_to_nothing_to_the_loss_of_a_text(model, text_pack):
    states = model.hidden_states(text_pack)[text_pack.supervised_index]
    logits = model.get_output_embeddings()(states)
    losses = [torch.nn.functional.cross_entropy(logits[:, :rows], text_pack.targets) for rows in (49152, 49168)]
    assert 0 <= losses[1] - losses[0] <= 1e-3
