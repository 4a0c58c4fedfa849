"""Local Hugging Face datasets: a column of pictures beside questions and answers, captions, or whole conversations.

    image: {"bytes": ..., "path": "1.png"}   question: "How many?"   answer: "3"
    image: ...                               question: "Which?"      choices: ["red", "blue"]   answer: 1
    image: b"..."                            caption: "Two cats."                    (asked for with PROMPT)
    images: [..., ...]                       texts: [{"user": "How many?", "assistant": "3"}, ...]

Columns are found by their usual names unless they are given. Texts here mostly have no marks: then all pictures stand
before the first question. Where there are marks, they must be as many as the pictures. Choices are shown under letters
(`mindvl.data.importing.choices`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from mindvl.data.importing.choices import ask_with_choices
from mindvl.data.importing.outcome import Refusal
from mindvl.data.importing.pictures import PictureFolder
from mindvl.data.importing.sample import Draft, Imported, make_sample, record_id
from mindvl.data.importing.tables import as_json, picture_columns, read_rows, table_columns, table_files
from mindvl.data.importing.turns import as_list, parse_turns
from mindvl.data.importing.videos import FrameSampling

_USUAL_SAMPLING = FrameSampling()
CAPTION_PROMPT = "Describe this picture."

_USUAL = {
    "image": ("image", "images", "img", "picture", "pictures"),
    "messages": ("messages", "conversations", "conversation", "texts"),
    "question": ("question", "query", "problem", "prompt", "instruction"),
    "choices": ("choices", "options"),
    # VQAv2 has the answer that most people gave beside the list of all of them.
    "answer": ("answer", "multiple_choice_answer", "answers", "response", "label", "output", "solution"),
    "caption": ("caption", "captions", "text"),
}


@dataclass(frozen=True)
class Columns:
    """Which column holds what. Conversations need `messages`, questions `question` and `answer`, captions `caption`.

    `choices` are texts of which a question's answer is one, by its number from 0, its letter or itself.
    """

    image: str | None = None
    messages: str | None = None
    question: str | None = None
    choices: str | None = None
    answer: str | None = None
    caption: str | None = None

    def names(self) -> list[str]:
        return [name for name in astuple(self) if name is not None]


def import_hf(
    path: Path,
    images: Path,
    *,
    source: str = "hf",
    columns: Columns | None = None,
    prompt: str = CAPTION_PROMPT,
    split: str | None = None,
    sampling: FrameSampling = _USUAL_SAMPLING,
) -> Iterator[Imported]:
    """Samples of a dataset folder, or of one parquet file; pictures that are only paths lie under `images`.

    `prompt` is the question that captions answer. Of a list of answers or captions the first one counts.
    Raises ValueError for columns or splits that are not there, and for a column of pictures that nobody has asked for.
    """
    folder = PictureFolder(images)
    files = table_files(path, split=split)
    present = table_columns(files[0])
    given = columns or Columns()
    chosen = find_columns(present, given, path)
    if given.image is None and (unread := [name for name in picture_columns(files[0]) if name != chosen.image]):
        raise ValueError(
            f"{path} has pictures in column {unread[0]!r}, which would not be read"
            f"{f' beside {chosen.image!r}' if chosen.image else ''}: say which column to take with --image-column "
            "(image_column in a recipe)"
        )
    names = chosen.names() + (["id"] if "id" in present and "id" not in chosen.names() else [])
    number = 0
    for file in files:
        for row in read_rows(file, names):
            number += 1
            id = record_id(row, f"{number:08d}")
            try:
                yield make_sample(_draft(row, chosen, prompt), folder, id=id, source=source, sampling=sampling)
            except Refusal as refusal:
                yield refusal.of(id)


def find_columns(present: Sequence[str], given: Columns, path: Path) -> Columns:
    """The columns to read: those given, or the first usual names that are there, of one kind of text.

    Conversations come before questions with answers, and these before captions. Raises ValueError when a given column
    is missing or nothing of the three kinds is there.
    """
    for name in given.names():
        if name not in present:
            raise ValueError(f"{path} has no column {name!r}; there are: {', '.join(present)}")

    def usual(kind: str) -> str | None:
        return next((name for name in _USUAL[kind] if name in present and name not in given.names()), None)

    found = replace(given, image=given.image or usual("image"))
    if given.messages or given.question or given.choices or given.answer or given.caption:
        questions = bool(given.question or given.choices or given.answer)
        asked = (given.messages is not None, questions, given.caption is not None)
        if sum(asked) > 1:
            raise ValueError("give columns of messages, of questions and answers, or of captions, not of several kinds")
        if asked[1]:
            found = replace(found, question=given.question or usual("question"), answer=given.answer or usual("answer"))
    elif messages := usual("messages"):
        found = replace(found, messages=messages)
    elif (question := usual("question")) and (answer := usual("answer")):
        found = replace(found, question=question, answer=answer)
    elif caption := usual("caption"):
        found = replace(found, caption=caption)
    if found.question and found.answer:
        found = replace(found, choices=given.choices or usual("choices"))
    whole = found.messages or found.caption or (found.question and found.answer)
    if not whole:
        raise ValueError(
            f"{path} has no conversations, no questions with answers and no captions that are known by name; "
            f"say which of its columns hold them: {', '.join(present)}"
        )
    return found


def _draft(row: Mapping[str, Any], columns: Columns, prompt: str) -> Draft:
    pictures = as_list(row[columns.image]) if columns.image else []
    if columns.messages:
        return Draft(parse_turns(as_json(row[columns.messages])), pictures, pictures_first=True)
    if columns.caption:
        if not pictures:
            raise Refusal("a caption without a picture")
        question, answer = prompt, _text(row[columns.caption], "caption")
    else:
        assert columns.question and columns.answer
        question, answer = _text(row[columns.question], "question"), row[columns.answer]
        if columns.choices and (choices := as_json(row[columns.choices])) not in (None, [], ""):
            question, answer = ask_with_choices(question, choices, answer)
        answer = _text(answer, "answer")
    turns = parse_turns([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    return Draft(turns, pictures, pictures_first=True)


def _text(value: Any, kind: str) -> str:
    """Text or a number as text, of a list the first; a truth value or NaN is refused."""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        raise Refusal(f"the {kind} is not text")
    return str(value)
