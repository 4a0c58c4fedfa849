import numpy as np
import pytest

from mindvl.data.steps.corpus import Entry
from mindvl.data.steps.duplicate_texts import DuplicateTexts

pytest.importorskip("datasketch")

DROPPED = "says what an earlier text says"
WORDS = [f"{a}{b}{c}" for a in "bdfglm" for b in "aeiou" for c in "nrst"]


def verdicts(step, samples):
    return step.verdicts([Entry(sample.key, "train", step.signature(sample)) for sample in samples])


def essay(seed, count=200):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def jaccard(one, other, length=5):
    sets = [{text[i : i + length] for i in range(len(text) - length + 1)} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_the_estimate_is_near_the_true_overlap():
    step, text = DuplicateTexts(num_hashes=512), essay(0)
    for cut in (20, 200, 500):
        other = essay(1)[:cut] + text[cut:]
        estimate = np.mean(step._minhash(text) == step._minhash(other))
        assert estimate == pytest.approx(jaccard(text, other), abs=4 * 0.5 / 512**0.5)


def test_a_long_text_with_a_few_changes_falls_to_the_first(raw):
    changed = essay(0).replace("ban", "bon", 1)
    assert 0.95 < jaccard(essay(0), changed) < 1
    samples = [raw(essay(0)), raw(essay(1)), raw(changed), raw(essay(0)[:500])]
    assert verdicts(DuplicateTexts(), samples) == [None, None, DROPPED, None]


def test_short_texts_are_duplicates_only_if_they_are_equal_but_for_case_and_blanks(raw):
    samples = [raw("12+7=? solve it, please."), raw("12+8=? solve it, please."), raw("12+7=?  SOLVE it,\nplease.")]
    assert verdicts(DuplicateTexts(), samples) == [None, None, DROPPED]
    assert verdicts(DuplicateTexts(min_chars=0, threshold=0.5), samples) == [None, DROPPED, DROPPED]


def test_a_chain_of_changes_is_one_cluster_although_its_ends_differ(raw):
    first, other = essay(0), essay(1)
    second, third = other[:100] + first[100:], other[:200] + first[200:]
    low = min(jaccard(first, second), jaccard(second, third))
    assert jaccard(first, third) < 0.85 * low
    step = DuplicateTexts(threshold=0.93 * low, num_hashes=1024)
    assert verdicts(step, [raw(first), raw(third)]) == [None, None]
    assert verdicts(step, [raw(first), raw(third), raw(second)]) == [None, DROPPED, DROPPED]


def test_words_about_different_pictures_are_no_duplicates_unless_asked_for(raw):
    samples = [raw("how many?", "two", ((28, 28),), seed=seed) for seed in range(2)]
    assert verdicts(DuplicateTexts(), samples) == [None, None]
    assert verdicts(DuplicateTexts(with_pictures=True), samples) == [None, DROPPED]
