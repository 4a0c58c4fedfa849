"""`mindvl chat MODEL [IMAGE ...] ["question"]`: a conversation with a trained model, about pictures of your own.

    mindvl chat runs/quickstart/instruct/model picture.png "read the text."      one answer
    mindvl chat runs/quickstart/instruct/model first.png second.png              a conversation about both
    > what is in the first one?
    > /image third.png                                                           joins the next question

The last word is the question if it is no file and does not end like a picture; `--question` leaves no doubt.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindvl.phases.answering import Answer, Answerer
    from mindvl.phases.decoding import Decoding

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
HELP = "/image FILE adds a picture to the next question, /reset forgets all that was said, /quit ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; nothing heavy is imported."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a saved model (a stage's model/)")
    parser.add_argument(
        "words", nargs="*", metavar="IMAGE", help="picture files; the last may be the question. " + HELP
    )
    parser.add_argument("--question", help="one question, then the end; without it you are asked for one")
    parser.add_argument("--min-pixels", type=int, help="area below which a picture is enlarged")
    parser.add_argument("--max-pixels", type=int, help="area above which a picture is shrunk")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="an answer is cut there (128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token; above, draws (0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from this share of the probability (1)")
    parser.add_argument("--top-k", type=int, default=0, help="draw from so many tokens; 0 is all (0)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends an answer; may be repeated")


def run(args: argparse.Namespace) -> int:
    files, question = split_words(args.words, args.question)
    pictures = [read_picture(file) for file in files]
    from mindvl.cli.quiet import quiet_transformers

    quiet_transformers()
    from mindvl.device import device_of
    from mindvl.phases.answering import load_answerer
    from mindvl.phases.decoding import Decoding

    decoding = Decoding(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        stop=tuple(args.stop),
        seed=args.seed,
    )
    answerer = load_answerer(args.model, min_pixels=args.min_pixels, max_pixels=args.max_pixels)
    answerer.model.to(device_of("auto"))
    chat = Conversation(answerer, decoding, pictures)
    if question is None:
        converse(chat)
    else:
        chat.ask(question)
    return 0


def split_words(words: list[str], question: str | None) -> tuple[list[str], str | None]:
    """Picture files and the question: the last word, unless the question is given or the word is a picture's name."""
    if question is None and words:
        last = words[-1]
        if not last.lower().endswith(PICTURE_ENDINGS) and not Path(last).is_file():
            return words[:-1], last
    return words, question


def read_picture(file: str) -> bytes:
    """Bytes of a picture that decodes. Raises ValueError with the file's name for any other."""
    from mindvl.data.images import open_image

    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"picture {file} is not a file")
    data = path.read_bytes()
    try:
        open_image(data)
    except ValueError as error:
        raise ValueError(f"{error} ({file})") from error
    return data


class Conversation:
    """What was shown and said so far; a question that fails leaves it as it was."""

    def __init__(self, answerer: Answerer, decoding: Decoding, pictures: list[bytes]):
        self.answerer, self.decoding = answerer, decoding
        self.messages: list[dict[str, Any]] = []
        self.shown: list[bytes] = []
        self.waiting = list(pictures)
        """Pictures that the next question will be about."""

    def ask(self, question: str) -> Answer:
        """Prints the answer while it is written."""
        from mindvl.phases.answering import Prompt

        content = [*({"type": "image"} for _ in self.waiting), {"type": "text", "text": question}]
        messages = [*self.messages, {"role": "user", "content": content}]
        shown = [*self.shown, *self.waiting]
        try:
            answer = self.answerer.answer_aloud(Prompt(messages, tuple(shown)), self.decoding, _say)
        except KeyboardInterrupt:
            print(flush=True)
            raise
        print(flush=True)
        said = {"role": "assistant", "content": [{"type": "text", "text": answer.text or " "}]}
        self.messages, self.shown, self.waiting = [*messages, said], shown, []
        return answer

    def reset(self) -> None:
        self.messages, self.shown, self.waiting = [], [], []


def converse(chat: Conversation) -> None:
    """Questions from the terminal until `/quit` or the end of the input; errors are a line, and it goes on."""
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        command, _, rest = line.partition(" ")
        try:
            if command == "/quit":
                return
            if command == "/reset":
                chat.reset()
            elif command == "/image":
                chat.waiting.append(read_picture(rest.strip()))
            elif command.startswith("/"):
                print(f"no command {command}: {HELP}", file=sys.stderr, flush=True)
            elif line and chat.ask(line).finish == "length":
                limit = chat.decoding.max_new_tokens
                print(f"(cut after {limit} tokens, --max-new-tokens)", file=sys.stderr, flush=True)
        except ValueError as error:
            print(error, file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("(interrupted: the question is forgotten)", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(text, end="", flush=True)
