"""Reading a shard once to make its index: every record, every picture's header, no pixels.

A damaged archive is an error here. A sample that cannot be used keeps its row, with the reason in it, so that what a
run leaves out can be counted without reading the shard again.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from mindvl.data.chat import ChatEncoder, ChatSize
from mindvl.data.images import image_size
from mindvl.data.index import ShardFacts, ShardIndex, fits, read_index, save_index
from mindvl.data.reasons import reason_of
from mindvl.data.records import (
    RECORD_KINDS,
    frame_numbers,
    group_members,
    members_problem,
    parse_record,
    picture_members,
    record_members,
)
from mindvl.data.storage import index_location, is_url, open_for_reading, version_of
from mindvl.data.tar import Member, scan_members
from mindvl.data.tokenizer import tokenizer_fingerprint

_COPY_BYTES = 8 << 20
_GROUP_SAMPLES = 16


@dataclass
class _Draft:
    """One sample while its row is being made."""

    key: str
    record: Member | None = None
    kind: int = 0
    messages: list | None = None
    pictures: tuple[Member, ...] = ()
    frames: tuple[int, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    checksum: int = 0
    problem: str = ""


def index_shard(location: str, encoder: ChatEncoder) -> ShardIndex:
    """Read a shard once. Raises ValueError, naming it, when the archive is empty, damaged or ends early."""
    version = version_of(location)
    with _whole(location, version.size_bytes) as whole:
        members = scan_members(whole, location, version.size_bytes)
        with memoryview(whole) as data, ThreadPoolExecutor(1) as beside:
            checksum = beside.submit(xxhash.xxh3_128_hexdigest, data)
            # The tokenizer works outside the interpreter's lock, on one group while the next is read.
            drafts, measured = [], []
            samples = list(group_members(members).items())
            for start in range(0, len(samples), _GROUP_SAMPLES):
                fresh = [_draft(key, extensions, data) for key, extensions in samples[start : start + _GROUP_SAMPLES]]
                drafts += fresh
                messages = [draft.messages for draft in fresh if draft.messages is not None]
                measured.append(beside.submit(encoder.measure, messages))
            facts_checksum = checksum.result()
    used = sum((draft.record is not None) + len(draft.pictures) for draft in drafts)
    rows = _join(drafts, [size for sizes in measured for size in sizes.result()])
    problems = ("", *sorted({draft.problem for draft in drafts} - {""}))
    facts = ShardFacts(
        version.size_bytes, version.mark, facts_checksum, tokenizer_fingerprint(encoder.tokenizer), problems,
        len(members) - used,
    )  # fmt: skip
    return _columns(facts, drafts, rows)


@contextlib.contextmanager
def _whole(location: str, size_bytes: int) -> Iterator[Any]:
    """All bytes of a shard as a memory map; what lies behind a URL is fetched into a temporary file first."""
    with contextlib.ExitStack() as stack:
        if size_bytes == 0:
            raise ValueError(f"shard {location} is empty: 0 bytes")
        file: Any = stack.enter_context(contextlib.closing(open_for_reading(location)))
        if is_url(location):
            copy = stack.enter_context(tempfile.TemporaryFile())
            while block := file.read(_COPY_BYTES):
                copy.write(block)
            copy.flush()
            file = copy
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        yield whole
        whole.close()  # not after an error, whose traceback still shows views of it: closing would hide the error


def _draft(key: str, extensions: dict[str, list[Member]], data: memoryview) -> _Draft:
    """Parse the record and read the pictures' headers."""
    pictures = tuple(picture_members(extensions))
    draft = _Draft(key, pictures=pictures, frames=tuple(frame_numbers(pictures)))
    draft.problem = members_problem(extensions)
    candidates = record_members(extensions)
    for kind, member in candidates:
        draft.record, draft.kind = member, RECORD_KINDS.index(kind)
        if draft.problem:
            break
        try:
            text = bytes(data[member.offset : member.offset + member.size])
            shown = sum(frame <= 0 for frame in draft.frames)
            draft.messages = parse_record(text, kind=kind, num_images=shown)["messages"]
            break
        except ValueError as error:
            problem = reason_of(error)
            if member is candidates[-1][1]:
                draft.problem = problem
    digest = xxhash.xxh3_64()
    for member in ([draft.record] if draft.record else []) + list(pictures):
        digest.update(data[member.offset : member.offset + member.size])
    draft.checksum = digest.intdigest()
    try:
        draft.sizes = tuple(image_size(data[member.offset : member.offset + member.size]) for member in pictures)
    except ValueError as error:
        draft.problem = draft.problem or reason_of(error)
        draft.sizes = ((0, 0),) * len(pictures)
    if any(f > 0 and draft.sizes[n] != draft.sizes[n - 1] for n, f in enumerate(draft.frames)):
        draft.problem = draft.problem or "the frames of a video differ in size"
    return draft


