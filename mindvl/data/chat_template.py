"""Chat templates that do not know pictures learn to show them.

Qwen3's template, DeepSeek's, SmolLM2's and most others expect a message's content to be a string. Ours come in parts:

    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "read it"}]}

A few lines of Jinja before such a template rebuild its messages, each part spelled in tokens:

    {"role": "user", "content": "<|vision_start|><|image_pad|><|vision_end|>read it"}

The lines belong to the saved tokenizer, so stock transformers, vLLM and others render the same text from it. Whether a
template needs them is found by rendering one conversation, never from its name.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import Environment, TemplateError
from jinja2.lexer import Token
from transformers import PreTrainedTokenizerBase

from mindvl.batch import IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START

_PICTURE = f"{VISION_START}{IMAGE_PAD}{VISION_END}"
_VIDEO = f"{VISION_START}{VIDEO_PAD}{VISION_END}"

PREAMBLE = (
    "{%- set spelled = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message.content is string or not message.content -%}"
    "{%- set spelled.messages = spelled.messages + [message] -%}"
    "{%- else -%}"
    "{%- set words = namespace(text='') -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{%- set words.text = words.text + '" + _PICTURE + "' -%}"
    "{%- elif part.type == 'video' -%}{%- set words.text = words.text + '" + _VIDEO + "' -%}"
    "{%- else -%}{%- set words.text = words.text + part.text -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- set spelled.messages = spelled.messages + [dict(message, content=words.text)] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = spelled.messages -%}"
)

_TRIMMING = {"trim", "strip", "lstrip", "rstrip"}

_QUESTION, _ANSWER = "question-without-a-mark", "answer-without-a-mark"
_PROBE = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _QUESTION}]},
    {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]},
]


def shows_pictures(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template renders a picture as one placeholder, and the texts beside it."""
    try:
        rendered = tokenizer.apply_chat_template(_PROBE, tokenize=False)
    except (TemplateError, TypeError, KeyError):  # a string was expected, and a list was added to one
        return False
    return all(rendered.count(word) == 1 for word in (_PICTURE, _QUESTION, _ANSWER))


def teach_pictures(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the template show pictures, if it does not.

    Raises ValueError when it does not show them even as text, which is no fault of their form.
    """
    if shows_pictures(tokenizer):
        return
    before = tokenizer.chat_template
    if isinstance(before, dict):  # several templates by name
        tokenizer.chat_template = {name: PREAMBLE + template for name, template in before.items()}
    else:
        tokenizer.chat_template = PREAMBLE + before
    if not shows_pictures(tokenizer):
        tokenizer.chat_template = before
        raise ValueError("its chat template does not show what user and assistant say, spelled as text either")


def words_that_matter(template: str | dict[str, str] | None) -> tuple[str, ...]:
    """What a template might look for in a text: all that its code spells, plain words and white space left out.

    Names of roles and fields are such plain words. More than it looks for is no harm: a text that holds one of these
    is only rendered for itself.
    """
    spelled = {token.value for token in _code(template) if token.type == "string"}
    return tuple(sorted(word for word in spelled if word.strip() and not word.replace("_", "a").isalnum()))


def trims(template: str | dict[str, str] | None) -> bool:
    """Whether a template's code names something that takes white space off the ends of a text."""
    return any(token.type == "name" and token.value in _TRIMMING for token in _code(template))


def _code(template: str | dict[str, str] | None) -> Iterator[Token]:
    for source in template.values() if isinstance(template, dict) else [template or ""]:
        yield from Environment().lexer.tokenize(source)
