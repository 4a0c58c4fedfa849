"""From the members of a sample to messages and pictures: the layouts that shards of the field use.

    ours, and webdataset's         a.json {"messages": [...]}      a.0.png a.1.jpg
    caption pairs (img2dataset)    a.jpg a.txt                     a.jpg a.json {"caption": "..."}
    question and answer            a.jpg a.json {"question": "...", "answer": "..."}
    a video between two pictures   a.json           a.0.png a.1.0000.jpg a.1.0001.jpg a.1.0002.jpg a.2.png

A pair becomes a conversation in which the user shows the picture and the assistant says the caption. Members that hold
neither text nor picture are left alone; nothing is ever unpickled.

A video is a run of picture files, one per frame, and no container: the index learns sizes from their headers, any
range of frames is a range of bytes, a worker decodes frames with what it decodes pictures with, and webdataset reads
them too. A frame costs the 512 bytes of its tar header; motion is not compressed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from mindvl.data.raw import Visual
from mindvl.data.tar import Member

IMAGE_EXTENSIONS = frozenset(("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"))
RECORD_KINDS = ("json", "txt")
_CAPTION_KEYS = ("caption", "text")
_FRAME = re.compile(r"(?P<number>[0-9]+)\.(?P<frame>[0-9]+)\.[a-z]+")
_NUMBER = re.compile(r"([0-9]+)")


def group_members(members: Iterable[Member]) -> dict[str, dict[str, list[Member]]]:
    """Members by sample key and extension, in the order of the tar; a list longer than one is a duplicate."""
    samples: dict[str, dict[str, list[Member]]] = {}
    for member in members:
        parts = member.key_and_extension
        if parts is None or member.name.startswith("__"):
            continue  # webdataset's own rule: no key, no sample; __name__ is about the shard
        key, extension = parts
        samples.setdefault(key, {}).setdefault(extension, []).append(member)
    return samples


def picture_members(extensions: dict[str, list[Member]]) -> list[Member]:
    """A sample's pictures and frames in order: of one word by their numbers, of different words as in the tar.

    `png` comes first and files that begin with a number next: png 0.png 10.jpg, then left2.png left10.png right.png.
    """
    names = [name for name in extensions if name.rsplit(".", 1)[-1] in IMAGE_EXTENSIONS]
    parts = {name: _words_and_numbers(name) for name in names}
    place = {parts[name][0]: number for number, name in reversed([*enumerate(names)])} | {"": -1}
    return [extensions[name][0] for name in sorted(names, key=lambda name: (place[parts[name][0]], parts[name], name))]


def _words_and_numbers(extension: str) -> list[str | int]:
    """`img_10.png` is img_, 10 and an empty word: words and numbers take turns, so lists of them can be compared."""
    stem = extension.rpartition(".")[0]
    return [int(part) if place % 2 else part for place, part in enumerate(_NUMBER.split(stem))]


def frame_numbers(members: Sequence[Member]) -> list[int]:
    """-1 for each still picture, and 0, 1, 2, ... for the frames of each video; members as `picture_members` sorts."""
    numbers: list[int] = []
    video = None
    for member in members:
        parts = member.key_and_extension
        found = _FRAME.fullmatch(parts[1]) if parts else None
        if found is None:
            numbers.append(-1)
        else:
            numbers.append(numbers[-1] + 1 if int(found["number"]) == video else 0)
        video = int(found["number"]) if found else None
    return numbers


def as_visuals(files: Sequence[bytes], frames: Sequence[int]) -> list[Visual]:
    """Picture files as pictures and videos, by the frame numbers of the files."""
    visuals: list[bytes | list[bytes]] = []
    for file, frame in zip(files, frames, strict=True):
        if frame < 0:
            visuals.append(file)
        elif frame == 0:
            visuals.append([file])
        else:
            last = visuals[-1]
            assert isinstance(last, list)
            last.append(file)
    return [visual if isinstance(visual, bytes) else tuple(visual) for visual in visuals]


def record_members(extensions: dict[str, list[Member]]) -> list[tuple[str, Member]]:
    """The members that may hold the text, with their kind: `json` is tried before `txt`."""
    return [(name, extensions[name][0]) for name in RECORD_KINDS if name in extensions]


def members_problem(extensions: dict[str, list[Member]]) -> str:
    """Why the files of a sample are none that can be learnt from; empty if they may be."""
    if not record_members(extensions):
        return "no .json or .txt record"
    return "a member is there twice" if any(len(members) > 1 for members in extensions.values()) else ""


def parse_record(data: bytes, *, kind: str, num_images: int) -> dict:
    """The record of a sample, with `messages`.

    Raises ValueError when it is no UTF-8, no JSON, or says nothing that can be learnt; what comes before the colon of
    its text is the same for all records that are wrong in that way.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the record is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from error
    if kind == "txt":
        return {"messages": _exchange(None, text.strip(), num_images)}
    try:
        record = json.loads(text)
    except RecursionError as error:
        raise ValueError("the record is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"the record is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError("the record is no JSON object")
    if "messages" in record:
        if not isinstance(record["messages"], list):
            raise ValueError("the record has no list of `messages`")
        return record
    question = record.get("question")
    answer = record.get("answer") if question is not None else None
    if isinstance(question, str) and isinstance(answer, str):
        return {**record, "messages": _exchange(question, answer, num_images)}
    for key in _CAPTION_KEYS:
        if isinstance(record.get(key), str):
            return {**record, "messages": _exchange(None, record[key].strip(), num_images)}
    raise ValueError("the record has no list of `messages`, no `caption` and no `question` with `answer`")


def _exchange(question: str | None, answer: str, num_images: int) -> list[dict]:
    content: list[dict] = [{"type": "image"} for _ in range(num_images)]
    if question is not None:
        content.append({"type": "text", "text": question})
    if not content:
        raise ValueError("a caption without a picture")
    return [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
