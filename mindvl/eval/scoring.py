"""Each kind of question has its natural score: 1 for right, 0 for wrong.

exact_match        the answer's text, apart from white space at its ends and letter case
relaxed_accuracy   numbers read off a chart, within 5 % (ChartQA's measure, arXiv 2203.10244)
box_iou            a box [x1,y1,x2,y2] in pixels that overlaps the true one by at least half (intersection over union)
"""

from __future__ import annotations

import re
from collections.abc import Callable

RELAXED_TOLERANCE_RATIO = 0.05
MIN_IOU = 0.5

_BOX = re.compile(r"\[\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*\]")


def exact_match(prediction: str, answer: str) -> float:
    """1 when the texts agree, apart from surrounding white space and letter case."""
    return float(prediction.strip().lower() == answer.strip().lower())


def relaxed_match(prediction: str, answer: str) -> float:
    """1 when the number lies within 5 % of the answer; texts that are no numbers must agree exactly."""
    try:
        predicted, true = float(prediction), float(answer)
    except ValueError:
        return exact_match(prediction, answer)
    return float(abs(predicted - true) <= RELAXED_TOLERANCE_RATIO * abs(true))


def parse_box(text: str) -> tuple[int, int, int, int] | None:
    """The first [x1,y1,x2,y2] in a text, in pixels; None when there is none or it has no area."""
    match = _BOX.search(text)
    if match is None:
        return None
    left, top, right, bottom = (int(number) for number in match.groups())
    return (left, top, right, bottom) if right > left and bottom > top else None


def box_iou(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> float:
    """Intersection over union of two boxes [x1,y1,x2,y2], from 0 to 1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (area - width * height)


def box_match(prediction: str, answer: str) -> float:
    """1 when the predicted box overlaps the true one with an IoU of at least 0.5."""
    true = parse_box(answer)
    if true is None:
        raise ValueError(f"the reference {answer!r} is no box [x1,y1,x2,y2]")
    predicted = parse_box(prediction)
    return float(predicted is not None and box_iou(predicted, true) >= MIN_IOU)


METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "relaxed_accuracy": relaxed_match,
    "box_iou": box_match,
}


def score(metric: str, prediction: str, answer: str) -> float:
    """The score of one prediction under the named metric. Raises ValueError for a name that is not known."""
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; known are {', '.join(METRICS)}")
    return METRICS[metric](prediction, answer)
