"""From a conversation to token ids and a mask of what is learnt.

Messages are in transformers' chat format: content is a string or a list of `{"type": "text", "text": ...}`,
`{"type": "image"}` and `{"type": "video"}` parts, as many and in whatever order the user shows them. The tokenizer's
own chat template is rendered once per *shape* of conversation (roles and part types) with marks in place of the texts;
the pieces between the marks are the template's, and only they may hold special tokens. So a user who types "<|im_end|>"
gets those ten characters, not the end of his turn.

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

from mindvl.data.text_encoder import TextEncoder
from mindvl.data.tokenizer import IMAGE_PAD, VIDEO_PAD, text_only, video_token_id_of

Supervision = Literal["answers", "text"]
"""What the loss sees: assistant turns only, or every word of user and assistant."""

_MARK = re.compile("\ue000(\\d+)\ue001")
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
        self._texts = TextEncoder(text_only(tokenizer))
        self._pieces = lru_cache(maxsize=1024)(self._render_shape)
        self._template_ids = lru_cache(maxsize=4096)(self._encode_template)
        self._template_visuals = lru_cache(maxsize=4096)(self._visuals_of_template)
        self._template_size = lru_cache(maxsize=4096)(self._measure_template)
        self._ends = lru_cache(maxsize=1024)(self._ends_of_shape)

    def __reduce__(self):
        return ChatEncoder, (self.tokenizer,)  # caches and the tokenizer's copy are made anew in another process

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
        spelled = self._texts.encode([text for _, text in texts])
        ids: list[int] = []
        supervised: list[bool] = []
        visuals: tuple[str, ...] = ()
        ends_turn = False
        for piece in self._pieces(shape, generation_prompt):
            if isinstance(piece, str):
                new = list(self._template_ids(piece))
                visuals += self._template_visuals(piece)
                # The token that ends an assistant turn is learnt too, or the model would never stop.
                flags = [ends_turn and position == 0 for position in range(len(new))]
                ends_turn = False
            else:
                role, new = texts[piece][0], spelled[piece]
                learnt = role == "assistant" or (supervise == "text" and role == "user")
                flags = [learnt] * len(new)
                ends_turn = role == "assistant"
            ids.extend(new)
            supervised.extend(flags)
        return EncodedChat(ids, supervised, visuals)

    def measure(self, conversations: Sequence[list]) -> list[ChatSize | ValueError]:
        """The sizes that `encode` would give, of many conversations at once, or why one of them cannot be encoded.

        Texts are tokenized once each and in one batch; every prefix is then a sum.
        """
        shapes: list[tuple | ValueError] = []
        texts: list[str] = []
        roles: list[list[str]] = []
        for messages in conversations:
            try:
                check_messages(messages)
                shape, spoken = _shape_and_texts(messages)
                self._pieces(shape, False)
            except ValueError as error:
                shapes.append(error)
                continue
            shapes.append(shape)
            roles.append([role for role, _ in spoken])
            texts.extend(text for _, text in spoken)
        lengths = iter(self._texts.lengths(texts))
        speakers = iter(roles)
        return [
            shape
            if isinstance(shape, ValueError)
            else self._measure(shape, [(role, next(lengths)) for role in next(speakers)])
            for shape in shapes
        ]

    def _measure(self, shape: tuple, texts: list[tuple[str, int]]) -> ChatSize:
        """Sums over each beginning: its template's tokens, and those of the texts heard by then."""
        answered, asked, told = [0], [0], [0]
        for role, length in texts:
            answered.append(answered[-1] + (length if role == "assistant" else 0))
            asked.append(asked[-1] + (length if role == "user" else 0))
            told.append(told[-1] + length)
        rows = []
        visuals: tuple[str, ...] = ()
        for messages, heard, template, ends, visuals in self._ends(shape):
            answers = answered[heard] + ends
            rows.append((messages, template + told[heard], answers, answers + asked[heard], len(visuals)))
        cuts, tokens, answer_tokens, spoken_tokens, images = zip(*rows, strict=True)
        return ChatSize(cuts, tokens, answer_tokens, spoken_tokens, images, visuals)

    def _ends_of_shape(self, shape: tuple) -> list[tuple[int, int, int, int, tuple[str, ...]]]:
        """Where a conversation may end: messages, texts heard by then, and what the template adds to them."""
        return [
            (
                messages,
                sum(types.count("text") for _, types in shape[:messages]),
                *self._template_size(shape[:messages]),
            )
            for messages in range(1, len(shape) + 1)
            if messages == len(shape) or shape[messages - 1][0] == "assistant"
        ]

    def _measure_template(self, shape: tuple) -> tuple[int, int, tuple[str, ...]]:
        """Of a shape's template: its tokens, those that end an assistant's turn, and its placeholders."""
        tokens = ends = 0
        visuals: tuple[str, ...] = ()
        after_answer = False
        speakers = [role for role, types in shape for kind in types if kind == "text"]
        for piece in self._pieces(shape, False):
            if isinstance(piece, str):
                ids = self._template_ids(piece)
                tokens, visuals = tokens + len(ids), visuals + self._template_visuals(piece)
                ends += int(after_answer and len(ids) > 0)
                after_answer = False
            else:
                after_answer = speakers[piece] == "assistant"
        return tokens, ends, visuals

    def _encode_template(self, piece: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(piece, add_special_tokens=False)["input_ids"])

    def _visuals_of_template(self, piece: str) -> tuple[str, ...]:
        kinds = {self.image_token_id: "image", self.video_token_id: "video"}
        return tuple(kinds[token] for token in self._template_ids(piece) if token in kinds)

    def _render_shape(self, shape: tuple, generation_prompt: bool) -> tuple[str | int, ...]:
        """The template's text, cut at the places where user and assistant texts go (their index, in order)."""
        if self.video_token_id is None and any("video" in types for _, types in shape):
            raise ValueError(f"the tokenizer has no {VIDEO_PAD}, which marks the place of a video")
        count = 0
        messages = []
        for role, types in shape:
            content = []
            for kind in types:
                if kind != "text":
                    content.append({"type": kind})
                else:
                    content.append({"type": "text", "text": f"\ue000{count}\ue001"})
                    count += 1
            messages.append({"role": role, "content": content})
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation_prompt
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from error
        pieces: list[str | int] = []
        for position, piece in enumerate(_MARK.split(rendered)):
            if position % 2:
                pieces.append(int(piece))
            elif piece:
                pieces.append(piece)
        found = [piece for piece in pieces if isinstance(piece, int)]
        if found != list(range(count)):
            raise ValueError(f"the chat template shows texts {found} of a conversation with {count} texts")
        return tuple(pieces)


def _shape_and_texts(messages: list) -> tuple[tuple, list[tuple[str, str]]]:
    """Roles and part types of a conversation, and its texts with the role that says each."""
    parts = [(message["role"], _parts(message)) for message in messages]
    shape = tuple((role, tuple(part["type"] for part in content)) for role, content in parts)
    texts = [(role, part["text"]) for role, content in parts for part in content if part["type"] == "text"]
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
            raise ValueError(f"message {number} has role {role!r}; known are {', '.join(_ROLES)}")
        parts = _parts(message)
        for part in parts:
            if part.get("type") not in _PARTS:
                known = ", ".join(_PARTS)
                raise ValueError(f"message {number} has a part of type {part.get('type')!r}; known are {known}")
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
