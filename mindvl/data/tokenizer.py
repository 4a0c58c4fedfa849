"""The tokenizer: loaded from a hub id or folder, or the small byte-level one that the quickstart makes.

A byte-level tokenizer without merges reads any text of any language; it suits models that are trained from nothing in
minutes, where one glyph per token makes reading learnable.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mindvl.batch import IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START
from mindvl.data.chat_template import teach_pictures
from mindvl.vision_tokens import add_vision_tokens

log = logging.getLogger(__name__)

_SPECIAL = (
    "<|endoftext|>",
    "<|im_end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    VISION_START,
    IMAGE_PAD,
    VISION_END,
    VIDEO_PAD,  # last, so that the others keep their ids
)

_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
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
        name_or_path="bytes",
    )


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer from a hub id or folder; the name "bytes" makes `byte_tokenizer()`.

    One without tokens for pictures gets them behind its last id, in a fixed order, and a chat template that shows
    texts only learns to show pictures. Code that a folder brings is never run. ValueError when there is no tokenizer of
    that name, or it has no chat template.
    """
    if str(name) == "bytes":
        return byte_tokenizer()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
    except (OSError, ValueError) as error:
        missing = "no such folder, and the hub does not give it"
        found = "the folder holds no tokenizer that can be read" if Path(name).is_dir() else missing
        raise ValueError(f"tokenizer {name}: {found}: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"tokenizer {name}: {type(tokenizer).__name__} has no tokenizer.json, which texts are read by")
    if tokenizer.chat_template is None:
        raise ValueError(
            f"tokenizer {name}: it has no chat template; write one to chat_template.jinja in its folder, or set "
            f"tokenizer.chat_template and save it with save_pretrained"
        )
    added = add_vision_tokens(tokenizer)
    if added:
        _say_once(f"tokenizer {name}: added {', '.join(f'{token} as {number}' for token, number in added.items())}")
    try:
        teach_pictures(tokenizer)
    except ValueError as error:
        raise ValueError(f"tokenizer {name}: {error}") from error
    return tokenizer


@cache
def _say_once(message: str) -> None:
    log.warning(message)


def check_same_vocabulary(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer whose ids mean other tokens than a language model was trained with.

    `other` is the language model's own; tokens that were added behind it are no difference. ValueError says how many
    tokens disagree, and shows one with both its ids.
    """
    ours, theirs = tokenizer.get_vocab(), other.get_vocab()
    differ = sorted((number, token) for token, number in theirs.items() if ours.get(token) != number)
    if differ:
        number, token = differ[0]
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path} has {len(ours)} tokens, the language model's own {len(theirs)}, and "
            f"{len(differ)} of these are others: {token!r} is {ours.get(token, 'unknown')} instead of {number}"
        )


def video_token_id_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of VIDEO_PAD; None for a tokenizer that has no such token and so reads no videos."""
    found = tokenizer.convert_tokens_to_ids(VIDEO_PAD)
    return None if found == tokenizer.unk_token_id else found


def text_only(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer as what users type is read with: a text is a text, whatever control tokens it spells.

    Control tokens are those marked special, and all that begin like one: DeepSeek's <｜User｜> is not marked.
    """
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    added = plain.get_added_tokens_decoder().values()
    plain.add_special_tokens([token for token in added if token.content.startswith(("<|", "<｜"))])
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    return plain


_RULE = 2
"""Of `mindvl.data.chat`: grows when conversations get other tokens or targets under the same tokenizer."""


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Short hash of all that decides token ids: vocabulary, merges, added tokens, chat template and how it is read."""
    state = f"{_RULE} {tokenizer.backend_tokenizer.to_str()}{tokenizer.chat_template}"
    return hashlib.blake2b(state.encode(), digest_size=8).hexdigest()
