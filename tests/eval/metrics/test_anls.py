"""ANLS: values worked out by hand, a slow twin, and what may not change a score."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mindvl.eval.metrics import COMPATS, anls
from mindvl.eval.metrics.anls import edit_distance

TEXTS = st.text(alphabet="aAbBßİ .,\n1é", max_size=9)


def slow_distance(first: str, second: str) -> int:
    """The definition, by recursion."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        slow_distance(first[1:], second) + 1,
        slow_distance(first, second[1:]) + 1,
        slow_distance(first[1:], second[1:]) + (first[0] != second[0]),
    )


def plain_anls(prediction: str, references: list[str]) -> float:
    """All references compared letter by letter, none skipped."""
    ratios = []
    for reference in references:
        edits = edit_distance(" ".join(prediction.strip().lower().split()), " ".join(reference.strip().lower().split()))
        longest = max(len(prediction.upper()), len(reference.upper()))
        ratios.append(edits / longest if longest else 0.0)
    return 1 - min(ratios) if 1 - min(ratios) >= 0.5 else 0.0


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("paris", ["paris"], 1),
        ("  PARIS\n", ["paris"], 1),
        ("new   york", ["New York"], 1),
        ("pariz", ["paris"], 0.8),
        ("  pariz", ["paris"], 1 - 1 / 7),
        ("pariz       ", ["paris"], 1 - 1 / 12),
        ("pariz", ["london", "paris", "rome"], 0.8),
        ("ab", ["ax"], 0.5),
        ("abc", ["axx"], 0),
        ("The answer is Paris", ["paris"], 0),
        ("", [""], 1),
        ("", ["a"], 0),
        ("a", [""], 0),
        ("1,000", ["1000"], 0.8),
        ("$ 5", ["$5"], 1 - 1 / 3),
        ("cafe\u0301", ["caf\u00e9"], 0.6),
        ("ß", ["s"], 0.5),
    ],
)
@pytest.mark.parametrize("compat", COMPATS)
def test_similarity_is_one_minus_edits_over_the_longer_raw_text(prediction, references, expected, compat):
    assert anls(prediction, references, compat=compat) == pytest.approx(expected, abs=1e-12)


def test_one_reference_may_come_without_a_list():
    assert anls("pariz", "paris") == anls("pariz", ["paris"])


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
@example("x" * 9, ["x" * 4])
def test_the_short_cut_for_long_answers_changes_no_score(prediction, references):
    assert anls(prediction, references) == plain_anls(prediction, references)


@settings(max_examples=60)
@given(st.text(alphabet="ab", max_size=5), st.text(alphabet="abc", max_size=5))
def test_the_edit_distance_is_that_of_the_definition_and_symmetric(first, second):
    assert edit_distance(first, second) == edit_distance(second, first) == slow_distance(first, second)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_the_order_of_references_does_not_matter_and_scores_stay_in_range(prediction, references):
    found = anls(prediction, references)
    assert found == anls(prediction, references[::-1])
    assert found == 0 or 0.5 <= found <= 1


def test_a_question_without_references_and_an_unknown_harness_are_errors():
    with pytest.raises(ValueError, match="0 references"):
        anls("a", [])
    with pytest.raises(ValueError, match=r"unknown compat 'lmms'; known are lmms-eval, vlmevalkit"):
        anls("a", ["a"], compat="lmms")
