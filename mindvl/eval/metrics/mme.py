"""MME's score (arXiv 2306.13394): two questions about every picture, and a bonus for having both right.

    category = 100 * right / questions + 100 * pictures with both right / pictures      0 to 200

Ten categories of perception (up to 2000) and four of cognition (up to 800). Two pictures, one with both answers right
and one with one: 75 + 50 = 125. MindVL's table prints the sum divided by 28, so 2800 is 100.

Counts are whole until the last division, so the order of the records does not matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mindvl.eval.metrics.compat import LMMS_EVAL, VLMEVALKIT, check_compat
from mindvl.eval.metrics.yes_no import extract_yes_no

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
CATEGORIES = PERCEPTION + COGNITION

QUESTIONS_PER_IMAGE = 2
BEST_OF_CATEGORY = 200

_IMAGE_NAMES = ("image", "image_path", "question_id", "image_id")
_VERDICT_NAMES = ("correct", "score")


@dataclass(frozen=True)
class MMERecord:
    """One judged question. `image` names the picture within its category, and so the pair."""

    category: str
    image: str
    correct: bool


@dataclass(frozen=True)
class MMEScore:
    """Points of the categories that were asked, 0 to 200 each."""

    by_category: dict[str, float]

    @property
    def perception(self) -> float:
        """Sum of the perception categories, up to 2000."""
        return sum(self.by_category[name] for name in PERCEPTION if name in self.by_category)

    @property
    def cognition(self) -> float:
        """Sum of the cognition categories, up to 800."""
        return sum(self.by_category[name] for name in COGNITION if name in self.by_category)

    @property
    def total(self) -> float:
        """Perception and cognition, up to 2800."""
        return self.perception + self.cognition

    @property
    def percent(self) -> float:
        """The total in hundredths of what the asked categories offer: total / 28 when all fourteen are there."""
        return 100 * self.total / (BEST_OF_CATEGORY * len(self.by_category))


def mme_score(
    records: Iterable[MMERecord | Mapping[str, Any]], *, compat: str = LMMS_EVAL, partial: bool = False
) -> MMEScore:
    """Points by category, and their sums.

    Args:
        records: `MMERecord`s, or mappings with `category`, the picture as `image`, `image_path` or `question_id`, and
            either `prediction` and `answer` or the verdict itself as `correct` or `score` (0 or 1). A prediction of
            None was never given, and is wrong.
        compat: how yes and no are read; VLMEvalKit also wants all fourteen categories, lmms-eval sums those it finds.
        partial: accept missing categories under VLMEvalKit's rule too.

    Raises:
        ValueError: for a picture with other than two questions, an unknown category, an answer that is neither yes nor
            no, a missing category, or no records.
    """
    check_compat(compat)
    verdicts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for given in records:
        record = read_mme_record(given, compat)
        verdicts[record.category, record.image].append(record.correct)
    if not verdicts:
        raise ValueError("there are 0 records to score")
    for (category, image), right in sorted(verdicts.items()):
        if len(right) != QUESTIONS_PER_IMAGE:
            raise ValueError(
                f"MME asks {QUESTIONS_PER_IMAGE} questions about every picture; "
                f"category {category}, picture {image} has {len(right)}"
            )
    pairs: dict[str, list[list[bool]]] = defaultdict(list)
    for (category, _), right in verdicts.items():
        pairs[category].append(right)
    missing = [category for category in CATEGORIES if category not in pairs]
    if missing and compat == VLMEVALKIT and not partial:
        raise ValueError(f"{len(missing)} of {len(CATEGORIES)} categories of MME are missing: {', '.join(missing)}")
    return MMEScore({name: _points(pairs[name]) for name in CATEGORIES if name in pairs})


def _points(pairs: list[list[bool]]) -> float:
    right, both = sum(map(sum, pairs)), sum(map(all, pairs))
    return 100 * right / (QUESTIONS_PER_IMAGE * len(pairs)) + 100 * both / len(pairs)


def read_mme_record(given: MMERecord | Mapping[str, Any], compat: str) -> MMERecord:
    """A record in any of the forms that `mme_score` takes. Raises ValueError for what it refuses in one record."""
    record = given if isinstance(given, MMERecord) else _read(given, compat)
    if record.category not in CATEGORIES:
        raise ValueError(f"MME has no category {record.category!r}; there are: {', '.join(CATEGORIES)}")
    return record


def _read(record: Mapping[str, Any], compat: str) -> MMERecord:
    if not isinstance(record, Mapping):
        raise ValueError(f"an MME record is a mapping; {record!r} is of type {type(record).__name__}")
    image = next((record[name] for name in _IMAGE_NAMES if name in record), None)
    if "category" not in record or image is None:
        raise ValueError(f"an MME record needs category and image; this one has: {', '.join(map(str, record))}")
    category, image = str(record["category"]), str(image)
    if "prediction" in record and "answer" in record:
        true = str(record["answer"]).strip().lower().replace(".", "")
        if true not in ("yes", "no"):
            raise ValueError(f"category {category}, picture {image}: the answer {record['answer']!r} is not yes or no")
        return MMERecord(category, image, extract_yes_no(record["prediction"], compat=compat) == true)
    verdict = next((record[name] for name in _VERDICT_NAMES if name in record), None)
    if verdict not in (0, 1):  # true for False and True as well
        raise ValueError(
            f"category {category}, picture {image}: a record needs prediction and answer, or correct as 0 or 1; "
            f"this one has: {', '.join(map(str, record))}"
        )
    return MMERecord(category, image, bool(verdict))
