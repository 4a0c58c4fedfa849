import pytest

from mindvl.data.steps.corpus import Entry
from mindvl.data.steps.text_share import TextShare


def entries(step, raw, texts, pictures, *, chars=10, split="train"):
    made = [raw("q", "a" * (chars - 1), key=f"text-{n}") for n in range(texts)]
    made += [raw("q", "a", ((28, 28),), key=f"picture-{n}") for n in range(pictures)]
    return [Entry(sample.key, split, step.signature(sample)) for sample in made]


def left(verdicts, texts):
    return verdicts[:texts].count(None), verdicts[texts:].count(None)


@pytest.mark.parametrize(
    ("ratio", "texts", "pictures", "expected"),
    [
        (0.5, 30, 10, (10, 10)),
        (0.5, 10, 30, (10, 10)),
        (0.25, 30, 30, (10, 30)),
        (1.0, 5, 5, (5, 0)),
        (0, 5, 5, (0, 5)),
    ],
)
def test_the_larger_side_loses_what_it_has_too_many_of(raw, ratio, texts, pictures, expected):
    step = TextShare(ratio=float(ratio))
    assert left(step.verdicts(entries(step, raw, texts, pictures)), texts) == expected


def test_by_characters_long_texts_weigh_more(raw):
    step = TextShare(by_chars=True)  # 20 texts of 10 characters, 30 pictures with 2
    assert left(step.verdicts(entries(step, raw, 20, 30)), 20) == (6, 30)


def test_who_goes_does_not_depend_on_the_order(raw):
    step = TextShare()
    given = entries(step, raw, 30, 10)
    kept = {e.key for e, v in zip(given, step.verdicts(given), strict=True) if v is None}
    backwards = given[::-1]
    assert kept == {e.key for e, v in zip(backwards, step.verdicts(backwards), strict=True) if v is None}


def test_held_out_splits_are_left_alone(raw):
    step = TextShare()
    assert step.verdicts(entries(step, raw, 5, 1, split="test")) == [None] * 6


def test_a_missing_side_is_an_error_with_the_counts(raw):
    step = TextShare()
    with pytest.raises(ValueError, match="of 4 training samples 0 are text-only and 4 have pictures"):
        step.verdicts(entries(step, raw, 0, 4))
