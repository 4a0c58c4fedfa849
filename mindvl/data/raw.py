"""A sample before any tokenizer has seen it: a record and its pictures and videos.

What importers make, what the steps of a data recipe pass on, and what a shard holds. Videos were decoded when they were
imported: a video is its frames, each a picture file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Visual = bytes | tuple[bytes, ...]
"""An encoded picture file (PNG, JPEG, ...), or the picture files of a video's frames in order."""


@dataclass(frozen=True)
class RawSample:
    """One conversation: `record["messages"]` in transformers' chat format.

    Its parts `{"type": "image"}` and `{"type": "video"}` stand for the visuals, one for one, in reading order. The part
    of a video says how many frames are shown in a second where that is known, `"fps": 2.0`; no model here reads it,
    since positions are 1-D. Whatever else the record holds (source, licence, scores of filters) travels with it.
    """

    key: str
    record: dict[str, Any]
    images: tuple[Visual, ...] = ()
    """Pictures and videos, in the order of their placeholders."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.record["messages"]

    @property
    def files(self) -> tuple[bytes, ...]:
        """All picture files, frames of videos among them."""
        return files_of(self.images)


def files_of(visuals: Sequence[Visual]) -> tuple[bytes, ...]:
    """The picture files of pictures and videos, end to end."""
    return tuple(file for visual in visuals for file in ((visual,) if isinstance(visual, bytes) else visual))


def kind_of(visual: Visual) -> str:
    """The type of the message part that stands for it: "image" or "video"."""
    return "image" if isinstance(visual, bytes) else "video"
