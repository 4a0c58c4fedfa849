"""From a harness's request to ours: messages with pictures become a `Prompt`, generation settings a `Decoding`.

    [{"role": "user", "content": [{"type": "image", "url": <PIL image>}, {"type": "text", "text": "read it"}]}]
    {"max_new_tokens": 16, "temperature": 0, "do_sample": False, "until": ["\\n\\n"]}

Pictures come decoded and are written as PNG, which loses nothing, so that they are read as any other file is. Settings
that a task gives and that change the text are followed or refused, never passed over.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from mindvl.data.importing.outcome import Refusal
from mindvl.data.importing.pictures import PictureFolder
from mindvl.data.importing.videos import FrameSampling, load_video
from mindvl.data.raw import Visual
from mindvl.phases.answering import Prompt
from mindvl.phases.decoding import Decoding

DEFAULT_MAX_NEW_TOKENS = 1024
"""Where neither the task nor the user says."""

FILLED_IN = "\n\n"
"""lmms-eval gives every task that names no stop text this one, meant for few-shot prompts. It would cut any answer of
two paragraphs, and lmms-eval's own Qwen-VL classes drop it too."""

_PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")
_NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1, "no_repeat_ngram_size": 0}
"""Settings that we know in one value only."""


def prompt_of(messages: Iterable[Mapping[str, Any]], sampling: FrameSampling) -> Prompt:
    """A conversation whose parts hold their pictures and videos (under `url`), as placeholders and files.

    Raises ValueError for a picture or video that cannot be read, NotImplementedError for audio.
    """
    ours: list[dict] = []
    visuals: list[Visual] = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "audio":
                raise NotImplementedError("the task has audio, and MindVL does not hear")
            if part["type"] == "image":
                visuals.append(picture_file(part["url"]))
            elif part["type"] == "video":
                visuals.append(video_frames(part, sampling))
        kept = [{"type": "text", "text": p["text"]} if p["type"] == "text" else {"type": p["type"]} for p in parts]
        ours.append({"role": message["role"], "content": kept})
    return Prompt(ours, tuple(visuals))


def picture_file(given: Any) -> bytes:
    """The file of a picture: its own bytes where it has any, else a PNG of its pixels, upright."""
    if isinstance(given, Mapping):
        given = given.get("bytes") or given.get("path")
    if isinstance(given, bytes):
        return given
    if isinstance(given, str | Path):
        try:
            return Path(given).read_bytes()
        except OSError as error:
            raise ValueError(f"picture {given} cannot be read: {error}") from error
    if not isinstance(given, Image.Image):
        raise ValueError(f"a picture is a {type(given).__name__}, neither an image of Pillow nor a file")
    image = ImageOps.exif_transpose(given)
    if image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    with io.BytesIO() as stream:
        image.save(stream, "PNG", compress_level=1)
        return stream.getvalue()


def video_frames(part: Mapping[str, Any], sampling: FrameSampling) -> tuple[bytes, ...]:
    """The frames of a video that is given as a file, a folder of frames, or a list of pictures."""
    given = part["url"]
    cut = [key for key in ("start_time", "end_time") if part.get(key) is not None]
    if cut or isinstance(given, Mapping):
        raise ValueError("the video is a part of a longer one, which is not cut here: import it as a file of its own")
    if isinstance(given, Sequence) and not isinstance(given, str):
        frames = [given[number] for number in sampling.indices(len(given), None)] if given else []
        return tuple(picture_file(frame) for frame in frames)
    path = Path(given)
    try:
        return load_video(path.name, PictureFolder(path.parent), sampling).frames
    except Refusal as refusal:
        raise ValueError(f"{refusal.reason} ({given})") from refusal


def decoding_of(asked: Mapping[str, Any], chosen: Mapping[str, Any]) -> Decoding:
    """Settings of an answer from a task's generation settings.

    Args:
        asked: the task's. Without `do_sample`, a temperature above 0 draws; `do_sample: false` is greedy whatever else.
        chosen: the user's `max_new_tokens`, `temperature`, `top_p`, `top_k` and `seed`, which count before the task's;
            None stands for what was not chosen.

    Raises ValueError for beams, penalties and other settings that MindVL does not follow.
    """
    for name, value in _NEUTRAL.items():
        if asked.get(name) not in (None, value):
            raise ValueError(
                f"the task asks for {name}={asked[name]}, MindVL knows {value} only; to run it nevertheless, say "
                f"--gen_kwargs {name}={value}"
            )
    chosen = {name: value for name, value in chosen.items() if value is not None}
    temperature = chosen.get("temperature", 0.0 if asked.get("do_sample") is False else asked.get("temperature"))
    if temperature is None:
        temperature = 1.0 if asked.get("do_sample") else 0.0
    drawn = asked if temperature > 0 else {}  # where nothing is drawn, a task's bounds on it play no part
    until = asked.get("until") or []
    stop = [until] if isinstance(until, str) else until
    return Decoding(
        max_new_tokens=int(chosen.get("max_new_tokens", asked.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS)),
        temperature=float(temperature),
        top_p=float(chosen.get("top_p", drawn.get("top_p") or 1)),
        top_k=int(chosen.get("top_k", drawn.get("top_k") or 0)),
        stop=tuple(text for text in stop if text and text != FILLED_IN),
        seed=int(chosen.get("seed", 0)),
    )
