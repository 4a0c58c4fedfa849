"""Draws follow the probabilities, settings have bounds, and stop texts are found where they are."""

import numpy as np
import pytest
import scipy.stats
import torch
from transformers import LogitsProcessorList
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mindvl.phases.decoding import (
    Decoding,
    DrawEachRow,
    SayWords,
    StopAtText,
    after_opening,
    cut_at_stop,
    gumbel_noise,
    processors,
)

IDS = torch.zeros(1, 1, dtype=torch.long)


def drawn(scores, chosen):
    """Tokens that the processors leave possible, one per row."""
    left = chosen(IDS.expand(len(scores), 1), scores)
    assert torch.equal(left.isfinite().sum(dim=1), torch.ones(len(scores), dtype=torch.long))
    return left.argmax(dim=1)


def test_draws_come_as_often_as_their_probabilities_say():
    shares = torch.tensor([0.05, 0.5, 0.0, 0.3, 0.15])
    scores = shares.log().expand(20_000, 5)
    counts = drawn(scores, DrawEachRow(7, range(20_000))).bincount(minlength=5)
    assert counts[2] == 0
    np.testing.assert_allclose(counts / 20_000, shares, atol=0.012)  # 3.4 standard deviations


def test_the_noise_is_gumbels_and_that_of_neighbours_steps_and_seeds_are_strangers():
    keys = torch.tensor([0, 1, 2, -(2**63), 2**63 - 1])
    noise = gumbel_noise(keys, 40_000)
    assert noise.isfinite().all() and scipy.stats.kstest(noise.flatten().numpy(), "gumbel_r").pvalue > 0.001
    between = np.corrcoef(noise)[np.triu_indices(5, 1)]
    assert abs(between).max() < 0.02  # four standard deviations
    assert abs(np.corrcoef(noise[:, 1:].flatten(), noise[:, :-1].flatten())[0, 1]) < 0.01
    assert torch.equal(noise[3:4, :7], gumbel_noise(keys[3:4], 7))


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.7}, {"temperature": 1.3, "top_k": 3}, {"temperature": 1.0, "top_p": 0.75}]
)
def test_draws_follow_what_transformers_own_warpers_leave(settings):
    scores = torch.tensor([2.0, 1.0, 0.5, 0.2, -1.0, -3.0])
    warpers = {"temperature": TemperatureLogitsWarper, "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper}
    theirs = LogitsProcessorList([warpers[name](value) for name, value in settings.items()])
    shares = theirs(IDS, scores[None])[0].softmax(-1)
    counts = drawn(scores.expand(20_000, 6).contiguous(), processors(Decoding(**settings), range(20_000)))
    counts = counts.bincount(minlength=6)
    possible = shares > 0
    assert counts[~possible].sum() == 0
    assert scipy.stats.chisquare(counts[possible], shares[possible] * 20_000, sum_check=False).pvalue > 0.001


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"top_k": 40}])
def test_roundings_of_logits_change_next_to_no_draw(settings):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(400, 2000, generator=generator) / 10  # near to each other: hundreds of swaps
    other = scores + 1e-6 * torch.randn(400, 2000, generator=generator)
    one, two = (drawn(each, processors(Decoding(temperature=1.0, **settings), range(400))) for each in (scores, other))
    assert (one != two).sum() <= 1 and len(set(one.tolist())) > 30


def test_a_row_draws_the_same_whatever_rows_stand_beside_it():
    torch.manual_seed(0)
    steps = torch.randn(6, 4, 50)
    alone = [
        [drawn(step[row : row + 1], one).item() for step in steps]
        for row in range(4)
        for one in [DrawEachRow(3, [row])]
    ]
    together = DrawEachRow(3, range(4))
    assert torch.stack([drawn(step, together) for step in steps], dim=1).tolist() == alone
    assert len({tuple(row) for row in alone}) == 4


@pytest.mark.parametrize(
    ("settings", "possible"),
    [({}, {0, 1, 2, 3}), ({"top_k": 2}, {0, 1}), ({"top_p": 0.5}, {0, 1}), ({"top_p": 0.8, "top_k": 3}, {0, 1, 2})],
)
def test_only_tokens_within_top_k_and_top_p_are_drawn(settings, possible):
    scores = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(500, 4).contiguous()
    assert set(drawn(scores, processors(Decoding(temperature=1.0, **settings), range(500))).tolist()) == possible


