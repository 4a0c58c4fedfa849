"""What a user types is text; what is learnt is the answer and the token that ends it."""

import pytest
from transformers import PreTrainedTokenizerFast

from mindvl.data.chat import ChatEncoder
from mindvl.data.tokenizer import _SPECIAL, IMAGE_PAD, VIDEO_PAD, byte_tokenizer

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def qwen() -> ChatEncoder:
    """An encoder over Qwen2.5-VL's chat template and special tokens."""
    base = byte_tokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base.backend_tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", *base.all_special_tokens],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )
    return ChatEncoder(tokenizer)


@pytest.fixture(params=["bytes", "qwen"])
def chat(request, encoder, qwen) -> ChatEncoder:
    return {"bytes": encoder, "qwen": qwen}[request.param]


def user(*content) -> dict:
    parts = [{"type": "image"} if part is IMAGE_PAD else {"type": "text", "text": part} for part in content]
    return {"role": "user", "content": parts}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def learnt(chat: ChatEncoder, messages: list, supervise: str = "answers") -> str:
    encoded = chat.encode(messages, supervise=supervise)
    assert len(encoded.input_ids) == len(encoded.supervised)
    return chat.tokenizer.decode(
        [token for token, flag in zip(encoded.input_ids, encoded.supervised, strict=True) if flag]
    )


def test_the_ids_spell_the_rendered_template(chat):
    messages = [user(IMAGE_PAD, "read it."), assistant("abc"), user("more?"), assistant("no")]
    rendered = chat.tokenizer.apply_chat_template(messages, tokenize=False)
    encoded = chat.encode(messages)
    assert chat.tokenizer.decode(encoded.input_ids) == rendered
    assert encoded.input_ids == chat.tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_answers_only_learns_exactly_the_answers_and_their_end_tokens(chat):
    messages = [user(IMAGE_PAD, "read it."), assistant("abc"), user("and?"), assistant("no more")]
    assert learnt(chat, messages) == "abc<|im_end|>no more<|im_end|>"


def test_text_supervision_learns_questions_too_and_still_no_template(chat):
    messages = [{"role": "system", "content": "be kind"}, user(IMAGE_PAD, "read it."), assistant("abc")]
    assert learnt(chat, messages, "text") == "read it.abc<|im_end|>"


def test_a_user_who_spells_special_tokens_types_text(chat):
    special = "<|im_end|><|image_pad|><|vision_start|><|endoftext|>"
    encoded = chat.encode([user(IMAGE_PAD, special), assistant("abc")])
    plain = chat.encode([user(IMAGE_PAD, "#" * len(special)), assistant("abc")])
    assert encoded.num_images == 1 and encoded.input_ids.count(chat.image_token_id) == 1
    ends = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert encoded.input_ids.count(ends) == plain.input_ids.count(ends)
    assert chat.tokenizer.decode(encoded.input_ids).count(special) == 1


def test_an_answer_that_spells_the_end_token_ends_only_once(chat):
    encoded = chat.encode([user("?"), assistant("a<|im_end|>b")])
    end = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    targets = [token for token, flag in zip(encoded.input_ids, encoded.supervised, strict=True) if flag]
    assert targets.count(end) == 1 and targets[-1] == end


def test_a_user_who_types_template_syntax_types_text(chat):
    text = "{{ messages }}{% if x %}\\n<|user|>"
    assert text in chat.tokenizer.decode(chat.encode([user(text), assistant("a")]).input_ids)


def test_a_string_is_a_content_of_one_text(chat):
    parts = chat.encode([user("hello"), assistant("you")])
    assert chat.encode([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "you"}]) == parts


def test_a_generation_prompt_is_the_beginning_of_the_whole_conversation(chat):
    messages = [user(IMAGE_PAD, "read"), assistant("abc")]
    prompt = chat.encode(messages[:1], generation_prompt=True)
    whole = chat.encode(messages)
    assert whole.input_ids[: len(prompt.input_ids)] == prompt.input_ids and not any(prompt.supervised)
    assert whole.supervised.index(True) == len(prompt.input_ids)


def test_pictures_between_texts_keep_their_places(chat):
    text = chat.tokenizer.decode(chat.encode([user("one", IMAGE_PAD, "two", IMAGE_PAD), assistant("a")]).input_ids)
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    assert f"one{mark}two{mark}" in text


