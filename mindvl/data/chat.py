"""From a conversation to token ids and a mask of what is learnt.

Messages are in transformers' chat format: content is a string or a list of `{"type": "text", "text": ...}`,
`{"type": "image"}` and `{"type": "video"}` parts, as many and in whatever order the user shows them. The tokenizer's
own chat template is rendered once per *shape* of conversation (roles and part types) with marks in place of the texts
(`mindvl.data.chat_layout`); only what is between the marks may hold special tokens. So a user who types "<|im_end|>"
gets those ten characters, not the end of his turn. A text that a template may look into, as Qwen3's looks for
"</think>" and others trim, is rendered itself. Token ids are those that transformers makes of the rendered conversation
but for two things: control tokens that a text spells, and the place where an answer begins, which no token crosses,
since the model is asked there.

    <|user|> <|vision_start|> IMAGE <|vision_end|> read the text. <|im_end|> <|assistant|> a b c <|im_end|>
    -------------------------------------------------------------------------------------- 1 1 1 1   "answers"
    ------------------------------------------------- 1 1 1 1 ...                          1 1 1 1   "text"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from mindvl.data.chat_layout import MARK, Fixed, Layout, Template, Words, layout_of
from mindvl.data.chat_template import trims, words_that_matter
from mindvl.data.text_encoder import TextEncoder, control_tokens
from mindvl.data.tokenizer import IMAGE_PAD, VIDEO_PAD, text_only, video_token_id_of

Supervision = Literal["answers", "text"]
"""What the loss sees: assistant turns only, or every word of user and assistant."""

_FORBIDDEN = re.compile("[\x00\ue000\ue001\ud800-\udfff]")
_ROLES = ("system", "user", "assistant")
_PARTS = ("text", "image", "video")


@dataclass(frozen=True)
class EncodedChat:
    """Token ids with one placeholder per picture or video (widened later), and whether each token is a target."""

    input_ids: list[int]
    supervised: list[bool]
    visuals: tuple[str, ...]
    """"image" or "video" for each placeholder, in reading order."""

    @property
    def num_images(self) -> int:
        """Placeholders, those of videos among them."""
        return len(self.visuals)


@dataclass(frozen=True)
class ChatSize:
    """Token counts of a conversation up to each place where it may be cut: after an assistant's turn, or at its end."""

    messages: tuple[int, ...]
    """Messages before the cut; the last is all of them."""
    tokens: tuple[int, ...]
    """With one placeholder per picture or video."""
    answer_tokens: tuple[int, ...]
    """Targets when answers are learnt."""
    spoken_tokens: tuple[int, ...]
    """Targets when the user's words are learnt too."""
    images: tuple[int, ...]
    """Pictures and videos."""
    visuals: tuple[str, ...] = ()
    """"image" or "video" for each placeholder of the whole conversation."""


