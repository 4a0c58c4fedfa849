"""Steps that read the words of a conversation.

A step is a plain function of one sample: it returns the sample (this one, or a changed one) or the reason for which the
sample is dropped. Reasons are few and fixed texts, so that a report can count them.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from mindvl.data.raw import RawSample, kind_of

# A run of letters and digits is a word; so is each Chinese character, Japanese kana or Korean syllable, which come
# without blanks between them.
_WORD = re.compile(r"[぀-ヿ㐀-䶿一-鿿가-힯]|[^\W_぀-ヿ㐀-䶿一-鿿가-힯]+")


def message_text(message: dict[str, Any]) -> str:
    """The words of one message, its text parts joined by newlines; content is a string or a list of parts."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def sample_text(sample: RawSample) -> str:
    """All that is said in a conversation, one message after another."""
    return "\n".join(message_text(message) for message in sample.messages)


def well_formed(sample: RawSample) -> RawSample | str:
    """Turns alternate from user to assistant, no answer is empty, and each picture or video has its placeholder."""
    roles = [message.get("role") for message in sample.messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        return "turns do not alternate"
    if any(not message_text(m).strip() for m in sample.messages if m["role"] == "assistant"):
        return "empty answer"
    parts = [part for m in sample.messages if not isinstance(m["content"], str) for part in m["content"]]
    shown = [part["type"] for part in parts if part.get("type") in ("image", "video")]
    if shown != [kind_of(visual) for visual in sample.images]:
        return "placeholders and pictures differ in number"
    return sample


def clean_text(sample: RawSample) -> RawSample | str:
    """Mends texts and drops nothing: Unicode NFC, plain newlines, no other control characters, no blanks at the end.

    Blanks at the beginning stay: they are empty cells of a text-only document, or the indentation of code.
    """

    def cleaned(text: str) -> str:
        text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
        return "".join(char for char in text if char in "\t\n" or unicodedata.category(char) != "Cc").rstrip()

    def of_content(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
        if isinstance(content, str):
            return cleaned(content)
        return [{**part, "text": cleaned(part["text"])} if part.get("type") == "text" else part for part in content]

    messages = [{**message, "content": of_content(message["content"])} for message in sample.messages]
    return RawSample(sample.key, {**sample.record, "messages": messages}, sample.images)


def text_length(sample: RawSample, *, min_chars: int = 1, max_chars: int = 20_000) -> RawSample | str:
    """Bounds on the characters of a whole conversation, questions and answers together."""
    chars = sum(len(message_text(message)) for message in sample.messages)
    if chars < min_chars:
        return "text too short"
    return "text too long" if chars > max_chars else sample


def repeated_ngrams(sample: RawSample, *, n: int = 5, max_ratio: float = 0.3) -> RawSample | str:
    """Drops answers that say the same again: the share of their characters inside repeated n-grams is too large.

    The rule is Gopher's (Rae et al., arXiv 2112.11446, appendix A.1.1: "duplicate n-gram character fraction"; for
    5-grams it allows 0.15). Ours differs: one n instead of six, a higher limit (answers about tables and charts repeat
    themselves by nature), each answer is judged by itself (a template that asks twice is no fault of the answers), the
    first occurrence of an n-gram is not held against it, and Chinese characters count as words.
    """
    for message in sample.messages:
        if message["role"] == "assistant" and repeated_ratio(message_text(message), n=n) > max_ratio:
            return "answer repeats itself"
    return sample


def repeated_ratio(text: str, *, n: int) -> float:
    """Characters of words in n-grams that occurred before, over the characters of all words; each counted once.

    "a b a b a b" with n=2: the n-grams are ab ba ab ba ab, the last three repeat; they cover 4 of 6 characters.
    """
    words = _WORD.findall(text.casefold())
    seen: set[tuple[str, ...]] = set()
    repeated = [False] * len(words)
    for start in range(len(words) - n + 1):
        gram = tuple(words[start : start + n])
        if gram in seen:
            repeated[start : start + n] = [True] * n
        seen.add(gram)
    total = sum(map(len, words))
    return sum(len(word) for word, again in zip(words, repeated, strict=True) if again) / total if total else 0.0
