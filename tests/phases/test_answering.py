"""Answers do not depend on the batch they were given in, and one bad prompt does not spoil the others."""

import itertools
from dataclasses import replace

import pytest
import torch

from mindvl.phases.answering import Answer, Answerer, Prompt
from mindvl.phases.decoding import Decoding

SHORT = Decoding(max_new_tokens=8)
DRAWN = Decoding(max_new_tokens=8, temperature=0.9, top_p=0.95, top_k=60, seed=4)
FAMILIES = ("qwen3", "llama", "qwen3_moe", "deepseek_v3")


@pytest.fixture(scope="module")
def answerer(make_model, tokenizer):
    return Answerer(make_model(), tokenizer)


@pytest.fixture(scope="module")
def prompts(conversation):
    asked = [("which?", ((28, 56), (112, 84))), ("no picture", ()), ("read this", ((56, 140),)), ("?", ((84, 28),))]
    made = (conversation(text, None, sizes, seed=7 * number) for number, (text, sizes) in enumerate(asked))
    return [Prompt(messages, tuple(images)) for messages, images in made]


@pytest.fixture
def batches(answerer, monkeypatch):
    """Sizes (rows, longest prompt) of the batches that were generated."""
    sizes = []
    padded = answerer._padded

    def count(encoded):
        sizes.append((len(encoded), max(len(prompt.input_ids) for prompt in encoded)))
        return padded(encoded)

    monkeypatch.setattr(answerer, "_padded", count)
    return sizes