class ChatEncoder:
    """Encodes conversations under one tokenizer; raises ValueError for conversations that cannot be learnt from."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        self.video_token_id = video_token_id_of(tokenizer)
        """None where the tokenizer cannot say where a video is; conversations with videos are refused then."""
        self.placeholder_ids: tuple[int, ...] = (self.image_token_id,)
        if self.video_token_id is not None:
            self.placeholder_ids += (self.video_token_id,)
        plain = text_only(tokenizer)
        self._texts = TextEncoder(plain)
        self._control = control_tokens(plain)
        self._looks_for, self._trims = words_that_matter(tokenizer.chat_template), trims(tokenizer.chat_template)
        self._layout = lru_cache(maxsize=1024)(self._lay_out)
        self._template_ids = lru_cache(maxsize=4096)(self._encode_template)
        self._plain_ids = lru_cache(maxsize=4096)(self._encode_plain)

    def __reduce__(self):
        return ChatEncoder, (self.tokenizer,)  # caches and the tokenizer's copy are made anew in another process

    @property
    def opening(self) -> str:
        """What the template puts between the generation prompt and a last answer: Qwen3's empty thoughts, or nothing.

        A model that was trained with this template writes it before its answer.
        """
        *_, answer = self._layout((("user", ("text",)), ("assistant", ("text",))), False).words
        return answer.filled(["", ""])

    def encode(
        self,
        messages: list,
        *,
        supervise: Supervision = "answers",
        generation_prompt: bool = False,
        checked: bool = False,
    ) -> EncodedChat:
        """Token ids of a conversation. With `generation_prompt` it ends where the assistant is to speak.

        `checked` says that these very messages have passed `check_messages` before, in an index.
        """
        if not checked:
            check_messages(messages)
        shape, texts = _shape_and_texts(messages)
        layout = self._layout(shape, generation_prompt)
        asked = self._asked(layout, shape, texts, generation_prompt, touched=any(map(self._touches, texts)))
        spelled = iter(self._texts.encode(asked))
        ids: list[int] = []
        supervised: list[bool] = []
        for number, piece in enumerate(layout.pieces):
            if isinstance(piece, Words):
                new: Sequence[int] = next(spelled)
                learnt = range(0)
                if piece.role == "assistant":
                    learnt = range(len(new))
                elif supervise == "text" and piece.role == "user":
                    learnt = self._own(piece, new)
            else:
                new = piece.ids
                learnt = range(len(new) if piece.learnt else layout.ends_answer(number))
            flags = [False] * len(new)
            flags[learnt.start : learnt.stop] = [True] * len(learnt)
            ids.extend(new)
            supervised.extend(flags)
        return EncodedChat(ids, supervised, layout.visuals)

    def measure(self, conversations: Sequence[list]) -> list[ChatSize | ValueError]:
        """The sizes that `encode` would give, of many conversations at once, or why one of them cannot be encoded.

        Words that several beginnings of a conversation share are tokenized once, and all in one batch.
        """
        asked: list[str] = []
        drafts: list[list[tuple[int, Layout, list[int]]] | ValueError] = []
        for messages in conversations:
            try:
                check_messages(messages)
                drafts.append(self._beginnings(messages, asked))
            except ValueError as error:
                drafts.append(error)
        spelled = self._texts.encode(asked)
        return [draft if isinstance(draft, ValueError) else self._measure(draft, spelled) for draft in drafts]

    def _beginnings(self, messages: list, asked: list[str]) -> list[tuple[int, Layout, list[int]]]:
        """Where a conversation may end: messages, layout, and the places in `asked` of what is to be tokenized."""
        shape, texts = _shape_and_texts(messages)
        touched = [self._touches(text) for text in texts]
        places: dict[str | Words, int] = {}
        rows = []
        for count in range(1, len(shape) + 1):
            if count < len(shape) and shape[count - 1][0] != "assistant":
                continue
            layout = self._layout(shape[:count], False)
            heard = sum(types.count("text") for _, types in shape[:count])
            keys: Sequence[str | Words] = layout.words
            if any(touched[:heard]):
                keys = self._asked(layout, shape[:count], texts[:heard], False, touched=True)
            found = []
            for key in keys:
                if key not in places:
                    places[key] = len(asked)
                    asked.append(key if isinstance(key, str) else key.filled(texts))
                found.append(places[key])
            rows.append((count, layout, found))
        return rows

    def _measure(self, beginnings: list[tuple[int, Layout, list[int]]], spelled: list[list[int]]) -> ChatSize:
        """Sums over each beginning: its template's tokens, and those of the words heard by then."""
        rows = []
        for messages, layout, places in beginnings:
            tokens, answers, spoken = layout.fixed_tokens, layout.fixed_targets, 0
            for words, place in zip(layout.words, places, strict=True):
                tokens += len(spelled[place])
                if words.role == "assistant":
                    answers += len(spelled[place])
                elif words.role == "user":
                    spoken += len(self._own(words, spelled[place]))
            rows.append((messages, tokens, answers, answers + spoken, len(layout.visuals)))
        cuts, tokens_of, answers_of, spoken_of, images = zip(*rows, strict=True)
        return ChatSize(cuts, tokens_of, answers_of, spoken_of, images, beginnings[-1][1].visuals)

    def _own(self, words: Words, ids: Sequence[int]) -> range:
        """Places of the tokens that are not the template's: one that both share is theirs who speak."""
        before, after = self._plain_ids(words.before), self._plain_ids(words.after)
        start, stop = 0, len(ids)
        while start < min(len(before), stop) and ids[start] == before[start]:
            start += 1
        while stop > max(start, len(ids) - len(after)) and ids[stop - 1] == after[stop - 1 - len(ids)]:
            stop -= 1
        return range(start, stop)

    def _touches(self, text: str) -> bool:
        """Whether a template might not show the text as it is: it trims, or looks for something that stands there."""
        if not text or (self._trims and (text[0].isspace() or text[-1].isspace())):
            return True
        return any(word in text for word in self._looks_for)

    def _asked(
        self, layout: Layout, shape: tuple, texts: list[str], generation_prompt: bool, *, touched: bool
    ) -> list[str]:
        """What is to be tokenized of each of the layout's words, as the template shows it to transformers."""
        if not touched:
            return [words.filled(texts) for words in layout.words]
        known: list[str] = []

        def hide(match: re.Match[str]) -> str:
            known.append(match[0])
            return f"\ue000{len(known) - 1}\ue001"

        hidden = [self._control.sub(hide, text) for text in texts]
        shown = layout.found(self._render(shape, hidden, generation_prompt))
        shown = [MARK.sub(lambda mark: known[int(mark[1])], text) for text in shown]
        return [words.around(text) for words, text in zip(layout.words, shown, strict=True)]

    def _encode_template(self, piece: str) -> Fixed:
        ids = tuple(self.tokenizer(piece, add_special_tokens=False)["input_ids"])
        kinds = {self.image_token_id: "image", self.video_token_id: "video"}
        return Fixed(ids, tuple(kinds[token] for token in ids if token in kinds))

    def _encode_plain(self, text: str) -> tuple[int, ...]:
        return tuple(self._texts.encode([text])[0])

    def _joins(self, lead: str, core: str, tail: str) -> bool:
        apart = (*self._plain_ids(lead), *self._template_ids(core).ids, *self._plain_ids(tail))
        return apart == self._template_ids(lead + core + tail).ids

    def _lay_out(self, shape: tuple, generation_prompt: bool) -> Layout:
        speakers = [(number, role) for number, (role, types) in enumerate(shape) for _ in range(types.count("text"))]

        def prompt(message: int) -> str:
            try:
                *_, last = self._pieces(shape[:message], True)
            except ValueError:
                return "\0"  # a conversation that the template refuses to go on with: nothing begins so
            return last if isinstance(last, str) else ""

        template = Template(prompt, self._control, self._template_ids, self._joins)
        return layout_of(self._pieces(shape, generation_prompt), speakers, template)

    def _pieces(self, shape: tuple, generation_prompt: bool) -> list[str | int]:
        """The template's text, cut at the places where the texts go (their number, in order)."""
        if self.video_token_id is None and any("video" in types for _, types in shape):
            raise ValueError(f"the tokenizer has no {VIDEO_PAD}, which marks the place of a video")
        count = sum(types.count("text") for _, types in shape)
        marks = [f"\ue000{number}\ue001" for number in range(count)]
        parts = MARK.split(self._render(shape, marks, generation_prompt))
        pieces = [int(part) if place % 2 else part for place, part in enumerate(parts) if part]
        found = [piece for piece in pieces if isinstance(piece, int)]
        if found != list(range(count)):
            raise ValueError(
                f"the chat template leaves texts out: it shows texts {found} of a conversation with {count} texts"
            )
        return pieces

    def _render(self, shape: tuple, texts: Sequence[str], generation_prompt: bool) -> str:
        """The template's text of a conversation of this shape."""
        given = iter(texts)
        messages = [
            {
                "role": role,
                "content": [
                    {"type": "text", "text": next(given)} if kind == "text" else {"type": kind} for kind in types
                ],
            }
            for role, types in shape
        ]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
        except TemplateError as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from error


