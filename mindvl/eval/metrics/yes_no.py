"""Yes or no, read out of an answer; nothing differs more between the harnesses.

                      lmms-eval    VLMEvalKit
"Yes."                yes          yes
"y"                   yes          None           a letter is enough, or a word is needed
"The answer is yes"   None         yes            the first four characters, or words anywhere
"Not sure"            no           None           "no" inside the first four characters
"yes and no"          yes          None           the first, or both and so neither
"**Yes**"             None         None
"""

from __future__ import annotations

from typing import Literal

from mindvl.eval.metrics.compat import LMMS_EVAL, Text, as_answer, check_compat
from mindvl.eval.metrics.vqa import strip_punctuation

PREFIX_CHARS = 4


def extract_yes_no(prediction: Text | None, *, compat: str = LMMS_EVAL) -> Literal["yes", "no"] | None:
    """What the answer says; None where the rule finds neither (the harnesses' "other" and "Unknown")."""
    check_compat(compat)
    answer = as_answer(prediction)
    if answer is None:
        return None
    said = answer.lower()
    if compat != LMMS_EVAL:
        words = strip_punctuation(said, compat=compat).split()
        yes, no = "yes" in words, "no" in words
        return None if yes == no else "yes" if yes else "no"
    said = said.strip().replace(".", "")
    if len(said) == 1:
        return "yes" if said == "y" else "no" if said == "n" else None
    start = said[:PREFIX_CHARS]
    return "yes" if "yes" in start else "no" if "no" in start else None