def test_a_low_temperature_is_nearly_greedy_and_a_high_one_nearly_even():
    scores = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(2000, 4).contiguous()
    cold = drawn(scores, processors(Decoding(temperature=0.01), range(2000))).bincount(minlength=4)
    hot = drawn(scores, processors(Decoding(temperature=100.0), range(2000))).bincount(minlength=4)
    assert cold.tolist() == [2000, 0, 0, 0] and hot.min() > 420
    assert len(processors(Decoding(), [])) == 0


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0, an answer has at least 1"),
        ({"min_new_tokens": 65}, "min_new_tokens is 65, outside 0 .. max_new_tokens=64"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p is 1.5"),
        ({"temperature": 1.0, "top_k": -2}, "top_k is -2"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": ("a", "")}, "a stop text is empty"),
        ({"top_k": 5}, "top_p=1.0 and top_k=5 bound what is drawn, but temperature 0 draws nothing"),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Decoding(**settings)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("ab\ncd\n", ("\n",), ("ab", True)),
        ("ab\ncd", ("cd", "\n"), ("ab", True)),
        ("ab", ("c",), ("ab", False)),
        ("ab", (), ("ab", False)),
        ("ab", ("ab",), ("", True)),
    ],
)
def test_a_text_ends_before_the_first_stop(text, stop, expected):
    assert cut_at_stop(text, stop) == expected


@pytest.mark.parametrize("text", ["所以。完了", "a b STOP", "STOP", "ab STO"])
def test_a_row_is_ended_by_new_tokens_alone_at_the_token_that_completes_the_stop(text, tokenizer):
    prompt = tokenizer.encode("STOP 完了 ST", add_special_tokens=False)
    new = tokenizer.encode(text, add_special_tokens=False)
    criterion = StopAtText(tokenizer, ("STOP", "完了"), prompt_tokens=len(prompt))
    ended = [criterion(torch.tensor([prompt + new[: n + 1]]), None).item() for n in range(len(new))]
    assert ended == [any(stop in tokenizer.decode(new[: n + 1]) for stop in ("STOP", "完了")) for n in range(len(new))]


@pytest.mark.parametrize("stop", [(), ("END",), ("c d",), ("zz", "d\n"), ("e f g h",)])
@pytest.mark.parametrize("text", ["a b c d\ne f g", "E EN ENE END x", "中文 c", "c c d", "e f g "])
def test_words_are_said_up_to_the_stop_and_never_a_part_of_it(text, stop, tokenizer):
    said = []
    words = SayWords(tokenizer, stop, said.append)
    words.put(torch.tensor([[1, 2, 3]]))  # the prompt
    for token in tokenizer.encode(text, add_special_tokens=False):
        words.put(torch.tensor([token]))
    words.end()
    assert "".join(said) == cut_at_stop(text, stop)[0]
    assert all(said)


def test_words_are_said_before_the_answer_is_complete(tokenizer):
    said = []
    words = SayWords(tokenizer, ("END",), said.append)
    words.put(torch.tensor([[1]]))
    for token in tokenizer.encode("one two E", add_special_tokens=False):
        words.put(torch.tensor([token]))
    assert said == ["one ", "two "]


OPENING = "<t>\n\n</t>\n\n"


@pytest.mark.parametrize("text", [OPENING + "a\nb", OPENING, OPENING[:5], "a\nb", "<t>\nhm</t>\n\na", ""])
def test_what_a_template_puts_before_an_answer_is_neither_said_nor_searched_for_stops(text, tokenizer):
    own = "" if OPENING.startswith(text) else text.removeprefix(OPENING)
    assert after_opening(text, OPENING) == own
    said: list[str] = []
    words = SayWords(tokenizer, ("\n",), said.append, OPENING)
    words.put(torch.tensor([[1]]))
    ids = tokenizer.encode(text, add_special_tokens=False)
    for token in ids:
        words.put(torch.tensor([token]))
    words.end()
    assert "".join(said) == own.split("\n")[0]
    criterion = StopAtText(tokenizer, ("\n",), prompt_tokens=1, opening=OPENING)
    assert criterion(torch.tensor([[5, *ids]]), None).item() == ("\n" in own)
