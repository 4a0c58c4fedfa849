"""The torchmetrics classes equal the plain functions for every split over batches and ranks."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl.eval.metrics import (
    ANLS,
    MME,
    CircularAccuracy,
    OCRBenchAccuracy,
    RelaxedAccuracy,
    VQAAccuracy,
    anls,
    circular_accuracy,
    mme_score,
    ocrbench_match,
    relaxed_accuracy,
    vqa_accuracy,
)

ANSWERS = [("pariz", ["paris"]), ("  pariz", ["paris"]), (None, ["lyon"]), ("42", ["40", "42"]), ("a b c d", ["a b c"])]
STEP = 1_000_000
MME_ROWS = [
    {"category": name, "image": str(number), "prediction": said, "answer": "Yes"}
    for name in ("count", "OCR", "code_reasoning")
    for number in range(3)
    for said in ("Yes.", "yes" if number else "no")
]
CIRCULAR_ROWS = [
    {"index": number + k * STEP, "options": ["x", "y"], "answer": "AB"[k], "prediction": "AB"[k] if number else "A"}
    for number in range(3)
    for k in (0, 1)
]


@pytest.mark.parametrize(
    ("metric", "function"),
    [
        (ANLS, anls),
        (VQAAccuracy, vqa_accuracy),
        (RelaxedAccuracy, relaxed_accuracy),
        (OCRBenchAccuracy, ocrbench_match),
    ],
)
@pytest.mark.parametrize("compat", ["lmms-eval", "vlmevalkit"])
def test_a_mean_is_that_of_the_plain_function_and_a_failed_answer_is_wrong(metric, function, compat):
    scores = [0.0 if said is None else function(said, true, compat=compat) for said, true in ANSWERS]
    mean = metric(compat=compat)
    mean.update([said for said, _ in ANSWERS], [true for _, true in ANSWERS])
    assert mean.compute().item() == pytest.approx(sum(scores) / len(scores), abs=1e-12)


@pytest.mark.parametrize("metric", [ANLS, VQAAccuracy, RelaxedAccuracy, OCRBenchAccuracy])
def test_an_answer_without_a_reference_is_an_error_also_when_it_failed(metric):
    with pytest.raises(ValueError, match="there are 0 references"):
        metric().update([None], [[]])


@given(st.permutations(ANSWERS * 3), st.lists(st.integers(0, 15), max_size=3))
def test_any_order_and_any_batches_give_the_same_bits(answers, cuts):
    whole, parts = ANLS(), ANLS()
    whole.update(*zip(*(ANSWERS * 3), strict=True))
    bounds = [0, *sorted(cuts), len(answers)]
    for first, last in pairwise(bounds):
        batch = answers[first:last]
        parts.update([said for said, _ in batch], [true for _, true in batch])
    assert parts.compute().item() == whole.compute().item()


def test_formulas_are_told_by_their_data_set():
    metric = OCRBenchAccuracy()
    metric.update(["x ^ 2", "x ^ 2"], ["x^2", "x^2"], ["HME100k", "IIIT5K"])
    assert metric.compute().item() == 0.5


def test_records_may_come_in_any_batches():
    points, circles = MME(), CircularAccuracy()
    for row in reversed(MME_ROWS):
        points.update([row])
    for row in reversed(CIRCULAR_ROWS):
        circles.update([row])
    plain = mme_score(MME_ROWS)
    found = {name: value.item() for name, value in points.compute().items()}
    assert found == {name: getattr(plain, name) for name in ("perception", "cognition", "total", "percent")}
    assert circles.compute().item() == circular_accuracy(CIRCULAR_ROWS) == 2 / 3


def test_half_a_pair_is_an_error_when_the_score_is_asked_for():
    points = MME()
    points.update(MME_ROWS[:-1])
    with pytest.raises(ValueError, match=r"category code_reasoning, picture \d+ has 1"):
        points.compute()


def test_reset_forgets_everything():
    points, mean = MME(), ANLS()
    points.update(MME_ROWS)
    mean.update(["x"], ["y"])
    points.reset(), mean.reset()
    points.update(MME_ROWS[:2])
    mean.update(["y"], ["y"])
    assert points.compute()["total"].item() == mme_score(MME_ROWS[:2]).total
    assert mean.compute().item() == 1


def test_sequences_of_unequal_length_and_unknown_harnesses_are_refused():
    with pytest.raises(ValueError, match="2 predictions, 1 references, 2 datasets"):
        ANLS().update(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="unknown compat 'own'"):
        MME(compat="own")


def test_two_ranks_with_unequal_shares_know_together_what_one_process_knows(run_ranks, tmp_path):
    data = {"anls": ANSWERS, "mme": MME_ROWS, "circular": CIRCULAR_ROWS}
    (tmp_path / "data.json").write_text(json.dumps(data))
    run_ranks(Path(__file__).with_name("two_ranks.py"), tmp_path)
    together = json.loads((tmp_path / "together.json").read_text())
    alone = ANLS()
    alone.update(*zip(*ANSWERS, strict=True))
    assert together["anls"] == alone.compute().item()
    assert together["mme"]["total"] == mme_score(MME_ROWS).total
    assert together["circular"] == circular_accuracy(CIRCULAR_ROWS)
    assert together["left_on_this_rank"] == len(MME_ROWS) / 2
