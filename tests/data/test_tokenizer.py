import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl.data.tokenizer import byte_tokenizer, load_tokenizer, tokenizer_fingerprint

TOKENIZER = byte_tokenizer(["read", "picture"])


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_from_its_tokens(text):
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert TOKENIZER.decode(ids) == text


def test_a_text_without_known_words_takes_one_token_per_byte():
    text = "xyz 1é"
    assert len(byte_tokenizer()(text, add_special_tokens=False)["input_ids"]) == len(text.encode())


def test_a_known_word_takes_one_token_only_where_it_stands_alone():
    assert len(TOKENIZER("read picture", add_special_tokens=False)["input_ids"]) == 2
    assert len(TOKENIZER("reads", add_special_tokens=False)["input_ids"]) == 5


def test_the_fingerprint_tells_vocabularies_and_templates_apart():
    plain, other = byte_tokenizer(), byte_tokenizer()
    assert tokenizer_fingerprint(plain) == tokenizer_fingerprint(other) != tokenizer_fingerprint(TOKENIZER)
    other.chat_template += " "
    assert tokenizer_fingerprint(plain) != tokenizer_fingerprint(other)


def test_encoding_does_not_change_the_fingerprint(encoder):
    before = tokenizer_fingerprint(encoder.tokenizer)
    encoder.encode([{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "a"}])
    assert tokenizer_fingerprint(encoder.tokenizer) == before


def test_a_saved_tokenizer_is_loaded_with_the_same_ids_and_template(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    back = load_tokenizer(tmp_path)
    assert back("read x", add_special_tokens=False)["input_ids"] == TOKENIZER("read x")["input_ids"]
    assert back.chat_template == TOKENIZER.chat_template and back.eos_token_id == TOKENIZER.eos_token_id


def test_a_tokenizer_without_vision_tokens_or_template_is_refused_by_name(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"bare: no token for <\|vision_start\|>, <\|image_pad\|>, <\|vision_end\|>"):
        load_tokenizer(tmp_path / "bare")
    silent = byte_tokenizer()
    silent.chat_template = None
    silent.save_pretrained(tmp_path / "silent")
    with pytest.raises(ValueError, match="silent: it has no chat template"):
        load_tokenizer(tmp_path / "silent")
