import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mindvl.data.chat_template import PREAMBLE, teach_pictures
from mindvl.data.tokenizer import (
    byte_tokenizer,
    check_same_vocabulary,
    load_tokenizer,
    text_only,
    tokenizer_fingerprint,
)
from mindvl.vision_tokens import add_vision_tokens

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


def test_a_tokenizer_without_a_chat_template_is_refused_with_the_way_to_give_one(tmp_path):
    silent = byte_tokenizer()
    silent.chat_template = None
    silent.save_pretrained(tmp_path / "silent")
    with pytest.raises(
        ValueError, match=r"silent: it has no chat template; write one to chat_template\.jinja in its fol"
    ):
        load_tokenizer(tmp_path / "silent")
    (tmp_path / "silent" / "chat_template.jinja").write_text(byte_tokenizer().chat_template)
    assert load_tokenizer(tmp_path / "silent").chat_template == byte_tokenizer().chat_template


def test_a_tokenizer_that_is_not_there_is_refused_by_name(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=rf"^tokenizer {tmp_path}/none: no such folder, and the hub .*Repo id.*$"):
        load_tokenizer(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"^tokenizer {tmp_path}/empty: the folder holds no tokenizer that can .*$"):
        load_tokenizer(tmp_path / "empty")

    def offline(name, **settings):
        raise OSError("We couldn't connect to the hub.\nCheck your internet connection")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(ValueError, match=r"^tokenizer no/such: no such folder, .* We couldn't connect to the hub\.$"):
        load_tokenizer("no/such")


def test_a_template_that_hides_what_is_said_is_refused(tmp_path):
    hiding = byte_tokenizer()
    hiding.chat_template = "{% for message in messages %}{{ message.role }}{% endfor %}"
    hiding.save_pretrained(tmp_path / "hiding")
    with pytest.raises(ValueError, match="hiding: its chat template does not show what user and assistant say"):
        load_tokenizer(tmp_path / "hiding")


def stranger(folder, *, template: str, special: tuple[str, ...] = ()):
    """A tokenizer of a few letters in a folder, and that folder."""
    model = models.BPE(vocab={letter: number for number, letter in enumerate("abc")}, merges=[])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), additional_special_tokens=list(special))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


STRINGS = "{% for message in messages %}{{ message.role + ':' + message.content }}{% endfor %}"


def test_vision_tokens_follow_the_last_id_in_a_fixed_order(tmp_path):
    tokenizer = load_tokenizer(stranger(tmp_path / "letters", template=STRINGS))
    tokens = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    assert tokenizer.convert_tokens_to_ids(tokens) == [3, 4, 5, 6] and len(tokenizer) == 7
    assert add_vision_tokens(tokenizer) == {}


def test_tokens_that_are_there_keep_their_ids_and_a_missing_video_token_alone_is_not_added(tmp_path):
    some = load_tokenizer(stranger(tmp_path / "some", template=STRINGS, special=("<|image_pad|>",)))
    assert some.convert_tokens_to_ids(["<|image_pad|>", "<|vision_start|>"]) == [3, 4]
    pictures = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
    assert len(load_tokenizer(stranger(tmp_path / "pictures", template=STRINGS, special=pictures))) == 6


def test_a_template_of_strings_shows_pictures_and_videos_in_their_places(tmp_path):
    tokenizer = load_tokenizer(stranger(tmp_path / "letters", template=STRINGS))
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}, {"type": "video"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]
    picture, video = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video"))
    assert tokenizer.apply_chat_template(messages, tokenize=False) == f"user:a{picture}b{video}assistant:c"


def test_each_of_several_templates_is_taught(tmp_path):
    folder = stranger(tmp_path / "letters", template=STRINGS)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = {"default": STRINGS, "tool_use": STRINGS + "tools"}
    teach_pictures(tokenizer)
    assert all(template.startswith(PREAMBLE) for template in tokenizer.chat_template.values())


def test_a_template_that_shows_pictures_is_left_alone():
    tokenizer = byte_tokenizer()
    before = tokenizer.chat_template
    teach_pictures(tokenizer)
    assert tokenizer.chat_template == before


def test_a_vocabulary_with_tokens_behind_it_is_the_same_and_another_is_refused(tmp_path):
    own = byte_tokenizer()
    longer = byte_tokenizer()
    longer.add_tokens(["more"])
    check_same_vocabulary(longer, own)
    with pytest.raises(
        ValueError, match=r"bytes has 265 tokens, the language model's own 266, and 1 of .*'more' is unknown"
    ):
        check_same_vocabulary(own, longer)


def test_control_tokens_are_texts_to_the_text_tokenizer_marked_special_or_not():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<|unmarked|>", "<word>"])
    plain = text_only(tokenizer)
    for control in ("<|im_end|>", "<|unmarked|>"):
        assert len(plain.encode(control).ids) == len(control)
    assert len(plain.encode("<word>").ids) == 1  # no control token: what it is to others, it is here
