"""`mindvl chat CHECKPOINT IMAGE "question"`: a trained model looks at a picture of your own."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; nothing heavy is imported."""
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="folder of a saved model (a stage's model/)"
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="a picture file")
    parser.add_argument("question", nargs="?", help="leave it out to be asked")
    parser.add_argument("--min-pixels", type=int, help="area below which the picture is enlarged")
    parser.add_argument("--max-pixels", type=int, help="area above which the picture is shrunk")
    parser.add_argument("--max-new-tokens", type=int, default=128)


def run(args: argparse.Namespace) -> int:
    if not (args.checkpoint / "config.json").is_file():
        raise ValueError(f"{args.checkpoint} is no saved model: it has no config.json")
    if not args.image.is_file():
        raise ValueError(f"picture {args.image} is not a file")
    from mindvl.cli.quiet import quiet_transformers

    quiet_transformers()
    from mindvl.phases.answering import Prompt, load_answerer

    answerer = load_answerer(args.checkpoint, min_pixels=args.min_pixels, max_pixels=args.max_pixels)
    picture = args.image.read_bytes()
    messages: list[dict] = []
    question = args.question or input("> ")
    while question:
        content = [] if messages else [{"type": "image"}]
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
        (answer,) = answerer.answer([Prompt(messages, (picture,))], max_new_tokens=args.max_new_tokens)
        print(answer.text, flush=True)
        if args.question:
            break
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer.text or " "}]})
        try:
            question = input("> ")
        except EOFError:
            break
    return 0