def _shape_and_texts(messages: list) -> tuple[tuple, list[str]]:
    """Roles and part types of a conversation, and its texts."""
    parts = [(message["role"], _parts(message)) for message in messages]
    shape = tuple((role, tuple(part["type"] for part in content)) for role, content in parts)
    texts = [part["text"] for _, content in parts for part in content if part["type"] == "text"]
    return shape, texts


def _parts(message: dict) -> list[dict]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def check_messages(messages: list) -> None:
    """Refuse what no model should learn from: unknown roles and parts, empty answers, broken text."""
    if not messages:
        raise ValueError("the conversation is empty")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f"message {number} is a {type(message).__name__}, no object with role and content")
        content = message.get("content")
        if not isinstance(content, str) and not (
            isinstance(content, list) and all(isinstance(part, dict) for part in content)
        ):
            raise ValueError(f"message {number} has no content that is a text or a list of parts")
        role = message.get("role")
        if role not in _ROLES:
            raise ValueError(f"message {number} has an unknown role: {role!r}; known are {', '.join(_ROLES)}")
        parts = _parts(message)
        for part in parts:
            if part.get("type") not in _PARTS:
                known = ", ".join(_PARTS)
                raise ValueError(
                    f"message {number} has a part of an unknown type: {part.get('type')!r}; known are {known}"
                )
            if part["type"] == "text":
                if not isinstance(part.get("text"), str):
                    raise ValueError(f"message {number} has a text part without text")
                if _FORBIDDEN.search(part["text"]):
                    raise ValueError(f"message {number} has a character that no text may hold (NUL or a surrogate)")
            elif role != "user":
                shown = "picture" if part["type"] == "image" else "video"
                raise ValueError(f"message {number} puts a {shown} into the {role}'s turn")
        if role == "assistant" and not any(part["type"] == "text" and part["text"] for part in parts):
            raise ValueError(f"message {number} is an empty answer")
    speakers = [message["role"] for message in messages if message["role"] != "system"]
    if not speakers or speakers[0] != "user":
        raise ValueError("the conversation does not begin with the user")
