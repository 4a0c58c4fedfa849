"""Answers do not depend on the batch they were given in."""

import pytest

from mindvl.phases.answering import Answerer, Prompt


@pytest.fixture(scope="module")
def answerer(make_model, tokenizer):
    return Answerer(make_model(), tokenizer)


@pytest.fixture(scope="module")
def prompts(conversation):
    asked = [("which?", ((28, 56), (112, 84))), ("no picture", ()), ("read this", ((56, 140),)), ("?", ((84, 28),))]
    made = (conversation(text, None, sizes, seed=7 * number) for number, (text, sizes) in enumerate(asked))
    return [Prompt(messages, tuple(images)) for messages, images in made]


@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_a_batch_answers_what_its_prompts_would_alone_in_their_order(batch_size, answerer, prompts):
    alone = [answerer.answer([prompt], max_new_tokens=8)[0] for prompt in prompts]
    assert answerer.answer(prompts, max_new_tokens=8, batch_size=batch_size) == alone
    assert len({answer.text for answer in alone}) > 1


def test_an_answer_counts_the_visual_tokens_of_its_pictures(answerer, prompts):
    answers = answerer.answer(prompts, max_new_tokens=1)
    assert [answer.visual_tokens for answer in answers] == [2 + 12, 0, 10, 3]


def test_another_pixel_budget_changes_the_visual_tokens(make_model, tokenizer, prompts):
    small = Answerer(make_model(), tokenizer, max_pixels=4 * 28 * 28)
    assert small.answer([prompts[2]], max_new_tokens=1)[0].visual_tokens <= 4


def test_more_pictures_than_image_parts_are_refused_with_both_numbers(answerer, prompts):
    with pytest.raises(ValueError, match="has 1 image parts, but 2 pictures were given"):
        answerer.answer([Prompt(prompts[2].messages, prompts[2].images * 2)])


def test_a_lower_bound_above_the_upper_is_refused_with_both_numbers(make_model, tokenizer):
    with pytest.raises(ValueError, match="min_pixels is 9000, more than max_pixels, 8000"):
        Answerer(make_model(), tokenizer, min_pixels=9000, max_pixels=8000)
