"""LLaVA, ShareGPT and Qwen-VL: three dialects of one idea, a JSON list of conversations with marks for pictures.

    llava     {"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}
    sharegpt  {"messages": [{"role": "user", "content": "<image>What?"}, ...], "images": ["a.jpg"], "system": "Hi."}
    qwen      {"image": ["a.jpg", "b.jpg"], "conversations": [{"from": "human", "value": "<image><image>What?"}, ...]}
          or  {"conversations": [{"from": "user", "value": "Picture 1: <img>a.jpg</img>\\nWhat?"}, ...]}
    videos    {"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhat happens?"}, ...]}

A video is a file, a folder of frames or a list of frame files (`mindvl.data.importing.videos`), in any dialect. A
record whose marks and pictures differ in number is rejected: nobody can tell which question had which picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mindvl.data.importing.outcome import Refusal, Rejected
from mindvl.data.importing.pictures import PictureFolder
from mindvl.data.importing.records import read_records
from mindvl.data.importing.sample import Draft, Imported, make_sample, record_id
from mindvl.data.importing.turns import Turn, as_list, parse_turns, refuse_other_media, videos_of
from mindvl.data.importing.videos import FrameSampling

_USUAL_SAMPLING = FrameSampling()
_UNDERSTOOD = ("id", "image", "images", "video", "videos", "conversations", "messages", "system")


def import_llava(
    path: Path, images: Path, *, source: str = "llava", sampling: FrameSampling = _USUAL_SAMPLING
) -> Iterator[Imported]:
    """Samples of a LLaVA file (`.json` or `.jsonl`) whose pictures lie under the folder `images`."""
    return _import(path, images, _llava, source, sampling)


def import_sharegpt(
    path: Path, images: Path, *, source: str = "sharegpt", sampling: FrameSampling = _USUAL_SAMPLING
) -> Iterator[Imported]:
    """Samples of a ShareGPT file, or of LLaMA-Factory's version of it with `messages` and `images`."""
    return _import(path, images, _sharegpt, source, sampling)


def import_qwen(
    path: Path, images: Path, *, source: str = "qwen", sampling: FrameSampling = _USUAL_SAMPLING
) -> Iterator[Imported]:
    """Samples of a Qwen-VL fine-tuning file: marks with an `image` field, or the older paths inside the text."""
    return _import(path, images, _qwen, source, sampling)


def guess_format(records: list[dict[str, Any]]) -> str | None:
    """ "llava", "sharegpt" or "qwen" by the look of some records; None if they have no conversations at all."""
    if any(not record.keys().isdisjoint(("messages", "images", "videos")) for record in records):
        return "sharegpt"
    turns = [turn for record in records for turn in as_list(record.get("conversations")) if isinstance(turn, dict)]
    if not turns:
        return None
    inline = any("<img>" in str(turn.get("value")) for turn in turns)
    several = any(isinstance(record.get("image"), list) or "video" in record for record in records)
    qwen_roles = any(turn.get("from") in ("user", "assistant") for turn in turns)
    return "qwen" if inline or several or qwen_roles else "llava"


def _import(
    path: Path, images: Path, read: Callable[[Mapping[str, Any]], Draft], source: str, sampling: FrameSampling
) -> Iterator[Imported]:
    folder = PictureFolder(images)
    for entry in read_records(path):
        if isinstance(entry, Rejected):
            yield entry
            continue
        number, record = entry
        id = record_id(record, number)
        try:
            refuse_other_media(record)
            yield make_sample(read(record), folder, id=id, source=source, sampling=sampling)
        except Refusal as refusal:
            yield refusal.of(id)


def _llava(record: Mapping[str, Any]) -> Draft:
    return _draft(record, parse_turns(record.get("conversations"), video_marks=bool(_videos(record))))


def _sharegpt(record: Mapping[str, Any]) -> Draft:
    turns = parse_turns(record.get("messages") or record.get("conversations"), video_marks=bool(_videos(record)))
    system = record.get("system")
    if isinstance(system, str) and system and turns[0].role != "system":
        turns = [Turn("system", [system]), *turns]
    return _draft(record, turns)


def _qwen(record: Mapping[str, Any]) -> Draft:
    listed = record.get("conversations") or record.get("messages")
    return _draft(record, parse_turns(listed, inline_paths=True, video_marks=True))


def _draft(record: Mapping[str, Any], turns: list[Turn]) -> Draft:
    meta = {name: value for name, value in record.items() if name not in _UNDERSTOOD}
    pictures = as_list(record.get("images")) or as_list(record.get("image"))
    return Draft(turns, pictures, _videos(record), meta=meta)


def _videos(record: Mapping[str, Any]) -> list[Any]:
    return videos_of(record.get("videos")) or videos_of(record.get("video"))
