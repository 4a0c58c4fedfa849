"""`mindvl data render | import | run | index | consumed | tokenizer`: all that happens to data around training."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mindvl.cli.sub_verbs import add_sub_verb
from mindvl.data.importing import command as importing
from mindvl.data.render import command as render
from mindvl.data.steps import command as steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-verbs; nothing heavy is imported."""
    verbs = parser.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    drawn = add_sub_verb(verbs, "render", "draw pictures with exact ground truth as WebDataset shards")
    render.add_arguments(drawn)
    drawn.set_defaults(run_verb=render.run)

    imported = add_sub_verb(verbs, "import", "turn LLaVA, ShareGPT, Qwen-VL or Hugging Face data into shards")
    importing.add_arguments(imported)
    imported.set_defaults(run_verb=importing.run)

    made = add_sub_verb(verbs, "run", "run a data recipe: make, filter, deduplicate, and say what was dropped")
    steps.add_arguments(made)
    made.set_defaults(run_verb=steps.run)

    listed = add_sub_verb(verbs, "steps", "list the steps of data recipes")
    steps.add_list_arguments(listed)
    listed.set_defaults(run_verb=steps.run_list)

    index = add_sub_verb(verbs, "index", "check shards and write the small index beside each")
    index.add_argument("shards", nargs="+", metavar="SHARDS", help="folders, files, globs or URLs of tars")
    index.add_argument("--tokenizer", default="bytes", help="hub id or folder, or 'bytes' (default)")
    index.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    index.add_argument("--into", metavar="FOLDER", help="write the indexes here, where the shards' place is read-only")
    index.add_argument("--verify", action="store_true", help="read every byte again and compare checksums")
    index.set_defaults(run_verb=_index)

    consumed = add_sub_verb(verbs, "consumed", "what a run has seen of each source, and what it left out")
    consumed.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or one of its checkpoints")
    consumed.add_argument("--json", action="store_true", help="the whole record as JSON")
    consumed.set_defaults(run_verb=_consumed)

    tokenizer = add_sub_verb(verbs, "tokenizer", "save the byte-level tokenizer of small models")
    tokenizer.add_argument("out", type=Path, metavar="OUT")
    tokenizer.add_argument("--words", default="", help="words that get a token of their own, separated by blanks")
    tokenizer.set_defaults(run_verb=_tokenizer)


def run(args: argparse.Namespace) -> int:
    return args.run_verb(args)


def _index(args: argparse.Namespace) -> int:
    from collections import Counter

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mindvl.cores import num_cores
    from mindvl.data.chat import ChatEncoder
    from mindvl.data.index import ShardIndex
    from mindvl.data.indexing import index_shards, verify_shard
    from mindvl.data.storage import find_shards, index_location
    from mindvl.data.tokenizer import load_tokenizer

    encoder = ChatEncoder(load_tokenizer(args.tokenizer))
    paths = [path for pattern in args.shards for path in find_shards(pattern, index_folder=args.into)]
    problems: Counter[str] = Counter()
    examples: dict[str, str] = {}
    totals: Counter[str] = Counter()
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("indexing", total=len(paths))

        def done(path: str, index: ShardIndex) -> None:
            if args.verify:
                verify_shard(path, index)
            problems.update(index.problem_counts())
            for reason, key in index.problem_examples().items():
                examples.setdefault(reason, f"{key} in {path}")
            totals.update(
                samples=len(index),
                images=index.num_images,
                videos=index.num_videos,
                text_tokens=int(index.text_tokens.sum()),
                ignored=index.facts.ignored_members,
            )
            progress.advance(bar)

        workers = args.workers if args.workers is not None else num_cores()
        index_shards(paths, encoder, folder=args.into, workers=workers, done=done)
    images = f"{totals['images']} images" + (f", {totals['videos']} videos" if totals["videos"] else "")
    print(
        f"{totals['samples']} samples with {images} and {totals['text_tokens']} text tokens in {len(paths)} shards, "
        f"{sum(problems.values())} cannot be used"
    )
    for reason, count in problems.most_common():
        print(f"  {count:>8}  {reason} (such as {examples[reason]})")
    if totals["ignored"]:
        print(f"  {totals['ignored']:>8}  files ignored: neither text nor picture of a sample")
    if args.verify:
        print(
            f"checksums of {len(paths)} shards are those of their indexes ({index_location(paths[0], args.into)}, ...)"
        )
    return 0


def _consumed(args: argparse.Namespace) -> int:
    from mindvl.data.consumed import format_record
    from mindvl.data.run_record import load_record

    record = load_record(args.run)
    if args.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
        return 0
    plans = [*record["closed"], record]
    for number, plan in enumerate(plans):
        print(f"plan {plan['plan']}" + (f" ({number + 1} of {len(plans)})" if len(plans) > 1 else ""), end="")
        print(f": {plan['next_pack']:,} packs of {plan['description']['sequence_length']:,} tokens")
        print(format_record(plan["consumed"]))
        _print_rows("left out before training", plan.get("left_out", []))
        for source, count in plan.get("cut", {}).items():
            print(f"  {count:>8}  {source}: cut after an earlier answer")
    _print_rows("left out on the way", record["skipped"])
    return 0


def _print_rows(title: str, rows: list[list]) -> None:
    if rows:
        print(f"{title}:")
    for source, shard, reason, count in rows:
        print(f"  {count:>8}  {source}: {reason} ({shard})")


def _tokenizer(args: argparse.Namespace) -> int:
    from mindvl.data.tokenizer import byte_tokenizer

    tokenizer = byte_tokenizer(args.words.split())
    tokenizer.save_pretrained(args.out)
    print(f"{len(tokenizer)} tokens under {args.out}", file=sys.stderr)
    return 0
