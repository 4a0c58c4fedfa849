"""The metrics as torchmetrics: fed batch by batch, and equal to the bit for every split over batches and ranks.

    metric = ANLS()
    metric.update(["pariz", None], [["paris"], ["lyon"]])     # None: the question was not answered, and counts as wrong
    metric.compute()                                          # 0.4

Means keep whole numbers: scores in units of 2**-40, so that sums do not depend on their order (a mean is off by less
than 1e-12), and a count. MME and circular accuracy need every record in one place, since a pair may be split over
ranks: a record is a few whole numbers, and these are gathered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mindvl.eval.metrics import mme
from mindvl.eval.metrics.anls import anls
from mindvl.eval.metrics.circular import CircularRecord, circular_accuracy, read_circular_record
from mindvl.eval.metrics.compat import LMMS_EVAL, Text, check_compat
from mindvl.eval.metrics.ocrbench import ocrbench_match
from mindvl.eval.metrics.relaxed import relaxed_accuracy
from mindvl.eval.metrics.vqa import vqa_accuracy

UNITS = 1 << 40


class _MeanScore(Metric):
    """Mean of a score of single answers, 0 to 1. State: `units` and `num_answers`, both int64 and additive."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    units: Tensor
    num_answers: Tensor

    def __init__(self, *, compat: str = LMMS_EVAL, **settings: Any):
        super().__init__(**settings)
        self.compat = check_compat(compat)
        self.add_state("units", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_answers", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        predictions: Sequence[Text | None],
        references: Sequence[Text | Sequence[Text]],
        datasets: Sequence[str | None] | None = None,
    ) -> None:
        """Counts answers, each with its reference or references; `datasets` matter to OCRBench alone.

        Raises:
            ValueError: when the sequences differ in length, or an answer has no reference.
        """
        labels = [None] * len(predictions) if datasets is None else datasets
        if not len(predictions) == len(references) == len(labels):
            raise ValueError(f"{len(predictions)} predictions, {len(references)} references, {len(labels)} datasets")
        scores = [self.score(*answer) for answer in zip(predictions, references, labels, strict=True)]
        self.units += sum(round(score * UNITS) for score in scores)
        self.num_answers += len(scores)

    def compute(self) -> Tensor:
        """The mean in float64; NaN before the first answer."""
        count = int(self.num_answers)
        mean = int(self.units) / UNITS / count if count else float("nan")
        return torch.tensor(mean, dtype=torch.float64, device=self.units.device)

    def score(self, prediction: Text | None, references: Text | Sequence[Text], dataset: str | None) -> float:
        """Score of one answer."""
        raise NotImplementedError


class ANLS(_MeanScore):
    """Mean of `anls`: DocVQA, InfoVQA."""

    def score(self, prediction: Text | None, references: Text | Sequence[Text], dataset: str | None) -> float:
        return anls(prediction, references, compat=self.compat)


class RelaxedAccuracy(_MeanScore):
    """Mean of `relaxed_accuracy`: ChartQA."""

    def score(self, prediction: Text | None, references: Text | Sequence[Text], dataset: str | None) -> float:
        return relaxed_accuracy(prediction, references, compat=self.compat)


class VQAAccuracy(_MeanScore):
    """Mean of `vqa_accuracy`: TextVQA."""

    def score(self, prediction: Text | None, references: Text | Sequence[Text], dataset: str | None) -> float:
        return vqa_accuracy(prediction, references, compat=self.compat)


class OCRBenchAccuracy(_MeanScore):
    """Mean of `ocrbench_match`; `datasets` of `update` are the data sets' names, or the categories."""

    def score(self, prediction: Text | None, references: Text | Sequence[Text], dataset: str | None) -> float:
        return ocrbench_match(prediction, references, dataset=dataset, compat=self.compat)


class _Gathered(Metric):
    """Records of three whole numbers; every rank sees those of all ranks when the score is computed."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    records: list[Tensor]

    def __init__(self, *, compat: str = LMMS_EVAL, **settings: Any):
        super().__init__(**settings)
        self.compat = check_compat(compat)
        self.add_state("records", [], dist_reduce_fx="cat")

    def keep(self, rows: list[tuple[int, int, int]]) -> None:
        """Adds records to the state."""
        self.records.append(torch.tensor(rows, dtype=torch.int64, device=self.device).flatten())

    def rows(self) -> list[list[int]]:
        """All records so far."""
        parts = self.records if isinstance(self.records, list) else [self.records]  # torchmetrics joins them in a sync
        return [row for part in parts for row in part.reshape(-1, 3).tolist()]

    def sync(self, *args: Any, **settings: Any) -> None:
        """Before ranks meet, one without records holds an empty row of whole numbers, as the others do."""
        if not len(self.records):
            self.keep([])
        super().sync(*args, **settings)


class MME(_Gathered):
    """`mme_score` of all records of all ranks. A picture is kept as 63 bits of a hash of its name."""

    def update(self, records: Iterable[mme.MMERecord | Mapping[str, Any]]) -> None:
        """Keeps records as `mme_score` takes them; the two of a picture may come apart."""
        read = [mme.read_mme_record(record, self.compat) for record in records]
        self.keep([(mme.CATEGORIES.index(one.category), _number_of(one.image), int(one.correct)) for one in read])

    def compute(self) -> dict[str, Tensor]:
        """`perception`, `cognition`, `total` and `percent` (a whole run's total / 28). Raises what `mme_score` does."""
        records = [mme.MMERecord(mme.CATEGORIES[row[0]], str(row[1]), bool(row[2])) for row in self.rows()]
        found = mme.mme_score(records, compat=self.compat, partial=True)
        points = {name: getattr(found, name) for name in ("perception", "cognition", "total", "percent")}
        return {name: torch.tensor(x, dtype=torch.float64, device=self.device) for name, x in points.items()}


class CircularAccuracy(_Gathered):
    """`circular_accuracy` of all records of all ranks."""

    def update(self, records: Iterable[CircularRecord | Mapping[str, Any]]) -> None:
        """Keeps records as `circular_accuracy` takes them; the rotations of a question may come apart."""
        read = [read_circular_record(record, self.compat) for record in records]
        self.keep([(one.index, one.num_options, int(one.correct)) for one in read])

    def compute(self) -> Tensor:
        """The share of questions with all rotations right, in float64. Raises what `circular_accuracy` does."""
        records = [CircularRecord(row[0], row[1], bool(row[2])) for row in self.rows()]
        return torch.tensor(circular_accuracy(records), dtype=torch.float64, device=self.device)


def _number_of(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
