"""Foreign conversations as turns of text and slots for pictures and videos, whatever the format's roles and marks.

    {"from": "human", "value": "<image>\nWhat is it?"}   ->   Turn("user", [Slot(), "What is it?"])
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}       -> the same

Only a mark in a user's turn stands for a picture. In anyone else's turn, and in text parts of the second form,
`<image>` is seven characters of text, and so is everything that spells a special token, in every turn. `<video>`, which
people also write when they ask about HTML, is a mark in records that have videos.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mindvl.data.importing.outcome import Refusal

_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt", "bard", "bing"), "assistant"),
}
_MARK = "<image>"
# Qwen-VL's first format names the file inside the text and numbers it: `Picture 1: <img>a.jpg</img>`.
_MARK_OR_PATH = r"(?P<label>Picture \d+: ?)?(?:<img>(?P<path>.*?)</img>|<image>)"
_PARTS = ("text", "image", "image_url", "video", "video_url")
_VIDEO_MARK = "(?P<video><video>)"
_STILL = re.compile(r"\.(jpe?g|png|webp|bmp|tiff?)$", re.IGNORECASE)
_OTHER_MEDIA = {
    **dict.fromkeys(("audio", "audios"), "sound is not supported yet"),
    "tools": "calls of tools are not supported yet",
}


@dataclass(frozen=True)
class Slot:
    """Where a picture or video stands. `reference` says which one if the text does; None is the next of a list."""

    reference: Any = None
    kind: Literal["image", "video"] = "image"
    fps: float | None = None
    """Frames shown in a second, where a part says so of the frames that it lists."""
    label: str = ""
    """"Picture 2: " as written in front of it: text where there are several to tell apart, else dropped."""


@dataclass(frozen=True)
class Turn:
    role: str
    pieces: list[str | Slot]


def parse_turns(listed: Any, *, inline_paths: bool = False, video_marks: bool = False) -> list[Turn]:
    """Turns of a list of {"from", "value"}, {"role", "content"} or {"user", "assistant"} objects.

    `inline_paths` reads `<img>path</img>` as a picture, `video_marks` reads `<video>` as a video. Raises Refusal for
    what is no conversation.
    """
    pattern = _MARK_OR_PATH if inline_paths else _MARK
    marks = re.compile(f"{pattern}|{_VIDEO_MARK}" if video_marks else pattern, re.DOTALL)
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
            turns.append(Turn(role, _pieces(content, role, marks)))
    return turns


def refuse_other_media(record: Mapping[str, Any]) -> None:
    """Raises Refusal for a record whose fields hold sound or tools."""
    for name, reason in _OTHER_MEDIA.items():
        if record.get(name):
            raise Refusal(reason)


def as_list(value: Any) -> list[Any]:
    """The pictures of a field: none for an absent or empty one, one, or many."""
    if value is None or value == "":
        return []
    return [item for item in value if item is not None] if isinstance(value, list) else [value]


def videos_of(value: Any) -> list[Any]:
    """The videos of a field: like pictures, but a plain list of picture files is the frames of one video."""
    videos = as_list(value)
    return [videos] if videos and all(isinstance(v, str) and _STILL.search(v) for v in videos) else videos


def _pieces(content: Any, role: str, marks: re.Pattern[str]) -> list[str | Slot]:
    if isinstance(content, str):
        if role != "user":
            return [content]
        return _tidy(_split(content, marks))
    if not isinstance(content, Sequence):
        raise Refusal("a turn has no text")
    pieces: list[str | Slot] = []
    for part in content:
        kind = (part.get("type") or _untold_kind(part)) if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            pieces.append(part["text"])
        elif kind in ("image", "image_url"):
            pieces.append(Slot(_reference(part, "image")))
        elif kind in ("video", "video_url"):
            pieces.append(Slot(_reference(part, "video"), "video", _number(part.get("sample_fps"))))
        else:
            raise Refusal("a part of a turn is neither text nor picture")
    return pieces


def _untold_kind(part: Mapping[str, Any]) -> str | None:
    """Qwen's own format leaves `type` out: {"image": "a.jpg"}, {"text": "What?"}; None where it could be several."""
    held = [kind for kind in _PARTS if part.get(kind) is not None]
    return held[0] if len(held) == 1 else None


def _split(text: str, pattern: re.Pattern[str]) -> list[str | Slot]:
    pieces: list[str | Slot] = []
    end = 0
    for found in pattern.finditer(text):
        groups = found.groupdict()
        kind: Literal["image", "video"] = "video" if groups.get("video") else "image"
        pieces += [text[end : found.start()], Slot(groups.get("path"), kind, label=groups.get("label") or "")]
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


def _number(value: Any) -> float | None:
    """A number above 0, perhaps written as text; None for all else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < 1e6 else None


def _reference(part: Mapping[str, Any], kind: str) -> Any:
    for name in (kind, "path", "url", f"{kind}_url"):
        value = part.get(name)
        if isinstance(value, Mapping) and "url" in value:
            value = value["url"]
        if value:
            return value
    return None
