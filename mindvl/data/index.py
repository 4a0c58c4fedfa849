"""The index of a shard: a small columnar file beside the tar, from which packs are planned without opening a picture.

`<shard>.index.npz` holds where each record and picture lies, how large pictures are, how many tokens the text has under
one tokenizer, where a long conversation may be cut, and checksums. It is made once per tokenizer (`mindvl data index`,
or by the first run that needs it) and made anew when the tar or the tokenizer changes.

    row  key  text_tokens  answer_tokens  shows                    rows of the picture columns   image_frame
    0    a    31           4              a picture                0                             -1
    1    b    58           20             a picture and a video    1, 2, 3, 4                    -1 0 1 2
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, fields

import numpy as np

from mindvl.data.storage import FileVersion, read_whole, write_whole

FORMAT = 4
"""Raised when the columns change their meaning, or samples their pictures' order; older files are made anew."""


@dataclass(frozen=True)
class ShardFacts:
    """What the index says of the tar as a whole."""

    size_bytes: int
    mark: str
    """Version mark of the tar when it was read, see `mindvl.data.storage.FileVersion`."""
    checksum: str
    """xxh3-128 of all bytes."""
    tokenizer: str
    """Fingerprint of the tokenizer that counted the tokens."""
    problems: tuple[str, ...]
    """Reasons, by the numbers of the `problem` column; number 0 is no problem."""
    ignored_members: int
    """Files that belong to no sample: without an extension, or of a kind that holds neither text nor picture."""
    format: int = FORMAT


@dataclass(frozen=True)
class ShardIndex:
    """Columns over the samples of one shard, over their pictures, and over places where a conversation may be cut."""

    facts: ShardFacts
    keys: np.ndarray
    """UTF-8 of all keys, end to end."""
    key_end: np.ndarray
    record_offset: np.ndarray
    record_bytes: np.ndarray
    record_kind: np.ndarray
    """Position in `mindvl.data.records.RECORD_KINDS`."""
    text_tokens: np.ndarray
    """Tokens of the conversation with one placeholder per picture or video."""
    answer_tokens: np.ndarray
    """Supervised tokens when answers are learnt."""
    spoken_tokens: np.ndarray
    """Supervised tokens when the user's words are learnt too."""
    turns: np.ndarray
    """Answers in the conversation."""
    checksum: np.ndarray
    """xxh3-64 of the record and the picture files, end to end."""
    problem: np.ndarray
    """Why the sample cannot be used, as a number into `facts.problems`; 0 for a good one."""
    first_image: np.ndarray
    """Samples + 1: picture files of sample i are rows first_image[i] to first_image[i+1]."""
    image_offset: np.ndarray
    image_bytes: np.ndarray
    image_height: np.ndarray
    image_width: np.ndarray
    image_frame: np.ndarray
    """-1 for a still picture, else the number of this frame in its video."""
    first_cut: np.ndarray
    """Samples + 1: earlier ends of sample i, shortest first, are rows first_cut[i] to first_cut[i+1]."""
    cut_messages: np.ndarray
    cut_tokens: np.ndarray
    cut_answers: np.ndarray
    cut_spoken: np.ndarray
    cut_images: np.ndarray
    """Pictures and videos before the cut."""

    def __len__(self) -> int:
        return len(self.text_tokens)

    def key(self, row: int) -> str:
        start = int(self.key_end[row - 1]) if row else 0
        return bytes(self.keys[start : int(self.key_end[row])]).decode()

    def reason(self, row: int) -> str:
        """Why the sample cannot be used; empty for a good one."""
        return self.facts.problems[int(self.problem[row])]

    @property
    def num_videos(self) -> int:
        return int((self.image_frame == 0).sum())

    @property
    def num_images(self) -> int:
        """Still pictures."""
        return int((self.image_frame < 0).sum())

    def problem_counts(self) -> dict[str, int]:
        """Samples that cannot be used, by reason."""
        counts = np.bincount(self.problem, minlength=len(self.facts.problems))
        return {self.facts.problems[number]: int(counts[number]) for number in np.flatnonzero(counts) if number}

    def problem_examples(self) -> dict[str, str]:
        """The first key of each reason."""
        numbers, rows = np.unique(self.problem, return_index=True)
        return {
            self.facts.problems[number]: self.key(row)
            for number, row in zip(numbers.tolist(), rows.tolist(), strict=True)
            if number
        }


COLUMNS = tuple(item.name for item in fields(ShardIndex) if item.name != "facts")


def save_index(index: ShardIndex, location: str) -> None:
    """Write the index whole. Raises ValueError when the place cannot be written."""
    buffer = io.BytesIO()
    facts = np.frombuffer(json.dumps(index.facts.__dict__).encode(), np.uint8)
    np.savez(buffer, facts=facts, **{name: getattr(index, name) for name in COLUMNS})
    write_whole(location, buffer.getvalue())


def read_index(location: str) -> ShardIndex | None:
    """The stored index, or None when there is none that this version can read."""
    data = read_whole(location)
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            if {*stored.files} != {"facts", *COLUMNS}:
                return None
            facts = json.loads(stored["facts"].tobytes())
            columns = {name: stored[name] for name in COLUMNS}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile):  # cut short or foreign: made anew
        return None
    if facts.get("format") != FORMAT:
        return None
    return ShardIndex(ShardFacts(**{**facts, "problems": tuple(facts["problems"])}), **columns)


def fits(index: ShardIndex, version: FileVersion, tokenizer: str) -> bool:
    """Whether an index was made of this version of the tar with this tokenizer."""
    facts = index.facts
    return (facts.size_bytes, facts.mark, facts.tokenizer) == (version.size_bytes, version.mark, tokenizer)