@pytest.mark.parametrize("decoding", [SHORT, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_answers_what_its_prompts_would_alone(family, decoding, make_model, tokenizer, prompts, mixtures):
    language = mixtures.get(family, {"model_type": family})
    answerer = Answerer(make_model(language=language), tokenizer)
    alone = [answerer.answer([prompt], decoding)[0] for prompt in prompts]
    assert answerer.answer(prompts, decoding) == alone
    assert len({answer.text for answer in alone}) > 1


@pytest.mark.parametrize("decoding", [SHORT, DRAWN], ids=["greedy", "drawn"])
def test_neither_the_order_of_prompts_nor_the_size_of_batches_changes_an_answer(decoding, answerer, prompts):
    answers = answerer.answer(prompts, decoding)
    assert answerer.answer(prompts[::-1], decoding)[::-1] == answers
    for limits in ({"batch_size": 2}, {"batch_size": 3}, {"batch_tokens": 60}, {"batch_tokens": 1}):
        assert answerer.answer(prompts, decoding, **limits) == answers


def test_an_answer_that_a_stop_text_ends_counts_its_own_tokens_in_any_batch(answerer, prompts):
    whole = [answerer.answer([prompt], SHORT)[0] for prompt in prompts]
    stop = next(answer.text[2] for answer in whole if len(answer.text) > 4)
    decoding = Decoding(max_new_tokens=8, stop=(stop,))
    alone = [answerer.answer([prompt], decoding)[0] for prompt in prompts]
    assert answerer.answer(prompts, decoding) == alone
    assert len({answer.new_tokens for answer in alone}) > 1


def test_a_batch_holds_as_many_tokens_as_it_may_with_padding_and_new_tokens(answerer, prompts, batches):
    answerer.answer(prompts * 4, SHORT, batch_tokens=100)
    assert sum(rows for rows, _ in batches) == 16 and all(rows * (longest + 8) <= 100 for rows, longest in batches)
    assert all((rows + 1) * (longest + 8) > 100 for (rows, _), (_, longest) in itertools.pairwise(batches))


def test_a_prompt_longer_than_the_budget_has_a_batch_of_its_own(answerer, prompts, batches):
    answerer.answer(prompts, SHORT, batch_tokens=10)
    assert [rows for rows, _ in batches] == [1] * 4


def test_pictures_are_decoded_batch_by_batch(answerer, prompts, monkeypatch):
    decoded, held = [], []
    encode, padded = answerer._encode, answerer._padded
    monkeypatch.setattr(answerer, "_encode", lambda prompt: decoded.append(prompt) or encode(prompt))
    monkeypatch.setattr(answerer, "_padded", lambda encoded: held.append(len(decoded)) or padded(encoded))
    answerer.answer(prompts, SHORT, batch_size=1)
    assert held == [1, 2, 3, 4]


def test_another_seed_draws_another_answer_and_the_same_seed_the_same(answerer, prompts):
    first = answerer.answer(prompts, DRAWN)
    assert answerer.answer(prompts, DRAWN) == first
    other = answerer.answer(prompts, replace(DRAWN, seed=5))
    assert all(a.text != b.text for a, b in zip(first, other, strict=True))


def test_global_random_numbers_are_neither_read_nor_moved(answerer, prompts):
    torch.manual_seed(1)
    first, state = answerer.answer(prompts, DRAWN), torch.get_rng_state()
    torch.manual_seed(2)
    assert answerer.answer(prompts, DRAWN) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_answer_says_whether_it_has_ended_or_was_cut(answerer, prompts, tokenizer):
    answers = answerer.answer(prompts, SHORT)
    assert {answer.finish for answer in answers} == {"length"} and {answer.new_tokens for answer in answers} == {8}
    first = answerer.answer(prompts[:1], SHORT)[0]
    ends = tokenizer.encode(first.text, add_special_tokens=False)[-1]  # as if the last token ended the turn
    ended = Answerer(answerer.model, tokenizer)
    ended._ends = [ends]
    (answer,) = ended.answer(prompts[:1], replace(SHORT, max_new_tokens=20))
    assert answer.finish == "stop" and answer.new_tokens <= 8 and first.text.startswith(answer.text)


def test_the_end_of_the_turn_is_no_option_before_the_least_length(answerer, prompts, tokenizer):
    every = Answerer(answerer.model, tokenizer)
    every._ends = list(range(200))  # nearly every token ends a turn
    (short,) = every.answer(prompts[:1], replace(SHORT, max_new_tokens=12))
    (long,) = every.answer(prompts[:1], replace(SHORT, max_new_tokens=12, min_new_tokens=10))
    assert short.new_tokens < 10 <= long.new_tokens


def test_a_stop_text_ends_its_row_alone_and_is_not_part_of_the_answer(answerer, prompts):
    whole = answerer.answer(prompts, SHORT)
    text = whole[0].text
    stop = text[3:5]
    assert stop not in text[:3]
    cut = answerer.answer(prompts, replace(SHORT, stop=(stop, "never said")))
    assert cut[0].text == text[:3] and cut[0].finish == "stop" and cut[0].visual_tokens == whole[0].visual_tokens
    for ours, before in zip(cut[1:], whole[1:], strict=True):
        assert ours.text == before.text.split(stop)[0]


def test_no_token_is_written_after_a_stop_text(answerer, prompts):
    (whole,) = answerer.answer(prompts[:1], SHORT)
    steps = []
    hook = answerer.model.register_forward_hook(lambda *_: steps.append(1))
    answerer.answer(prompts[:1], replace(SHORT, stop=(whole.text[1:3],)))
    hook.remove()
    assert len(steps) == 3


def test_a_stop_text_in_the_question_does_not_stop_the_answer(answerer, prompts):
    assert answerer.answer(prompts[1:2], replace(SHORT, stop=("picture",))) == answerer.answer(prompts[1:2], SHORT)


@pytest.mark.parametrize("decoding", [SHORT, DRAWN], ids=["greedy", "drawn"])
def test_what_is_said_aloud_is_the_answer(decoding, answerer, prompts):
    for prompt in prompts:
        said = []
        answer = answerer.answer_aloud(prompt, decoding, said.append)
        assert "".join(said) == answer.text and [answer] == answerer.answer([prompt], decoding)


def test_a_stop_text_is_not_said_aloud(answerer, prompts):
    (whole,) = answerer.answer(prompts[:1], SHORT)
    said = []
    answer = answerer.answer_aloud(prompts[0], replace(SHORT, stop=(whole.text[3:5],)), said.append)
    assert "".join(said) == answer.text == whole.text[:3]


def test_a_broken_picture_is_an_error_of_its_own_prompt_alone(answerer, prompts, picture):
    bad = replace(prompts[2], images=(b"no picture",))
    torn = replace(prompts[2], images=(picture(200, 300)[:-9000],))  # its header is whole, its pixels are not
    answers = answerer.answer([prompts[0], bad, torn, prompts[1]], SHORT, keep_going=True)
    assert [answers[0], answers[3]] == answerer.answer(prompts[:2], SHORT)
    assert answers[1] == Answer("", 0, error=answers[1].error) and "not a picture" in answers[1].error
    assert answers[2].finish is None and "does not decode" in answers[2].error
    for prompt in (bad, torn):
        with pytest.raises(ValueError, match=r"not a picture|does not decode"):
            answerer.answer([prompts[0], prompt], SHORT)


def test_no_prompts_and_none_that_can_be_asked_are_answered_without_the_model(answerer, prompts, monkeypatch):
    monkeypatch.setattr(answerer, "_generate", None)
    assert answerer.answer([], SHORT) == []
    (answer,) = answerer.answer([replace(prompts[2], images=())], SHORT, keep_going=True)
    assert answer.error == "the prompt has 1 image parts, but 0 pictures were given"


def test_an_answer_counts_the_visual_tokens_of_its_pictures(answerer, prompts):
    answers = answerer.answer(prompts, Decoding(max_new_tokens=1))
    assert [answer.visual_tokens for answer in answers] == [2 + 12, 0, 10, 3]


def test_another_pixel_budget_changes_the_visual_tokens(make_model, tokenizer, prompts):
    small = Answerer(make_model(), tokenizer, max_pixels=4 * 28 * 28)
    assert small.answer([prompts[2]], Decoding(max_new_tokens=1))[0].visual_tokens <= 4


def test_more_pictures_than_image_parts_are_refused_with_both_numbers(answerer, prompts):
    with pytest.raises(ValueError, match="has 1 image parts, but 2 pictures were given"):
        answerer.answer([Prompt(prompts[2].messages, prompts[2].images * 2)])


def test_a_lower_bound_above_the_upper_is_refused_with_both_numbers(make_model, tokenizer):
    with pytest.raises(ValueError, match="min_pixels is 9000, more than max_pixels, 8000"):
        Answerer(make_model(), tokenizer, min_pixels=9000, max_pixels=8000)


def test_defaults_of_a_saved_model_do_not_change_how_it_is_decoded(make_model, tokenizer, prompts):
    model = make_model()
    plain = Answerer(model, tokenizer).answer(prompts, SHORT)
    model.generation_config.update(do_sample=True, temperature=2.0, top_k=3, repetition_penalty=5.0, max_new_tokens=2)
    assert Answerer(model, tokenizer).answer(prompts, SHORT) == plain
