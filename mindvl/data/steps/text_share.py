"""Holding the share of text without pictures, whatever the filters before it have dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mindvl.data.raw import RawSample
from mindvl.data.steps.corpus import Entry
from mindvl.data.steps.subset import draw_of
from mindvl.data.steps.text import message_text


@dataclass(frozen=True)
class TextShare:
    """Holds the share of text-only samples in training by dropping some of whichever side has too many.

    ratio: text-only over all; 0.5 is half.
    by_chars: count characters of text instead of samples. Visual tokens are not counted: they depend on the model.

    Validation and test are left alone. Who goes is drawn by the hash of the key, so no source is hit more than another.
    """

    ratio: float = 0.5
    by_chars: bool = False

    def signature(self, sample: RawSample) -> bytes:
        chars = sum(len(message_text(message)) for message in sample.messages)
        return f"{'pictures' if sample.images else 'text'} {chars}".encode()

    def verdicts(self, entries: Sequence[Entry]) -> list[str | None]:
        """Raises ValueError where one side is empty although the ratio asks for some of it."""
        sides: dict[str, list[tuple[float, int, int]]] = {"text": [], "pictures": []}
        for number, entry in enumerate(entries):
            if entry.split == "train":
                side, chars = entry.signature.decode().split()
                sides[side].append((draw_of(entry.key), number, int(chars) if self.by_chars else 1))
        totals = {side: sum(weight for _, _, weight in members) for side, members in sides.items()}
        wanted = {"text": self.ratio, "pictures": 1 - self.ratio}
        for side, share in wanted.items():
            if share > 0 and not totals[side] and any(totals.values()):
                raise ValueError(
                    f"text_share holds {self.ratio:g} text, but of {sum(map(len, sides.values()))} training samples "
                    f"{len(sides['text'])} are text-only and {len(sides['pictures'])} have pictures"
                )
        whole = min((totals[side] / share for side, share in wanted.items() if share > 0), default=0.0)
        verdicts: list[str | None] = [None] * len(entries)
        for side, members in sides.items():
            room = wanted[side] * whole + 1e-6
            for _, number, weight in sorted(members):
                room -= weight
                if room < 0:
                    verdicts[number] = f"surplus of samples {'without' if side == 'text' else 'with'} pictures"
        return verdicts
