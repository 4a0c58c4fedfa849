"""InfoVQA (arXiv 2104.12756): questions about infographics; asked and scored as DocVQA is.

The paper's column is of the test split, whose answers stay on a server; the validation split has 2,801 questions.
"""

from __future__ import annotations

from typing import ClassVar

from mindvl.eval.benchmarks.docvqa import DocVQA


class InfoVQA(DocVQA):
    """VLMEvalKit's InfoVQA_VAL.tsv, lmms-lab/DocVQA (its other half), or the server's JSON with its pictures."""

    name: ClassVar[str] = "infovqa"

    @property
    def subfolder(self) -> str | None:
        return "InfographicVQA"
