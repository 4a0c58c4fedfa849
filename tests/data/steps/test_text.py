import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl.data.raw import RawSample
from mindvl.data.steps.text import clean_text, repeated_ngrams, repeated_ratio, sample_text, text_length, well_formed


def slow_repeated_ratio(words, n):
    """Every pair of places is compared; words of the later place are marked."""
    marked = set()
    for later in range(len(words) - n + 1):
        for earlier in range(later):
            if words[earlier : earlier + n] == words[later : later + n]:
                marked |= set(range(later, later + n))
    total = sum(map(len, words))
    return sum(len(words[place]) for place in marked) / total if total else 0.0


def test_the_repeated_share_agrees_with_numbers_worked_by_hand():
    assert repeated_ratio("a b a b a b", n=2) == 4 / 6
    assert repeated_ratio("one two three one two four", n=2) == 6 / 21
    assert repeated_ratio("Same same SAME", n=1) == 8 / 12
    assert repeated_ratio("too short", n=5) == 0.0 == repeated_ratio("", n=1)


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=14), st.integers(1, 4))
def test_the_repeated_share_agrees_with_its_slow_twin(words, n):
    assert repeated_ratio(" ".join(words), n=n) == pytest.approx(slow_repeated_ratio(words, n))


def test_chinese_characters_count_as_words_without_blanks_between_them():
    assert repeated_ratio("图中图中", n=2) == 2 / 4


def test_answers_that_repeat_themselves_are_dropped_and_questions_may_repeat(raw):
    looping = "it is red and it is round " * 4
    assert repeated_ngrams(raw("describe", looping)) == "answer repeats itself"
    kept = raw(looping, "yes")
    assert repeated_ngrams(kept) is kept
    assert repeated_ngrams(raw("describe", looping), max_ratio=1.0).key == "k"


def test_length_bounds_are_on_the_whole_conversation_and_are_included(raw):
    sample = raw("12345", "123")
    assert text_length(sample, min_chars=8, max_chars=8) is sample
    assert text_length(sample, min_chars=9) == "text too short"
    assert text_length(sample, max_chars=7) == "text too long"


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        (["user", "assistant"], None),
        (["system", "user", "assistant", "user", "assistant"], None),
        (["user"], "turns do not alternate"),
        (["assistant", "user"], "turns do not alternate"),
        (["system"], "turns do not alternate"),
        ([], "turns do not alternate"),
    ],
)
def test_turns_alternate_and_end_with_an_answer(roles, reason):
    sample = RawSample("k", {"messages": [{"role": role, "content": "words"} for role in roles]})
    assert well_formed(sample) == (sample if reason is None else reason)


def test_each_picture_needs_its_placeholder_and_each_answer_a_word(raw):
    sample = raw("what?", "this", ((28, 28), (28, 56)))
    assert well_formed(sample) is sample
    one_less = RawSample("k", sample.record, sample.images[:1])
    assert well_formed(one_less) == "placeholders and pictures differ in number"
    assert well_formed(raw("what?", " \n")) == "empty answer"


def test_a_video_needs_a_placeholder_of_its_own_kind(picture):
    messages = [
        {"role": "user", "content": [{"type": "video"}, {"type": "image"}]},
        {"role": "assistant", "content": "a"},
    ]
    frames, still = (picture(28, 28), picture(28, 28)), picture(28, 28)
    sample = RawSample("k", {"messages": messages}, (frames, still))
    assert well_formed(sample) is sample and clean_text(sample).images == (frames, still)
    turned = RawSample("k", {"messages": messages}, (still, frames))
    assert well_formed(turned) == "placeholders and pictures differ in number"


def test_cleaning_composes_characters_and_keeps_the_blanks_in_front(raw):
    sample = raw("  cafe\u0301\r\nline\x00 two\x07\t \n", "so\rbe it")
    cleaned = clean_text(sample)
    assert sample_text(cleaned) == "  caf\u00e9\nline two\nso\nbe it"
    assert sample_text(sample).startswith("  cafe\u0301")  # the sample itself is as it was
    assert sample_text(clean_text(RawSample("k", {"messages": [{"role": "user", "content": "a \r\n"}]}))) == "a"
