"""`mindvl data render | index | tokenizer`: everything that happens to data before training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mindvl.data.render import command as render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-verbs; nothing heavy is imported."""
    verbs = parser.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    drawn = verbs.add_parser("render", help="draw pictures with exact ground truth as WebDataset shards")
    render.add_arguments(drawn)
    drawn.set_defaults(run_verb=render.run)

    index = verbs.add_parser("index", help="check shards and write the small index beside each")
    index.add_argument("shards", nargs="+", metavar="SHARDS", help="folders, files or globs of tars")
    index.add_argument("--tokenizer", default="bytes", help="hub id or folder, or 'bytes' (default)")
    index.set_defaults(run_verb=_index)

    tokenizer = verbs.add_parser("tokenizer", help="save the byte-level tokenizer of small models")
    tokenizer.add_argument("out", type=Path, metavar="OUT")
    tokenizer.add_argument("--words", default="", help="words that get a token of their own, separated by blanks")
    tokenizer.set_defaults(run_verb=_tokenizer)


def run(args: argparse.Namespace) -> int:
    return args.run_verb(args)


def _index(args: argparse.Namespace) -> int:
    from collections import Counter

    from rich.progress import track

    from mindvl.data.chat import ChatEncoder
    from mindvl.data.shards import find_shards, load_indexes
    from mindvl.data.tokenizer import load_tokenizer

    encoder = ChatEncoder(load_tokenizer(args.tokenizer))
    paths = [path for pattern in args.shards for path in find_shards(pattern)]
    problems: Counter[str] = Counter()
    samples = 0
    for path in track(paths, description="indexing"):
        (index,) = load_indexes([path], encoder)
        samples += len(index)
        problems.update(str(problem) for problem in index.problem if problem)
    print(f"{samples} samples in {len(paths)} shards, {sum(problems.values())} cannot be used")
    for reason, count in problems.most_common():
        print(f"  {count:>8}  {reason}")
    return 0


def _tokenizer(args: argparse.Namespace) -> int:
    from mindvl.data.tokenizer import byte_tokenizer

    tokenizer = byte_tokenizer(args.words.split())
    tokenizer.save_pretrained(args.out)
    print(f"{len(tokenizer)} tokens under {args.out}", file=sys.stderr)
    return 0