def _join(drafts: list[_Draft], sizes: list[ChatSize | ValueError]) -> list[ChatSize | None]:
    """Token counts of each draft; what they reveal becomes the draft's problem."""
    measured, rows = iter(sizes), []
    for draft in drafts:
        size = next(measured) if draft.messages is not None else None
        if isinstance(size, ValueError):
            draft.problem = reason_of(size)  # a sample's words are judged before its pictures
            size = None
        elif size is not None and (problem := _mismatch(size.visuals, draft.frames)):
            draft.problem = problem
        elif size is not None and size.answer_tokens[-1] == 0:
            draft.problem = draft.problem or "no supervised token"
        rows.append(size)
    return rows


def _mismatch(placeholders: tuple[str, ...], frames: tuple[int, ...]) -> str:
    """In what a conversation's placeholders differ from the sample's pictures and videos; empty if in nothing."""
    shown = tuple("image" if frame < 0 else "video" for frame in frames if frame <= 0)
    if placeholders == shown:
        return ""
    if "video" not in placeholders + shown:
        return "placeholders and pictures differ in number"
    if sorted(placeholders) == sorted(shown):
        return "pictures and videos are not in the order of their placeholders"
    return "placeholders differ in number from pictures or videos"


def _columns(facts: ShardFacts, drafts: list[_Draft], sizes: list[ChatSize | None]) -> ShardIndex:
    number = {problem: position for position, problem in enumerate(facts.problems)}
    keys = [draft.key.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode() for draft in drafts]
    last = [(size.tokens[-1], size.answer_tokens[-1], size.spoken_tokens[-1]) if size else (0, 0, 0) for size in sizes]
    cuts = [list(zip(*(column[:-1] for column in _ends(size)), strict=True)) if size else [] for size in sizes]
    tokens = np.asarray(last, np.int64).reshape(-1, 3).astype(np.int32)
    cut = np.asarray([row for rows in cuts for row in rows], np.int64).reshape(-1, 5).astype(np.int32)
    pictures = [
        (member.offset, member.size, *size, frame)
        for draft in drafts
        for member, size, frame in zip(draft.pictures, draft.sizes, draft.frames, strict=True)
    ]
    image = np.asarray(pictures, np.int64).reshape(-1, 5)
    records = [(d.record.offset, d.record.size) if d.record else (0, 0) for d in drafts]
    record = np.asarray(records, np.int64).reshape(-1, 2)
    return ShardIndex(
        facts=facts,
        keys=np.frombuffer(b"".join(keys), np.uint8),
        key_end=np.cumsum([len(key) for key in keys], dtype=np.int64),
        record_offset=record[:, 0].copy(),
        record_bytes=record[:, 1].astype(np.int32),
        record_kind=np.asarray([draft.kind for draft in drafts], np.uint8),
        text_tokens=tokens[:, 0].copy(),
        answer_tokens=tokens[:, 1].copy(),
        spoken_tokens=tokens[:, 2].copy(),
        turns=np.asarray([_answers(draft) for draft in drafts], np.int32),
        checksum=np.asarray([draft.checksum for draft in drafts], np.uint64),
        problem=np.asarray([number[draft.problem] for draft in drafts], np.uint16),
        first_image=_starts([len(draft.pictures) for draft in drafts]),
        image_offset=image[:, 0].copy(),
        image_bytes=image[:, 1].astype(np.int32),
        image_height=image[:, 2].astype(np.int32),
        image_width=image[:, 3].astype(np.int32),
        image_frame=image[:, 4].astype(np.int32),
        first_cut=_starts([len(rows) for rows in cuts]),
        cut_messages=cut[:, 0].copy(),
        cut_tokens=cut[:, 1].copy(),
        cut_answers=cut[:, 2].copy(),
        cut_spoken=cut[:, 3].copy(),
        cut_images=cut[:, 4].copy(),
    )


