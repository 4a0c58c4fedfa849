"""A sample before any tokenizer has seen it: a record and its picture files.

What importers make, what the steps of a data recipe pass on, and what a shard holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RawSample:
    """One conversation: `record["messages"]` in transformers' chat format, one `{"type": "image"}` part per picture.

    Whatever else the record holds (source, licence, scores of filters) travels with it.
    """

    key: str
    record: dict[str, Any]
    images: tuple[bytes, ...] = ()
    """Encoded picture files (PNG, JPEG, ...), in the order of their placeholders."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.record["messages"]
