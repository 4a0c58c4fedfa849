"""From the members of a sample to messages and pictures: the layouts that shards of the field use.

    ours, and webdataset's         a.json {"messages": [...]}      a.0.png a.1.jpg
    caption pairs (img2dataset)    a.jpg a.txt                     a.jpg a.json {"caption": "..."}
    question and answer            a.jpg a.json {"question": "...", "answer": "..."}

A pair becomes a conversation in which the user shows the picture and the assistant says the caption. Members that hold
neither text nor picture are left alone; nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from mindvl.data.tar import Member

IMAGE_EXTENSIONS = frozenset(("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"))
RECORD_KINDS = ("json", "txt")
_CAPTION_KEYS = ("caption", "text")


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
    """A sample's pictures in the order of their numbers: `0.png` before `10.jpg`."""
    names = [name for name in extensions if name.rsplit(".", 1)[-1] in IMAGE_EXTENSIONS]
    return [extensions[name][0] for name in sorted(names, key=_picture_order)]


def _picture_order(extension: str) -> tuple:
    number = extension.split(".", 1)[0]
    return (0, int(number), extension) if number.isdigit() else (1, 0, extension)


def record_members(extensions: dict[str, list[Member]]) -> list[tuple[str, Member]]:
    """The members that may hold the text, with their kind: `json` is tried before `txt`."""
    return [(name, extensions[name][0]) for name in RECORD_KINDS if name in extensions]


def parse_record(data: bytes, *, kind: str, num_images: int) -> dict:
    """The record of a sample, with `messages`.

    Raises ValueError when it is no UTF-8, no JSON, or says nothing that can be learnt.
    """
    text = data.decode("utf-8-sig")
    if kind == "txt":
        return {"messages": _exchange(None, text.strip(), num_images)}
    try:
        record = json.loads(text)
    except RecursionError as error:
        raise ValueError("the record is nested too deeply") from error
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
