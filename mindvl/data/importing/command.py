"""`mindvl data import INPUT OUT`: fine-tuning data of other projects, as WebDataset shards.

    mindvl data import llava_v1_5_mix665k.json shards/ --images llava/images
    mindvl data import docvqa/ shards/ --split train --question-column query
    mindvl data import clips.json shards/ --images clips --fps 1 --max-frames 64

An import appears whole or not at all: shards grow in a hidden folder under OUT and move to their places when the last
one is done, then `NAME.import.json` says what was read and what was left out. More than 5 % left out is an error, with
the shards in place to be looked at.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindvl.data.shard_writer import ShardWriter
from mindvl.data.storage import write_whole

FORMATS = ("llava", "sharegpt", "qwen", "hf")
_COLUMNS = ("image", "messages", "question", "choices", "answer", "caption")
_SHOWN_KEYS = 5


@dataclass
class Outcome:
    """Counts of one import."""

    samples: int = 0
    images: int = 0
    videos: int = 0
    frames: int = 0
    repeated_ids: int = 0
    shards: list[str] = field(default_factory=list)
    rejected: dict[str, int] = field(default_factory=dict)
    """Records by reason."""
    first_keys: dict[str, list[str]] = field(default_factory=dict)
    """The first few ids of each reason."""
    first_details: dict[str, str] = field(default_factory=dict)
    """What the first record of a reason was about, where that says more: a path that was looked for."""

    @property
    def num_rejected(self) -> int:
        return sum(self.rejected.values())

    @property
    def rejected_ratio(self) -> float:
        return self.num_rejected / max(1, self.num_rejected + self.samples)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments; imports nothing heavy, so that `--help` answers at once."""
    parser.add_argument(
        "input", type=Path, metavar="INPUT", help=".json, .jsonl or .parquet file, or a dataset's folder"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the shards and NAME.import.json")
    parser.add_argument("--format", choices=("auto", *FORMATS), default="auto", help="default: by the first records")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="where pictures lie (default: beside INPUT)")
    parser.add_argument("--name", help="name of the source and its shards (default: INPUT's)")
    parser.add_argument("--samples-per-shard", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument("--max-rejected-ratio", type=float, default=0.05, metavar="X", help="fail above; default 0.05")
    parser.add_argument("--overwrite", action="store_true", help="replace shards of that name")
    video = parser.add_argument_group("videos (stored as frames; what training will not show need not be stored)")
    video.add_argument("--fps", type=float, default=2.0, metavar="N", help="frames kept of a second; default 2")
    video.add_argument("--max-frames", type=int, default=768, metavar="N", help="frames kept of a video; default 768")
    video.add_argument(
        "--frame-pixels", type=int, default=768 * 28 * 28, metavar="N", help="larger ones are shrunk; default 768x28x28"
    )
    hf = parser.add_argument_group("Hugging Face datasets (columns are found by their usual names unless given)")
    hf.add_argument("--split", help="train, validation, ...: needed where the folder holds several; A,B for both")
    for kind in _COLUMNS:
        hf.add_argument(f"--{kind}-column", metavar="COLUMN")
    hf.add_argument("--prompt", help="the question that captions answer (default: Describe this picture.)")


def run(args: argparse.Namespace) -> int:
    """Imports; returns 1 if too many records were rejected. Human errors leave as `ValueError`."""
    if not 0 <= args.max_rejected_ratio <= 1:
        raise ValueError(f"--max-rejected-ratio is {args.max_rejected_ratio}; it must lie between 0 and 1")
    if not args.input.exists():
        raise ValueError(f"{args.input} does not exist")
    name = args.name or re.sub(r"[^A-Za-z0-9_-]+", "-", args.input.resolve().stem).strip("-_") or "imported"
    if not args.overwrite and (old := _shards_of(args.out, name)):
        raise ValueError(f"{args.out} holds {len(old)} shards of {name!r} already: another --name, or --overwrite")
    staging = args.out / f".{name}.import"
    writer = ShardWriter(staging, name, samples_per_shard=args.samples_per_shard)  # refuses what is no name
    if staging.exists() and not args.overwrite:
        raise ValueError(f"{staging} is there: another import is running, or one was killed; then use --overwrite")
    format = args.format if args.format != "auto" else _detect(args.input)
    how = ", by its first records" if args.format == "auto" else ""
    print(f"reading {args.input} as {format}{how}", file=sys.stderr)
    samples = _open(args, format, name)
    first = next(samples, None)
    if first is None:
        raise ValueError(f"{args.input} holds no records")
    shutil.rmtree(staging, ignore_errors=True)
    outcome = _import(itertools.chain([first], samples), args.out, writer)
    _write_summary(args, format, name, outcome)
    return _report(args, outcome)


def _detect(path: Path) -> str:
    from mindvl.data.importing.json_formats import guess_format
    from mindvl.data.importing.outcome import Rejected
    from mindvl.data.importing.records import first_records, read_records

    if path.is_dir() or path.suffix in (".parquet", ".arrow"):
        return "hf"
    records = first_records(path)
    if not records:  # reading says why: a file that is not JSON raises, with line and column
        first = next(read_records(path), None)
        why = f" at its head: {first.key}: {first.reason}" if isinstance(first, Rejected) else ""
        raise ValueError(f"{path} holds no records{why}")
    format = guess_format(records)
    if format is None:
        raise ValueError(
            f"{path}: none of the first {len(records)} records has conversations or messages; say --format"
        )
    return format


def _open(args: argparse.Namespace, format: str, name: str) -> Iterator[Any]:
    """The importer's samples; settings that it would not use are refused."""
    from mindvl.data.importing import hf, json_formats
    from mindvl.data.importing.videos import FrameSampling

    sampling = FrameSampling(fps=args.fps, max_frames=args.max_frames, max_pixels=args.frame_pixels)
    images = args.images or (args.input if args.input.is_dir() else args.input.parent)
    columns = {kind: getattr(args, f"{kind}_column") for kind in _COLUMNS}
    if format == "hf":
        prompt = args.prompt or hf.CAPTION_PROMPT
        return hf.import_hf(
            args.input, images, source=name, columns=hf.Columns(**columns), prompt=prompt, split=args.split,
            sampling=sampling,
        )  # fmt: skip
    if args.prompt or args.split or any(columns.values()):
        raise ValueError(f"columns, --split and --prompt are for Hugging Face datasets; this is read as {format}")
    importers = {
        "llava": json_formats.import_llava,
        "sharegpt": json_formats.import_sharegpt,
        "qwen": json_formats.import_qwen,
    }
    return importers[format](args.input, images, source=name, sampling=sampling)


def _import(samples: Iterable[Any], out: Path, writer: ShardWriter) -> Outcome:
    """Writes all samples into the writer's own folder, then moves the shards to their places under `out`."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from mindvl.data.importing.outcome import Rejected
    from mindvl.data.importing.sample import UniqueKeys

    outcome, unique = Outcome(), UniqueKeys()
    columns = (SpinnerColumn(), TextColumn("{task.completed} samples"), TextColumn("{task.fields[rejected]} rejected"))
    try:
        with (
            Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress,
            writer,
        ):
            bar = progress.add_task("importing", total=None, rejected=0)
            for sample in samples:
                if isinstance(sample, Rejected):
                    outcome.rejected[sample.reason] = outcome.rejected.get(sample.reason, 0) + 1
                    keys = outcome.first_keys.setdefault(sample.reason, [])
                    if len(keys) < _SHOWN_KEYS:
                        keys.append(sample.key)
                    if sample.detail:
                        outcome.first_details.setdefault(sample.reason, sample.detail)
                else:
                    writer.write(unique(sample))
                    videos = [visual for visual in sample.images if not isinstance(visual, bytes)]
                    outcome.images += len(sample.images) - len(videos)
                    outcome.videos += len(videos)
                    outcome.frames += sum(map(len, videos))
                progress.update(bar, completed=writer.samples, rejected=outcome.num_rejected)
        if writer.paths:  # shards of an earlier import stay until there is something to replace them
            for path in _shards_of(out, writer.name):
                for beside in (path, *out.glob(f"{path.name}.*")):  # the index of a shard goes with it
                    beside.unlink()
            for path in writer.paths:
                path.replace(out / path.name)
    finally:
        shutil.rmtree(writer.out, ignore_errors=True)
    outcome.samples, outcome.repeated_ids = writer.samples, unique.repeats
    outcome.shards = [path.name for path in writer.paths]
    return outcome


def _shards_of(out: Path, name: str) -> list[Path]:
    own = re.compile(re.escape(name) + r"-\d{6,}\.tar")
    return sorted(path for path in out.glob("*.tar") if own.fullmatch(path.name)) if out.is_dir() else []


def _write_summary(args: argparse.Namespace, format: str, name: str, outcome: Outcome) -> None:
    if not outcome.samples:
        return
    by_reason = {
        reason: {"records": count, "first": outcome.first_keys[reason]}
        | ({"first_about": outcome.first_details[reason]} if reason in outcome.first_details else {})
        for reason, count in _by_count(outcome)
    }
    summary = {
        "name": name,
        "input": str(args.input),
        "format": format,
        "images_folder": str(args.images) if args.images else None,
        "samples": outcome.samples,
        "images": outcome.images,
        **({"videos": outcome.videos, "frames": outcome.frames} if outcome.videos else {}),
        "repeated_ids": outcome.repeated_ids,
        "num_rejected": outcome.num_rejected,
        "rejected": by_reason,
        "shards": outcome.shards,
    }
    # Escaped: ids may hold half a character, which UTF-8 cannot.
    write_whole(str(args.out / f"{name}.import.json"), (json.dumps(summary, indent=1) + "\n").encode())


def _by_count(outcome: Outcome) -> list[tuple[str, int]]:
    return sorted(outcome.rejected.items(), key=lambda item: (-item[1], item[0]))


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _report(args: argparse.Namespace, outcome: Outcome) -> int:
    visuals = f"{outcome.images} pictures"
    if outcome.videos:
        visuals += f" and {outcome.videos} videos of {outcome.frames} frames"
    print(f"{outcome.samples} samples with {visuals} in {len(outcome.shards)} shards under {args.out}")
    if outcome.repeated_ids:
        print(f"{outcome.repeated_ids} samples repeat an id; their keys end in ~~2, ~~3, ...")
    if outcome.num_rejected:
        print(f"{outcome.num_rejected} records rejected:")
        for reason, count in _by_count(outcome):
            shown = [_printable(key) for key in outcome.first_keys[reason]]
            detail = f"; first: {_printable(found)}" if (found := outcome.first_details.get(reason)) else ""
            print(f"  {count:>8}  {reason} ({', '.join(shown)}{', ...' if count > len(shown) else ''}){detail}")
    if not outcome.samples:
        print(f"no sample is left of {outcome.num_rejected} records; nothing was written", file=sys.stderr)
        return 1
    if outcome.rejected_ratio > args.max_rejected_ratio:
        print(
            f"rejected were {outcome.rejected_ratio:.4f} of the records, more than --max-rejected-ratio "
            f"{args.max_rejected_ratio:g}",
            file=sys.stderr,
        )
        return 1
    return 0
