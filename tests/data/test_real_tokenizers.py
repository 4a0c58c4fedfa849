"""Real tokenizers: Qwen's, which has tokens for pictures, DeepSeek's and SmolLM2's, which have not."""

import logging

import pytest
from transformers import AutoTokenizer

from mindvl.batch import IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START
from mindvl.data.chat import ChatEncoder
from mindvl.data.chat_template import PREAMBLE, shows_pictures
from mindvl.data.tokenizer import _say_once, load_tokenizer, tokenizer_fingerprint

IDS = {  # start, end, picture, video
    "qwen": (151652, 151653, 151655, 151656),
    "deepseek": (129280, 129281, 129282, 129283),
    "smollm2": (49152, 49153, 49154, 49155),
}
CONTROL = {
    "qwen": ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|image_pad|>", "<|vision_start|>"],
    "deepseek": ["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<|image_pad|>", "<|vision_end|>"],
    "smollm2": ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|image_pad|>", "<|video_pad|>"],
}


@pytest.fixture(scope="module", params=list(IDS))
def real(request, asset):
    """Name and tokenizer."""
    return request.param, load_tokenizer(asset(request.param))


@pytest.fixture(scope="module")
def encoder(real):
    return ChatEncoder(real[1])


@pytest.fixture(scope="module")
def stock(real, asset):
    """The tokenizer as stock transformers reads it."""
    return AutoTokenizer.from_pretrained(asset(real[0]))


def conversation(question: str, answer: str = "blue") -> list[dict]:
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]


def test_the_ids_of_the_vision_tokens_are_qwens_own_or_follow_the_last(real):
    name, tokenizer = real
    tokens = (VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)
    assert tuple(tokenizer.convert_tokens_to_ids(list(tokens))) == IDS[name]
    assert len(tokenizer) == (151669 if name == "qwen" else IDS[name][-1] + 1)


def test_known_text_has_known_ids(asset):
    ids = load_tokenizer(asset("qwen"))("Hello world, 你好", add_special_tokens=False)["input_ids"]
    assert ids == [9707, 1879, 11, 220, 108386]


def test_the_new_tokens_are_said_in_one_line(asset, caplog):
    _say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for name in ("deepseek", "deepseek", "qwen"):
            load_tokenizer(asset(name))
    added = [record.getMessage() for record in caplog.records if "added" in record.getMessage()]
    assert len(added) == 1
    assert "added <|vision_start|> as 129280, <|vision_end|> as 129281, <|image_pad|> as 129282" in added[0]


def test_each_template_is_found_unable_to_show_pictures_and_taught_to(real, stock):
    _, tokenizer = real
    assert not shows_pictures(stock) and shows_pictures(tokenizer)
    assert tokenizer.chat_template == PREAMBLE + stock.chat_template


def test_a_conversation_of_strings_is_rendered_as_before(real, stock):
    _, tokenizer = real
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "What is 1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "and 2+2?"},
    ]
    for prompt in (False, True):
        rendered = (
            each.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            for each in (stock, tokenizer)
        )
        assert len(set(rendered)) == 1


def test_a_saved_tokenizer_shows_pictures_in_stock_transformers(real, tmp_path):
    name, tokenizer = real
    tokenizer.save_pretrained(tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    rendered = stock.apply_chat_template(conversation("What colour?"), tokenize=False)
    assert "<|vision_start|><|image_pad|><|vision_end|>What colour?" in rendered
    ids = stock(rendered, add_special_tokens=False)["input_ids"]
    assert ids.count(IDS[name][2]) == 1
    back = load_tokenizer(tmp_path)
    assert tokenizer_fingerprint(back) == tokenizer_fingerprint(tokenizer)


def test_the_encoder_spells_what_the_template_renders(real, encoder):
    _, tokenizer = real
    messages = conversation("What colour is the sky?")
    encoded = encoder.encode(messages)
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(encoded.input_ids) == rendered
    assert encoded.visuals == ("image",)
    learnt = [token for token, flag in zip(encoded.input_ids, encoded.supervised, strict=True) if flag]
    end = "<｜end▁of▁sentence｜>" if "DeepSeek" in rendered or "<｜User｜>" in rendered else "<|im_end|>"
    assert tokenizer.decode(learnt) == "blue" + end


def test_a_user_who_spells_control_tokens_types_text(real, encoder):
    name, tokenizer = real
    plain = encoder.encode(conversation("hello"))
    for token in CONTROL[name]:
        number = tokenizer.convert_tokens_to_ids(token)
        assert number is not None and tokenizer(token, add_special_tokens=False)["input_ids"] == [number]
        encoded = encoder.encode(conversation(f"hello{token} you", answer=f"so{token}"))
        assert encoded.input_ids.count(number) == plain.input_ids.count(number), token
        assert tokenizer.decode(encoded.input_ids).count(token) == plain.input_ids.count(number) + 2, token


def test_a_video_has_its_own_placeholder(real, encoder):
    messages = conversation("what happens?")
    messages[0]["content"].insert(0, {"type": "video"})
    encoded = encoder.encode(messages)
    assert encoded.visuals == ("video", "image") and encoded.input_ids.count(IDS[real[0]][3]) == 1
