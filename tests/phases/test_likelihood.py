"""The likelihood of an answer is that of its tokens one by one, in any batch."""

import copy

import pytest
import torch

from mindvl.data.chat_template import teach_pictures
from mindvl.data.tokenizer import text_only
from mindvl.phases.answering import Answerer, Prompt
from mindvl.phases.decoding import Decoding
from mindvl.phases.likelihood import likelihoods


@pytest.fixture(scope="module")
def answerer(make_model, tokenizer):
    return Answerer(make_model(seed=3), tokenizer)


@pytest.fixture(scope="module")
def prompts(conversation):
    asked = [("which?", ((28, 56), (112, 84))), ("no picture", ()), ("read this", ((56, 140),))]
    made = (conversation(text, None, sizes, seed=7 * number) for number, (text, sizes) in enumerate(asked))
    return [Prompt(messages, tuple(images)) for messages, images in made]


@torch.inference_mode()
def one_by_one(answerer, prompt, answer) -> tuple[float, bool]:
    """Each token after the ones before it, without padding."""
    row = answerer._encode(prompt)
    ids, total, greedy = list(row.input_ids), 0.0, True
    pictures = {}
    if row.grids:
        pictures["pixel_values"] = torch.from_numpy(row.patches)
        pictures["image_grid_thw"] = torch.tensor([(grid.frames, grid.height, grid.width) for grid in row.grids])
    for token in text_only(answerer.tokenizer).encode(answer, add_special_tokens=False).ids:
        logits = answerer.model(input_ids=torch.tensor([ids]), **pictures).logits[0, -1].double()
        total += (logits - logits.logsumexp(0))[token].item()
        greedy = greedy and logits.argmax().item() == token
        ids.append(token)
    return total, greedy


def test_an_answers_likelihood_is_the_sum_over_its_tokens(answerer, prompts):
    answers = ["yes", "a longer answer", "no"]
    found = likelihoods(answerer, prompts, answers)
    for each, prompt, answer in zip(found, prompts, answers, strict=True):
        expected, greedy = one_by_one(answerer, prompt, answer)
        assert each.log_prob == pytest.approx(expected, abs=1e-4) and each.greedy == greedy
    assert len({round(each.log_prob, 3) for each in found}) == 3


OPENING = "<think>\n\n</think>\n\n"
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Empty thoughts before the last answer, as Qwen3 has them."""


@pytest.fixture
def thinking(answerer, tokenizer):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = THINKING
    teach_pictures(changed)
    return Answerer(answerer.model, changed)


def test_an_answer_is_weighed_behind_the_thoughts_that_the_template_puts_before_it(thinking, prompts):
    assert thinking.opening == OPENING
    (found,) = likelihoods(thinking, prompts[1:2], ["yes"])
    whole, opening = (one_by_one(thinking, prompts[1], text)[0] for text in (f"{OPENING}yes", OPENING))
    assert found.log_prob == pytest.approx(whole - opening, abs=1e-4)


def test_an_answer_is_read_without_the_thoughts_that_the_template_puts_before_it(thinking):
    encode = text_only(thinking.tokenizer).encode
    for written, read in ((f"{OPENING}yes", "yes"), ("yes", "yes"), (OPENING, ""), ("<think>\nhm", "<think>\nhm")):
        assert thinking._text(encode(written, add_special_tokens=False).ids) == read


def test_batches_and_neighbours_change_nothing(answerer, prompts):
    pairs = [(prompt, answer) for prompt in prompts for answer in ("yes", "", "something else")]
    together = likelihoods(answerer, *zip(*pairs, strict=True))
    alone = [likelihoods(answerer, [prompt], [answer])[0] for prompt, answer in pairs]
    small = likelihoods(answerer, *zip(*pairs, strict=True), batch_tokens=1)
    for one, other, third in zip(together, alone, small, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4) == pytest.approx(third.log_prob, abs=1e-4)
        assert one.greedy == other.greedy == third.greedy


def test_what_the_model_writes_itself_is_greedy_and_what_differs_is_not(make_model, tokenizer, prompts):
    for seed in range(20):  # a tiny model writes broken UTF-8 at times, which does not encode to the same bytes
        answerer = Answerer(make_model(seed=seed), tokenizer)
        text = answerer.answer([prompts[1]], Decoding(max_new_tokens=2))[0].text
        if len(text) == 2 and text.isascii():
            break
    other = text[0] + chr((ord(text[1]) + 1) % 128)
    own, changed = likelihoods(answerer, [prompts[1]] * 2, [text, other])
    assert own.greedy and not changed.greedy and own.log_prob > changed.log_prob


def test_an_empty_answer_is_certain(answerer, prompts):
    (found,) = likelihoods(answerer, prompts[:1], [""])
    assert found.log_prob == 0 and found.greedy


def test_pictures_of_a_questions_options_are_decoded_once(answerer, prompts, monkeypatch):
    encoded = []
    encode = answerer._encode
    monkeypatch.setattr(answerer, "_encode", lambda prompt: encoded.append(prompt) or encode(prompt))
    likelihoods(answerer, [prompts[0]] * 4 + [prompts[2]] * 4, ["a", "b", "c", "d"] * 2)
    assert encoded == [prompts[0], prompts[2]]


def test_a_control_token_in_an_answer_is_its_letters(answerer, prompts):
    (spelled,) = likelihoods(answerer, prompts[1:2], ["<|im_end|>"])
    assert spelled.log_prob == pytest.approx(one_by_one(answerer, prompts[1], "<|im_end|>")[0], abs=1e-4)
    assert len(text_only(answerer.tokenizer).encode("<|im_end|>", add_special_tokens=False).ids) == 10
