"""Before phase 1, where nothing pretrained is at hand: a small language model learns to spell from text alone."""

from __future__ import annotations

from mindvl.phases.base import Phase


class LanguageOnly(Phase):
    """Trains the language model on conversations without pictures.

    MindVL starts from Qwen3 or DeepSeek-V3; this phase stands in for their pre-training when a model is made from
    nothing.
    """

    trains = ("language",)
