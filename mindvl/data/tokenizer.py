"""The tokenizer: loaded from a hub id or folder, or the small byte-level one that the quickstart makes.

A byte-level tokenizer without merges has 256 tokens and reads any text of any language; it suits models that are
trained from nothing in minutes, where one glyph per token makes reading learnable.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

VISION_START, IMAGE_PAD, VISION_END = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
"""Qwen's vision tokens; the language model sees one IMAGE_PAD per visual token."""

_SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>", VISION_START, IMAGE_PAD, VISION_END)

_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, a chat template of one token per role mark, and the vision tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(_SPECIAL),
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    return fast


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