def _ends(size: ChatSize) -> tuple[tuple[int, ...], ...]:
    return size.messages, size.tokens, size.answer_tokens, size.spoken_tokens, size.images


def _answers(draft: _Draft) -> int:
    return sum(isinstance(m, dict) and m.get("role") == "assistant" for m in draft.messages or [])


def _starts(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def verify_shard(location: str, index: ShardIndex) -> None:
    """Read every byte again. Raises ValueError with both checksums when one has changed since indexing."""
    with _whole(location, version_of(location).size_bytes) as data:
        checksum = xxhash.xxh3_128_hexdigest(data)
    if checksum != index.facts.checksum:
        raise ValueError(f"shard {location} has checksum {checksum}, its index says {index.facts.checksum}")


# Many shards.


def load_index(location: str, tokenizer: str, *, folder: str | None = None) -> ShardIndex | None:
    """The shard's stored index if it fits the tar as it is now and the tokenizer (a fingerprint); else None."""
    index = read_index(index_location(location, folder))
    return index if index is not None and fits(index, version_of(location), tokenizer) else None


def index_shards(
    locations: Sequence[str],
    encoder: ChatEncoder,
    *,
    folder: str | None = None,
    workers: int = 1,
    done: Callable[[str, ShardIndex], None] = lambda location, index: None,
) -> None:
    """Make the indexes that are missing or stale; `done` hears of every shard, made or found.

    Each index is written when its shard has been read, so an interrupted call goes on where it stopped.
    """
    fingerprint = tokenizer_fingerprint(encoder.tokenizer)
    if folder is not None and not is_url(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    missing = []
    for location in locations:
        index = load_index(location, fingerprint, folder=folder)
        if index is None:
            missing.append(location)
        else:
            done(location, index)
    if min(workers, len(missing)) <= 1:
        for location in missing:
            done(location, _make(location, encoder, folder))
        return
    # Spawned, not forked: the caller may hold torch's threads, and a forked lock never opens again.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(missing)), mp_context=context, initializer=start_worker, initargs=(encoder,)
    ) as pool:
        futures = {pool.submit(make_in_worker, location, folder): location for location in missing}
        try:
            for future in as_completed(futures):
                future.result()
                index = read_index(index_location(futures[future], folder))
                assert index is not None
                done(futures[future], index)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _make(location: str, encoder: ChatEncoder, folder: str | None) -> ShardIndex:
    index = index_shard(location, encoder)
    try:
        save_index(index, index_location(location, folder))
    except ValueError as error:
        if folder is not None:
            raise
        raise ValueError(
            f"{error}; indexes may lie elsewhere: `mindvl data index --into FOLDER`, and data.index_folder of a run"
        ) from error
    return index


_worker_encoder: list[ChatEncoder] = []


def start_worker(encoder: ChatEncoder) -> None:
    """What an indexing process keeps between shards."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process per core already
    _worker_encoder[:] = [encoder]


def make_in_worker(location: str, folder: str | None) -> None:
    """Index a shard in an indexing process and write what came of it."""
    _make(location, _worker_encoder[0], folder)
