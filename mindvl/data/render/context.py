"""What a family holds in its hands while it makes one document: the dice, the look, the split and the language."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from mindvl.data.render.document import Question
from mindvl.data.render.fonts import chinese_font, latin_font
from mindvl.data.render.paper import Paper, add_noise, choose_paper, photo_paper
from mindvl.data.render.phrases import PHRASES
from mindvl.data.render.split import claim
from mindvl.data.render.style import Range, Style

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """A question that could be asked about a document, before its words are chosen."""

    kind: str
    answer: str
    metric: str = "exact_match"
    fields: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Context:
    """The state of one document in the making. Every random choice comes from `rng`, in the order of the code."""

    rng: np.random.Generator
    style: Style
    split: str
    text_only: bool
    chinese: bool
    font: Path
    paper: Paper

    @property
    def on_grid(self) -> bool:
        """A text-only document is a character grid even where its pictures would be free layouts."""
        return self.text_only or self.style.cell_pixels > 0

    def between(self, bounds: Range) -> int:
        """A whole number between two bounds, both included."""
        return int(self.rng.integers(bounds[0], bounds[1] + 1))

    def chance(self, ratio: float) -> bool:
        return bool(self.rng.random() < ratio)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different options in random order."""
        if count > len(options):
            raise ValueError(f"{count} different options are asked from {len(options)}: {list(options)[:8]}")
        return [options[i] for i in self.rng.permutation(len(options))[:count]]

    def settle(self, content: str) -> str:
        """The content itself, if this document may exist in this split; call it before anything is drawn."""
        return claim(content, split=self.split)

    def ask(self, asks: Sequence[Ask]) -> list[Question]:
        """Some of the possible questions, no kind-and-subject twice, each in one of its phrasings."""
        wanted = self.style.question_kinds
        if wanted:
            possible, asks = asks, [ask for ask in asks if ask.kind in wanted]
            if not asks:
                kinds = sorted({ask.kind for ask in possible})
                raise ValueError(f"question_kinds is {list(wanted)}, but this family asks {', '.join(kinds)}")
        count = min(self.between(self.style.questions_per_picture), len(asks))
        language = "zh" if self.chinese else "en"
        return [
            Question(self.pick(PHRASES[ask.kind][language]).format(**dict(ask.fields)), ask.answer, ask.metric)
            for ask in self.sample(asks, count)
        ]

    def blank(self, size_pixels: tuple[int, int]) -> Image.Image:
        """An empty page (width, height), sometimes over a photograph."""
        if not self.on_grid and self.chance(self.style.photo_ratio):
            return photo_paper(self.rng, size_pixels, self.paper.paper)
        return Image.new("RGB", size_pixels, self.paper.paper)

    def finish(self, picture: Image.Image | np.ndarray) -> Image.Image:
        """The picture with noise over it: the last step of every drawing."""
        return Image.fromarray(add_noise(np.asarray(picture), self.rng, levels=self.style.noise_levels))


def open_context(rng: np.random.Generator, style: Style, *, split: str, text_only: bool = False) -> Context:
    """A context with its language, font and colours drawn."""
    chinese = bool(rng.random() < style.chinese_ratio)
    name = style.fonts[int(rng.integers(len(style.fonts)))]
    font = chinese_font(style.cjk_font) if chinese else latin_font(name)
    paper = choose_paper(rng, dark_ratio=style.dark_paper_ratio)
    return Context(rng, style, split, text_only, chinese, font, paper)