def test_white_space_and_other_scripts_come_back_unchanged(chat):
    text = "  a\n\n\tb  你好 🦔 é  "
    assert learnt(chat, [user("?"), assistant(text)]) == text + "<|im_end|>"


def test_two_conversations_of_one_shape_have_their_own_texts(chat):
    first, second = ([user(question), assistant(answer)] for question, answer in (("a", "b"), ("c", "d")))
    assert (learnt(chat, first, "text"), learnt(chat, second, "text")) == ("ab<|im_end|>", "cd<|im_end|>")


def test_pictures_and_videos_keep_their_order_and_their_own_placeholders(encoder):
    video = {"type": "video", "fps": 2.0}
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "then"}, video, {"type": "image"}]},
        assistant("a"),
        {"role": "user", "content": [video, {"type": "text", "text": "<|video_pad|>"}]},
        assistant("b"),
    ]
    chat = encoder.encode(messages)
    pads = {encoder.image_token_id: "image", encoder.video_token_id: "video"}
    assert [pads[token] for token in chat.input_ids if token in pads] == ["image", "video", "image", "video"]
    assert chat.visuals == ("image", "video", "image", "video") and chat.num_images == 4
    marks = encoder.tokenizer.decode(chat.input_ids)
    assert "then<|vision_start|><|video_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>" in marks
    (size,) = encoder.measure([messages])
    assert size.visuals == chat.visuals and size.images == (3, 4) and size.tokens[-1] == len(chat.input_ids)


def test_a_tokenizer_without_a_token_for_videos_refuses_them_by_its_name(monkeypatch):
    now = byte_tokenizer().get_vocab()
    monkeypatch.setattr("mindvl.data.tokenizer._SPECIAL", _SPECIAL[:-1])
    old = byte_tokenizer()
    assert old.get_vocab() == {token: id for token, id in now.items() if token != VIDEO_PAD}
    chat = ChatEncoder(old)
    assert chat.video_token_id is None and chat.encode([user(IMAGE_PAD, "?"), assistant("a")]).visuals == ("image",)
    messages = [{"role": "user", "content": [{"type": "video"}]}, assistant("a")]
    with pytest.raises(ValueError, match=r"the tokenizer has no <\|video_pad\|>, which marks the place of a video"):
        chat.encode(messages)
    (error,) = chat.measure([messages])
    assert isinstance(error, ValueError)


def test_qwens_own_template_shows_videos_where_they_stand(qwen):
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}, {"type": "image"}]}]
    chat = qwen.encode([*messages, assistant("a")])
    assert chat.visuals == ("video", "image") and chat.input_ids.count(qwen.video_token_id) == 1


REFUSED = {
    "the conversation is empty": [],
    "message 1 is an empty answer": [user("?"), assistant("")],
    "message 0 has an unknown role: 'tool'": [{"role": "tool", "content": "x"}],
    "does not begin with the user": [assistant("hello")],
    "message 0 has a character that no text may hold": [user("a\ud800b"), assistant("x")],
    "message 1 has a character that no text may hold": [user("a"), assistant("\x00")],
    "message 0 has a part of an unknown type: 'audio'; known are text, image, video": [
        {"role": "user", "content": [{"type": "audio"}]}
    ],
    "message 1 puts a video into the assistant's turn": [
        user("?"),
        {"role": "assistant", "content": [{"type": "video"}]},
    ],
    "message 0 has a text part without text": [{"role": "user", "content": [{"type": "text"}]}],
    "message 1 puts a picture into the assistant's turn": [
        user("?"),
        {"role": "assistant", "content": [{"type": "image"}]},
    ],
    "message 0 has no content that is a text or a list": [{"role": "user"}],
    "message 1 has no content that is a text or a list": [user("?"), {"role": "assistant", "content": None}],
    "message 0 has no content that is": [{"role": "user", "content": ["text"]}],
    "message 0 is a str, no object": ["hello"],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_conversation_that_cannot_be_learnt_from_is_refused(reason, encoder):
    with pytest.raises(ValueError, match=reason):
        encoder.encode(REFUSED[reason])


def test_a_template_that_hides_texts_is_refused(encoder):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content[0].text }}"
    with pytest.raises(ValueError, match=r"shows texts \[0\] of a conversation with 2 texts"):
        ChatEncoder(tokenizer).encode([user("a"), assistant("b")])
