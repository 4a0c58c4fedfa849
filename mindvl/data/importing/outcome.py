"""What becomes of one foreign record: a sample, or a reason why not.

Nothing is passed over in silence. An importer yields a `Rejected` in the place of every sample that it could not make,
with a reason that holds no names or numbers of its own, so that 40,000 missing files are one line of a report:

    {"id": "12", "image": "../../secret.png", ...}   ->   Rejected("12", "the picture's path leaves the image folder")
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rejected:
    """A record that became no sample. `key` is its id, or where it stands in the file ("line 7")."""

    key: str
    reason: str
    detail: str = field(default="", compare=False)
    """What it was about in this record, for the one example that is shown of each reason: "/data/img/7.jpg"."""


class Refusal(Exception):
    """Raised inside an importer, with the reason, and caught there: it never reaches a caller."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail

    def of(self, key: str) -> Rejected:
        """The record of this key is refused."""
        return Rejected(key, self.reason, self.detail)
