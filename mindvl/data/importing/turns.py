"""Foreign conversations as turns of text and picture slots, whatever the format calls its roles and marks.

    {"from": "human", "value": "<image>\nWhat is it?"}   ->   Turn("user", [Slot(), "What is it?"])
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}       -> the same

Only a mark in a user's turn stands for a picture. In anyone else's turn, and in text parts of the second form,
`<image>` is seven characters of text, and so is everything that spells a special token, in every turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindvl.data.importing.outcome import Refusal

_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt", "bard", "bing"), "assistant"),
}
_MARK = re.compile("<image>")
# Qwen-VL's first format names the file inside the text and numbers it: `Picture 1: <img>a.jpg</img>`.
_MARK_OR_PATH = re.compile(r"(?P<label>Picture \d+: ?)?(?:<img>(?P<path>.*?)</img>|<image>)", re.DOTALL)
_OTHER_MEDIA = {
    **dict.fromkeys(("video", "videos"), "videos are not supported yet"),
    **dict.fromkeys(("audio", "audios"), "sound is not supported yet"),
    "tools": "calls of tools are not supported yet",
}


@dataclass(frozen=True)
class Slot:
    """Where a picture stands. `reference` says which one if the text does; None is the next of the record's list."""

    reference: Any = None
    label: str = ""
    """"Picture 2: " as written in front of it: text where there are several to tell apart, else dropped."""


@dataclass(frozen=True)
class Turn:
    role: str
    pieces: list[str | Slot]


def parse_turns(listed: Any, *, inline_paths: bool = False) -> list[Turn]:
    """Turns of a list of {"from", "value"}, {"role", "content"} or {"user", "assistant"} objects.

    `inline_paths` reads `<img>path</img>` as a picture. Raises Refusal for what is no conversation.
    """
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise Refusal("there is no list of turns")
    turns = []
    for item in listed:
        if not isinstance(item, Mapping):
            raise Refusal("a turn is not an object")
        if "user" in item and "assistant" in item:
            said = [("user", item["user"]), ("assistant", item["assistant"])]
        else:
            said = [(item.get("from", item.get("role")), item.get("value", item.get("content")))]
        for name, content in said:
            role = _ROLES.get(name.lower()) if isinstance(name, str) else None
            if role is None:
                raise Refusal(f"the role {str(name)[:30]!r} is unknown")
            turns.append(Turn(role, _pieces(content, role=role, inline_paths=inline_paths)))
    return turns


def refuse_other_media(record: Mapping[str, Any]) -> None:
    """Raises Refusal for a record whose fields hold videos, sound or tools."""
    for name, reason in _OTHER_MEDIA.items():
        if record.get(name):
            raise Refusal(reason)


def as_list(value: Any) -> list[Any]:
    """The pictures of a field: none for an absent or empty one, one, or many."""
    if value is None or value == "":
        return []
    return [item for item in value if item is not None] if isinstance(value, list) else [value]


def _pieces(content: Any, *, role: str, inline_paths: bool) -> list[str | Slot]:
    if isinstance(content, str):
        if role != "user":
            return [content]
        if inline_paths and "<video>" in content:
            raise Refusal("videos are not supported yet")
        return _tidy(_split(content, _MARK_OR_PATH if inline_paths else _MARK))
    if not isinstance(content, Sequence):
        raise Refusal("a turn has no text")
    pieces: list[str | Slot] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            pieces.append(part["text"])
        elif kind in ("image", "image_url"):
            pieces.append(Slot(_reference(part)))
        elif kind in ("video", "video_url"):
            raise Refusal("videos are not supported yet")
        else:
            raise Refusal("a part of a turn is neither text nor picture")
    return pieces


def _split(text: str, pattern: re.Pattern[str]) -> list[str | Slot]:
    pieces: list[str | Slot] = []
    end = 0
    for found in pattern.finditer(text):
        groups = found.groupdict()
        pieces += [text[end : found.start()], Slot(groups.get("path"), groups.get("label") or "")]
        end = found.end()
    return [*pieces, text[end:]]


def _tidy(pieces: list[str | Slot]) -> list[str | Slot]:
    """Line breaks next to a mark belong to the file format (`<image>\\n`), not to what was asked."""
    tidied: list[str | Slot] = []
    for number, piece in enumerate(pieces):
        if isinstance(piece, str):
            if number > 0:
                piece = piece.lstrip("\r\n")
            if number < len(pieces) - 1:
                piece = piece.rstrip("\r\n")
        if piece != "":
            tidied.append(piece)
    return tidied


def _reference(part: Mapping[str, Any]) -> Any:
    for name in ("image", "path", "url", "image_url"):
        value = part.get(name)
        if isinstance(value, Mapping) and "url" in value:
            value = value["url"]
        if value:
            return value
    return None
