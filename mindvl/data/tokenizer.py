"""The tokenizer: loaded from a hub id or folder, or the small byte-level one that the quickstart makes.

A byte-level tokenizer without merges reads any text of any language; it suits models that are trained from nothing in
minutes, where one glyph per token makes reading learnable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

VISION_START, IMAGE_PAD, VISION_END = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
"""Qwen's vision tokens; the language model sees one IMAGE_PAD per visual token."""

_SPECIAL = (
    "<|endoftext|>",
    "<|im_end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    VISION_START,
    IMAGE_PAD,
    VISION_END,
)

_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(words: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """One token per byte and one for each of `words` where it stands alone, with or without a blank before it.

    Frequent words of questions are worth a token; every other text, above all text that is to be read off a picture,
    stays one token per byte. The chat template spends one token on a role mark.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelled = {piece for word in words for text in (word, " " + word) for piece, _ in level.pre_tokenize_str(text)}
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, *sorted(spelled - set(alphabet))])}
    # Without merges a piece is either in the vocabulary as a whole or falls into bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = level
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(_SPECIAL),
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer from a hub id or folder; the name "bytes" makes `byte_tokenizer()`.

    Raises ValueError when it lacks the vision tokens or a chat template.
    """
    tokenizer = byte_tokenizer() if str(name) == "bytes" else AutoTokenizer.from_pretrained(str(name))
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (VISION_START, IMAGE_PAD, VISION_END) if token not in vocabulary]
    if missing:
        raise ValueError(f"tokenizer {name}: no token for {', '.join(missing)}, which mark a picture's place")
    if tokenizer.chat_template is None:
        raise ValueError(f"tokenizer {name}: it has no chat template")
    return tokenizer


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Short hash of all that decides token ids: vocabulary, merges, added tokens and the chat template."""
    state = tokenizer.backend_tokenizer.to_str() + str(tokenizer.chat_template)
    return hashlib.blake2b(state.encode(), digest_size=8).hexdigest()
