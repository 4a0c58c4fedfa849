"""The measures of the benchmarks, each as the two harnesses of the field compute it: text in, number out.

    anls("pariz", ["paris"])                                 0.8
    relaxed_accuracy("1950", "2010")                         1.0    years are numbers, 3 % apart
    vqa_accuracy("stop", ["stop"] * 4 + ["go"] * 6)          1.0
    ocrbench_match("It says 1250.", ["12"])                  1.0    no word boundary
    extract_yes_no("Not sure")                               "no"   in lmms-eval; None in VLMEvalKit
    extract_choice("The answer is B.", ["red", "blue"])      "B"
    mme_score(records).total                                 up to 2800
    circular_accuracy(records)                               a question counts when every rotation is right

`compat` names the harness whose rule holds: "lmms-eval" (the default, read at 75571cfe) or "vlmevalkit" (read at
e8e78f05). Every function takes it; where both agree it changes nothing. No rule draws at random: an answer that cannot
be read is None, and scores nothing. The torchmetrics classes accumulate the same numbers over batches and ranks; they
are loaded when first asked for, so that a command's help does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mindvl.eval.metrics.anls import anls
from mindvl.eval.metrics.choice import extract_choice
from mindvl.eval.metrics.circular import CircularRecord, circular_accuracy, circular_hits
from mindvl.eval.metrics.compat import COMPATS
from mindvl.eval.metrics.mathvista import MathVistaTask, judge_mathvista
from mindvl.eval.metrics.mme import MMERecord, MMEScore, mme_score
from mindvl.eval.metrics.mmmu import extract_mmmu_choice, match_mmmu_open
from mindvl.eval.metrics.ocrbench import ocrbench_match
from mindvl.eval.metrics.relaxed import relaxed_accuracy
from mindvl.eval.metrics.vqa import normalise_vqa, vqa_accuracy
from mindvl.eval.metrics.yes_no import extract_yes_no

if TYPE_CHECKING:
    from mindvl.eval.metrics.accumulate import (
        ANLS,
        MME,
        CircularAccuracy,
        OCRBenchAccuracy,
        RelaxedAccuracy,
        VQAAccuracy,
    )

_ACCUMULATED = ("ANLS", "CircularAccuracy", "MME", "OCRBenchAccuracy", "RelaxedAccuracy", "VQAAccuracy")

__all__ = [
    "ANLS",
    "COMPATS",
    "MME",
    "CircularAccuracy",
    "CircularRecord",
    "MMERecord",
    "MMEScore",
    "MathVistaTask",
    "OCRBenchAccuracy",
    "RelaxedAccuracy",
    "VQAAccuracy",
    "anls",
    "circular_accuracy",
    "circular_hits",
    "extract_choice",
    "extract_mmmu_choice",
    "extract_yes_no",
    "judge_mathvista",
    "match_mmmu_open",
    "mme_score",
    "normalise_vqa",
    "ocrbench_match",
    "relaxed_accuracy",
    "vqa_accuracy",
]


def __getattr__(name: str) -> Any:
    if name not in _ACCUMULATED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mindvl.eval.metrics import accumulate

    return getattr(accumulate, name)
