"""Turns, pictures and videos become a sample: slots are filled in order, counted, and all is checked as in training.

turns  user [Slot, "Which is older?", Slot], assistant ["the first"]      pictures ["a.png", "b.jpg"]
->     {"messages": [user: image, text, image; assistant: text], "source": "notes", "id": "12",
        "image_files": ["a.png", "b.jpg"], "meta": {...}},  and two files
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mindvl.data.chat import check_messages
from mindvl.data.importing.outcome import Refusal, Rejected
from mindvl.data.importing.pictures import PictureFolder, is_data_url
from mindvl.data.importing.turns import Slot, Turn
from mindvl.data.importing.videos import FrameSampling, load_video
from mindvl.data.raw import RawSample, Visual
from mindvl.data.reasons import reason_of
from mindvl.data.shard_writer import encode_record, safe_key

_USUAL_SAMPLING = FrameSampling()


@dataclass(frozen=True)
class Draft:
    """A foreign record after its format has been understood."""

    turns: list[Turn]
    pictures: list[Any]
    """What the record lists, for the slots that name no picture themselves."""
    videos: list[Any] = field(default_factory=list)
    pictures_first: bool = False
    """If no slot is to be found, all pictures stand before the first question; else that is a refusal."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Fields that mean nothing here and travel with the sample."""


def record_id(record: Mapping[str, Any], number: str) -> str:
    """The record's own id as text, or its number in the file."""
    found = record.get("id")
    return str(found) if isinstance(found, str | int) and found != "" else number


def make_sample(
    draft: Draft, folder: PictureFolder, *, id: str, source: str, sampling: FrameSampling = _USUAL_SAMPLING
) -> RawSample:
    """Reads pictures and videos and writes the record. Raises Refusal with the reason if it would be no good sample."""
    turns = _filled(draft)
    slots = [piece for turn in turns for piece in turn.pieces if isinstance(piece, Slot)]
    messages: list[dict[str, Any]] = [
        {"role": turn.role, "content": [part for piece in turn.pieces for part in _parts(piece, len(slots))]}
        for turn in turns
    ]
    for message in messages:
        if message["role"] == "user" and not any(part["type"] != "text" or part["text"] for part in message["content"]):
            raise Refusal("a user's turn is empty")
    try:
        check_messages(messages)
    except ValueError as error:
        raise Refusal(reason_of(error)) from error
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers:
        raise Refusal("there is no answer by the assistant")
    if any(not "".join(part["text"] for part in answer).strip() for answer in answers):
        raise Refusal("a message is an empty answer")
    record: dict[str, Any] = {"messages": messages, "source": source, "id": id}
    for kind in ("image", "video"):
        files = [name for slot in slots if slot.kind == kind and (name := _file_name(slot.reference))]
        record |= {f"{kind}_files": files} if files else {}
    record |= {"meta": draft.meta} if draft.meta else {}
    try:
        encode_record(record)
    except ValueError as error:
        raise Refusal("the record cannot be written as JSON (NaN, or half a character)") from error
    visual_parts = (part for message in messages for part in message["content"] if part["type"] != "text")
    visuals: list[Visual] = []
    for slot, part in zip(slots, visual_parts, strict=True):
        if slot.kind == "image":
            visuals.append(folder.load(slot.reference))
            continue
        video = load_video(slot.reference, folder, sampling)
        visuals.append(video.frames)
        if (fps := video.fps or slot.fps) is not None:
            part["fps"] = fps
    return RawSample(safe_key(id), record, tuple(visuals))


def _filled(draft: Draft) -> list[Turn]:
    """The turns with a reference in every slot."""
    turns = draft.turns
    if draft.videos and not draft.pictures and not _open_slots(turns, "video"):
        turns = [Turn(turn.role, [_as_video(piece) for piece in turn.pieces]) for turn in turns]
    return _filled_with(draft.videos, "video", _filled_with(draft.pictures, "image", turns, draft.pictures_first))


def _as_video(piece: str | Slot) -> str | Slot:
    """LLaVA-Video marks the place of its videos by `<image>`."""
    return replace(piece, kind="video") if isinstance(piece, Slot) and piece.reference is None else piece


def _is_open(piece: str | Slot, kind: str) -> bool:
    return isinstance(piece, Slot) and piece.kind == kind and piece.reference is None


def _open_slots(turns: list[Turn], kind: str) -> int:
    return sum(_is_open(piece, kind) for turn in turns for piece in turn.pieces)


def _filled_with(waiting: list[Any], kind: str, turns: list[Turn], pictures_first: bool = False) -> list[Turn]:
    """The turns with what is waiting, all of one kind, in the open slots of that kind."""
    open_slots = _open_slots(turns, kind)
    if open_slots == 0 and waiting and pictures_first:
        first = next((number for number, turn in enumerate(turns) if turn.role == "user"), None)
        if first is None:
            raise Refusal("there is no question by the user")
        question = Turn("user", [*(Slot() for _ in waiting), *turns[first].pieces])
        turns, open_slots = [*turns[:first], question, *turns[first + 1 :]], len(waiting)
    if open_slots != len(waiting):
        more, noun = "more" if open_slots > len(waiting) else "fewer", "pictures" if kind == "image" else "videos"
        raise Refusal(f"there are {more} marks for {noun} than {noun}")
    references = iter(waiting)

    def fill(piece: str | Slot) -> str | Slot:
        if isinstance(piece, Slot) and _is_open(piece, kind):
            return replace(piece, reference=next(references))
        return piece

    return [Turn(turn.role, [fill(piece) for piece in turn.pieces]) for turn in turns]


def _parts(piece: str | Slot, num_pictures: int) -> list[dict[str, Any]]:
    if isinstance(piece, str):
        return [{"type": "text", "text": piece}]
    label = [{"type": "text", "text": piece.label}] if piece.label and num_pictures > 1 else []
    return [*label, {"type": piece.kind}]


def _file_name(reference: Any) -> str | None:
    if isinstance(reference, Mapping):
        reference = reference.get("path")
    return reference if isinstance(reference, str) and not is_data_url(reference) else None


class UniqueKeys:
    """Gives the second sample of one key the key "...~~2": ids of public data sets do repeat, and tars must not."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self.repeats = 0

    def __call__(self, sample: RawSample) -> RawSample:
        count = self._seen[sample.key] = self._seen.get(sample.key, 0) + 1
        if count == 1:
            return sample
        self.repeats += 1
        return RawSample(f"{sample.key}~~{count}", sample.record, sample.images)


Imported = RawSample | Rejected
