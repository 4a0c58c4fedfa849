"""`mindvl export CHECKPOINT --to hf OUT`: a folder that transformers opens by itself, checked before it appears.

mindvl export runs/sft/model --to hf exported/sft
mindvl export runs/sft/checkpoints/last.ckpt --to hf exported/sft --config runs/sft/csv/config.yaml
mindvl export runs/mean --to vllm exported/for-vllm --max-shard-gb 2
mindvl export runs/sft/model --to split exported/parts
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindvl.cli.export_job import Exported

TARGET_NAMES = ("hf", "hf-hyperclovax", "vllm", "split")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; nothing heavy is imported."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="folder of a saved model, Lightning's .ckpt file or sharded directory",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the export")
    parser.add_argument(
        "--to",
        choices=TARGET_NAMES,
        default="hf",
        help="hf: the EXAONE-4.5 class of transformers (default); hf-hyperclovax: its HyperCLOVAX-Vision-V2 class; "
        "vllm: the latter under the names that vLLM reads; split: tower with projector, and language model, apart",
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="config.yaml of the run, or folder of a saved model, for a checkpoint without a config of its own "
        "(default: looked for in the folders above it)",
    )
    parser.add_argument(
        "--videos", action="store_true", help="name a processor that takes videos too; opening it wants torchvision"
    )
    parser.add_argument("--max-shard-gb", type=float, default=5.0, metavar="GB", help="size of a file (default: 5)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is an export or a saved model")
    parser.add_argument(
        "--skip-verification",
        action="store_true",
        help="do not open the result and compare it, for models that do not fit in memory; the card will say so",
    )


def run(args: argparse.Namespace) -> int:
    if args.max_shard_gb <= 0:
        raise ValueError(f"--max-shard-gb is {args.max_shard_gb:g}, a file holds more than nothing")
    from mindvl.cli.quiet import quiet_transformers

    quiet_transformers()
    from mindvl.cli.export_job import export

    with _errors_alone():
        exported = export(
            args.checkpoint,
            args.out,
            to=args.to,
            config=args.config,
            videos=args.videos,
            max_shard_bytes=int(args.max_shard_gb * 1e9),
            overwrite=args.overwrite,
            verify=not args.skip_verification,
        )
    _report(exported, args.out)
    return 0


@contextlib.contextmanager
def _errors_alone() -> Iterator[None]:
    """Leave out what transformers remarks on its own classes; what it finds wrong with a folder is checked here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _report(exported: Exported, out: Path) -> None:
    for name in exported.not_finite[:3]:
        print(f"warning: {name} holds values that are not finite", file=sys.stderr)
    if len(exported.not_finite) > 3:
        print(f"warning: so do {len(exported.not_finite) - 3} other tensors", file=sys.stderr)
    found = exported.verified
    if found is None:
        print("not verified (--skip-verification)")
    else:
        print(f"{found.num_tensors} tensors are those of the checkpoint, bit for bit")
        print(f"largest difference of a logit: {found.difference:.3g} (the largest logit is {found.largest_logit:.3g})")
        if found.as_trained is not None:
            print(f"from the picture's bytes, as MindVL is trained: {found.as_trained:.3g}")
        for remark in found.remarks:
            print(remark)
    print(f"{exported.size_bytes / 1e9:.3f} GB in {exported.num_files} files of weights are in {out}")
