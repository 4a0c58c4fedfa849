"""A chat template, cut where the texts stand in it: what is tokenized in one piece, and whose words it holds.

    <|im_start|>  user\\n HELLO  <|im_end|>\\n<|im_start|>assistant\\n  <think>\\n\\n</think>\\n\\n HI  <|im_end|>\\n
    fixed         words          fixed                                words, learnt whole           fixed

Control tokens are the template's alone and bound the pieces, so a question is tokenized together with the plain words
of the template around it, as transformers does: "user\\n" and a question that begins with a line break share a token.
An answer begins where the generation prompt ends, in tokens too. What a template puts between the two, as Qwen3's
empty thoughts of the last turn, is a part of the answer: nobody else would write it when the model is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

MARK = re.compile("\ue000(\\d+)\ue001")
"""Stands for a text while a template is rendered; no text may hold its characters."""


@dataclass(frozen=True)
class Fixed:
    """Template tokens that no text can change; `learnt` where they are the beginning of an answer."""

    ids: tuple[int, ...]
    visuals: tuple[str, ...]
    learnt: bool = False


@dataclass(frozen=True)
class Words:
    """Texts of one message, by their numbers, and the template's plain words around and between them."""

    role: str
    before: str
    inner: tuple[str | int, ...]
    after: str = ""

    def filled(self, texts: Sequence[str]) -> str:
        """What is tokenized when the template shows the texts as they are."""
        return self.around("".join([part if isinstance(part, str) else texts[part] for part in self.inner]))

    def around(self, shown: str) -> str:
        """What is tokenized when the template shows this in their place."""
        return f"{self.before}{shown}{self.after}"


@dataclass(frozen=True)
class Layout:
    """One shape of conversation: its pieces in order, and the template's text before, between and behind the words."""

    pieces: tuple[Fixed | Words, ...]
    literals: tuple[str, ...]

    @cached_property
    def words(self) -> tuple[Words, ...]:
        return tuple(piece for piece in self.pieces if isinstance(piece, Words))

    @cached_property
    def visuals(self) -> tuple[str, ...]:
        """Placeholders, of which the template alone has any."""
        return tuple(kind for piece in self.pieces if isinstance(piece, Fixed) for kind in piece.visuals)

    @cached_property
    def fixed_tokens(self) -> int:
        return sum(len(piece.ids) for piece in self.pieces if isinstance(piece, Fixed))

    @cached_property
    def fixed_targets(self) -> int:
        """Fixed tokens that are learnt: those that open an answer, and the one that ends each."""
        opening = sum(len(piece.ids) for piece in self.pieces if isinstance(piece, Fixed) and piece.learnt)
        return opening + sum(self.ends_answer(number) for number in range(len(self.pieces)))

    def ends_answer(self, number: int) -> bool:
        """Whether the piece's first token ends an assistant's turn: it is learnt, or the model would never stop."""
        before = self.pieces[number - 1] if number else None
        return isinstance(self.pieces[number], Fixed) and isinstance(before, Words) and before.role == "assistant"

    def found(self, rendered: str) -> list[str]:
        """What a rendering shows in place of each of the words; ValueError when it is no rendering of this shape."""
        shown, end = [], len(self.literals[0])
        fits = rendered.startswith(self.literals[0])
        for number, literal in enumerate(self.literals[1:], 1):
            start, last = end, number == len(self.literals) - 1
            end = len(rendered) - len(literal) if last else rendered.find(literal, start)
            fits = fits and end >= start and rendered.startswith(literal, end)
            shown.append(rendered[start:end])
            end += len(literal)
        if not fits:
            raise ValueError("the chat template makes something else of the conversation because of what its texts say")
        return shown


@dataclass(frozen=True)
class Template:
    """What a layout asks of a tokenizer's template."""

    prompt: Callable[[int], str]
    """The generation prompt for the assistant's message of this number, from the last text before it on."""
    control: re.Pattern[str]
    """Control tokens."""
    fixed: Callable[[str], Fixed]
    """Tokens of a piece."""
    joins: Callable[[str, str, str], bool]
    """Whether three pieces, tokenized apart, the outer two as plain words, have the tokens of all of it."""


def layout_of(pieces: Sequence[str | int], speakers: Sequence[tuple[int, str]], template: Template) -> Layout:
    """Cut a rendered template, `pieces`: its text, with numbers where the texts stand.

    `speakers` holds the number of the message and the role of each text.
    """
    gaps = _gaps(pieces, len(speakers))
    speeches = _speeches(gaps, speakers)
    roles = [speakers[texts[0]][1] for texts in speeches]
    before = [gaps[texts[0]] for texts in speeches]
    openings = [""] * len(speeches)
    for number, (role, texts) in enumerate(zip(roles, speeches, strict=True)):
        if role == "assistant":
            prompt = template.prompt(speakers[texts[0]][0])
            if before[number].startswith(prompt):
                before[number], openings[number] = prompt, before[number][len(prompt) :]
    asks = [False, *(role != "assistant" for role in roles), False]
    sides = [
        _sides(text, template, left=asks[number], right=asks[number + 1], ends=number > 0 and not asks[number])
        for number, text in enumerate([*before, gaps[-1]])
    ]
    cut: list[Fixed | Words] = []
    for number, texts in enumerate(speeches):
        cut += [template.fixed(core) for core in sides[number][1:2] if core]
        opening = openings[number]
        if template.control.search(opening):
            before[number] += opening
            cut.append(replace(template.fixed(opening), learnt=True))
            opening = ""
        inner = [part for text in texts for part in (opening if text == texts[0] else gaps[text], text) if part != ""]
        cut.append(Words(roles[number], sides[number][2], tuple(inner), sides[number + 1][0]))
    cut += [template.fixed(core) for core in sides[-1][1:2] if core]
    return Layout(tuple(cut), (*before, gaps[-1]))


def _gaps(pieces: Sequence[str | int], count: int) -> list[str]:
    """The template's text before each of `count` texts, and behind the last."""
    gaps = [""]
    for piece in pieces:
        if isinstance(piece, str):
            gaps[-1] = piece
        else:
            gaps.append("")
    assert len(gaps) == count + 1
    return gaps


def _speeches(gaps: Sequence[str], speakers: Sequence[tuple[int, str]]) -> list[list[int]]:
    """Texts that are one speech: of an answer all of them, of another message those that nothing parts."""
    speeches: list[list[int]] = []
    for text, (message, role) in enumerate(speakers):
        if text and speakers[text - 1] == (message, role) and (role == "assistant" or not gaps[text]):
            speeches[-1].append(text)
        else:
            speeches.append([text])
    return speeches


def _sides(text: str, template: Template, *, left: bool, right: bool, ends: bool) -> tuple[str, str, str]:
    """What joins the words before (if `left`), what is fixed, and what joins the words behind (if `right`).

    Without control tokens all of it joins the words behind, or else those before, unless it `ends` an answer. Texts
    that only plain words of a template part, which is rare, are two pieces still.
    """
    tokens = list(template.control.finditer(text))
    if tokens:
        lead = text[: tokens[0].start()] if left else ""
        tail = text[tokens[-1].end() :] if right else ""
    else:
        lead = text if left and not right else ""
        tail = text if right and not ends else ""
    core = text[len(lead) : len(text) - len(tail)]
    return (lead, core, tail) if template.joins(lead, core, tail) else ("", text, "")
