"""VQA accuracy and its normaliser, worked out by hand for both harnesses."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl.eval.metrics import COMPATS, normalise_vqa, vqa_accuracy


def plain_accuracy(prediction: str, references: list[str], compat: str) -> float:
    """The definition: each person left out in turn."""
    true = [normalise_vqa(text, compat=compat) for text in references]
    predicted = normalise_vqa(prediction, compat=compat)
    return statistics.fmean(
        min(1.0, (true[:out] + true[out + 1 :]).count(predicted) / 3) for out in range(len(references))
    )


@pytest.mark.parametrize(
    ("agreeing", "people", "expected"),
    [(0, 10, 0), (1, 10, 0.3), (2, 10, 0.6), (3, 10, 0.9), (4, 10, 1), (10, 10, 1), (1, 1, 0), (2, 2, 1 / 3)],
)
@pytest.mark.parametrize("compat", COMPATS)
def test_agreement_is_counted_among_the_other_people(agreeing, people, expected, compat):
    references = ["stop"] * agreeing + [f"other {number}" for number in range(people - agreeing)]
    assert vqa_accuracy("Stop!", references, compat=compat) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The two dogs!", "2 dogs"),
        ("none", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("a an the", ""),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),
        ("ill", "ill"),
        ("somebody'd", "somebodyd"),
        ("y'all'dve", "y'all'd've"),
        ("twas", "'twas"),
        ("a\nb\tc", "b c"),
        ("well-known", "well known"),
        ("well- known", "well known"),
        ("left -right-wing", "left rightwing"),
        ("3.5", "3.5"),
        ("mr. smith", "mr smith"),
        ("x" + " ." * 40, "x" + " ." * 8),
        ("10:30", "10:30"),
        ("$5", "$5"),
    ],
)
@pytest.mark.parametrize("compat", COMPATS)
def test_both_harnesses_clean_alike(text, expected, compat):
    assert normalise_vqa(text, compat=compat) == expected


@pytest.mark.parametrize(
    ("text", "lmms_eval", "vlmevalkit"),
    [
        ("red,blue", "redblue", "red blue"),
        ("really?yes", "reallyyes", "really yes"),
        ("1,000 up-to", "1000 up to", "1000 upto"),
        ("dog's", "dog 's", "dog's"),
        ("3.", "3", "3."),
        ("3. ", "3", "3."),
        (".5", ".5", ".5"),
        ("a,b-c", "ab c", "b c"),
    ],
)
def test_where_the_harnesses_clean_differently(text, lmms_eval, vlmevalkit):
    assert normalise_vqa(text) == lmms_eval
    assert normalise_vqa(text, compat="vlmevalkit") == vlmevalkit


@given(
    st.lists(st.sampled_from(["stop", "Stop!", "go", "two", "2"]), min_size=1, max_size=10), st.sampled_from(COMPATS)
)
def test_counting_equals_leaving_each_person_out_in_any_order(references, compat):
    found = vqa_accuracy("2", references, compat=compat)
    assert found == pytest.approx(plain_accuracy("2", references, compat), abs=1e-12)
    assert found == vqa_accuracy("2", references[::-1], compat=compat)


def test_a_question_nobody_answered_is_an_error():
    with pytest.raises(ValueError, match="0 references"):
        vqa_accuracy("stop", [])
