"""Ids that are remembered word by word are those of the tokenizer, for every text."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mindvl.data.text_encoder import TextEncoder
from mindvl.data.tokenizer import byte_tokenizer

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CORPUS = [
    "the cat's 12 hats aren't red, they're blue!",
    "Caf\u00e9 \u4e2d\u6587 x = [i] ** 2\n\n  def f():\n\treturn 0",
] * 40


def trained(splits: list[str], *, normalizer=None, byte_level: bool) -> Tokenizer:
    """A byte-level BPE with merges, as Qwen's and DeepSeek's are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    isolated = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in splits]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=byte_level)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*isolated, level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    tokenizer.encode_special_tokens = True
    return tokenizer


def plain_bytes() -> Tokenizer:
    tokenizer = Tokenizer.from_str(byte_tokenizer(["what", "is"]).backend_tokenizer.to_str())
    tokenizer.encode_special_tokens = True
    return tokenizer


TOKENIZERS = {
    "bytes": plain_bytes(),
    "qwen": trained([QWEN], normalizer=normalizers.NFC(), byte_level=False),
    "deepseek": trained([r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", QWEN], byte_level=False),
    "gpt2": trained([], byte_level=True),
}
ENCODERS = {name: TextEncoder(tokenizer) for name, tokenizer in TOKENIZERS.items()}
texts = (
    st.text()
    | st.text(st.sampled_from("ab Z9.,'!?\n\t\r<>|_\u00e9\u4e2d\u3002\u20ac\u0301\u017fs"))
    | st.sampled_from(CORPUS)
)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None, max_examples=150)
@given(st.lists(texts, max_size=4))
@example(["", "it's <think> <|im_end|>", "e\u0301", "  \n \n", "don'\u017f I'LL", "\ufeffx", "\U0001f600 \u0e01"])
def test_every_text_has_the_ids_that_the_tokenizer_gives(name, batch):
    expected = [encoding.ids for encoding in TOKENIZERS[name].encode_batch(batch, add_special_tokens=False)]
    assert ENCODERS[name].encode(batch) == expected
    assert ENCODERS[name].lengths(batch) == [len(ids) for ids in expected]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ordinary_text_is_not_left_to_the_tokenizer(name, monkeypatch):
    encoder = TextEncoder(TOKENIZERS[name])
    assert encoder._patterns and encoder._is_settled("A plain sentence, with 12 words.\n\u4e2d\u6587\u3002")
    assert not encoder._is_settled("\U0001f600")
    assert encoder._is_settled("so<think>\n\n</think>")


def test_an_added_token_that_takes_white_space_with_it_is_left_to_the_tokenizer():
    tokenizer = trained([QWEN], byte_level=False)
    tokenizer.add_tokens([AddedToken("<pad>", special=False, lstrip=True)])
    encoder, texts = TextEncoder(tokenizer), ["a <pad> b", "a <think> b"]
    assert encoder._patterns and not encoder._is_settled(texts[0])
    assert encoder.encode(texts) == [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def test_a_tokenizer_of_another_kind_is_asked_itself():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = TextEncoder(tokenizer)
    assert not encoder._patterns and encoder.encode(["a b c"]) == [[0, 1, 2]]


def test_a_split_that_engines_read_differently_is_left_to_the_tokenizer():
    tokenizer = trained([r"[A-Z&&[^T]]+"], byte_level=True)  # an intersection there, a plain set and a bracket here
    encoder, text = TextEncoder(tokenizer), "THE]x T] && CAT"
    assert not encoder._patterns
    assert encoder.encode([text]) == [tokenizer.encode(text, add_special_tokens=False).ids]


def test_the_memory_of_words_has_an_end(monkeypatch):
    monkeypatch.setattr("mindvl.data.text_encoder._MAX_WORDS", 10)
    encoder = TextEncoder(TOKENIZERS["bytes"])
    for number in range(200):
        assert encoder.encode([f"w{number}"]) == [TOKENIZERS["bytes"].encode(f"w{number}").ids]
    assert len(encoder._words) <= 14
