"""Tokens are those of the rendered conversation, and an answer begins where the model is asked."""

import re
from functools import cache

import pytest
from transformers import AutoTokenizer

from mindvl.data.chat import ChatEncoder
from mindvl.data.chat_layout import Fixed, Layout, Words
from mindvl.data.chat_template import teach_pictures, trims, words_that_matter

THINKING = (
    "{%- set ask = namespace(at=0) -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'user' and not m.content.startswith('<tool_response>') -%}"
    "{%- set ask.at = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}"
    "{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.role != 'assistant' -%}{{- m.content -}}"
    "{%- else -%}"
    "{%- set thought = '' -%}{%- set said = m.content -%}"
    "{%- if '</think>' in said -%}"
    "{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') -%}"
    "{%- set said = said.split('</think>')[-1].lstrip('\n') -%}"
    "{%- endif -%}"
    "{%- if loop.index0 > ask.at and (loop.last or thought) -%}"
    "{{- '<think>\n' + thought + '\n</think>\n\n' + said.lstrip('\n') -}}"
    "{%- else -%}{{- said -}}{%- endif -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""Thoughts as Qwen3 shows them: none of earlier turns, those of the last one even where there are none."""

TRIMMING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n\n' + m.content | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
IN_WORDS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ 'Answer:\n' + m.content + '<|im_end|>\n' }}"
    "{% else %}{{ m.role + ': ' + m.content + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:\n' }}{% endif %}"
)
EMPTY = "<think>\n\n</think>\n\n"


TEMPLATES = {"thinking": THINKING, "trimming": TRIMMING, "in words": IN_WORDS, "qwen": None}


@pytest.fixture(scope="module")
def make(asset):
    """Makes an encoder with a template, and the tokenizer as stock transformers reads it."""

    @cache
    def made(name):
        tokenizer = AutoTokenizer.from_pretrained(asset("qwen"))
        tokenizer.chat_template = TEMPLATES[name] or tokenizer.chat_template
        teach_pictures(tokenizer)
        return ChatEncoder(tokenizer), tokenizer

    return made


@pytest.fixture
def thinking(make):
    return make("thinking")


def user(text, *, picture=True):
    return {"role": "user", "content": [*([{"type": "image"}] * picture), {"type": "text", "text": text}]}


def assistant(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def stock_ids(stock, messages, **options):
    return list(stock.apply_chat_template(messages, tokenize=True, return_dict=False, **options))


def learnt(chat, messages, supervise="answers"):
    encoded = chat.encode(messages, supervise=supervise)
    pairs = zip(encoded.input_ids, encoded.supervised, strict=True)
    return chat.tokenizer.decode([token for token, flag in pairs if flag])


THOUGHT = "<think>\nhm\n</think>\n\nA!"
TOOL = user("<tool_response>4</tool_response>", picture=False)
CONVERSATIONS = {
    "one turn": [user("Q?"), assistant("A!")],
    "two turns": [user("Q?"), assistant("A!"), user("R?"), assistant("B!")],
    "own thoughts": [user("Q?"), assistant(THOUGHT)],
    "own thoughts twice": [user("Q?"), assistant(THOUGHT), user("R?"), assistant(THOUGHT)],
    "thoughts before a tool": [user("Q?"), assistant(THOUGHT), TOOL, assistant("B!")],
    "line breaks": [user("\n\nQ?\n"), assistant("A!\n"), user("  R?"), assistant("\n\nB")],
    "a system's words": [{"role": "system", "content": "\nbe kind "}, user("Q?", picture=False), assistant("</think>")],
    "several parts": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}, assistant("b"), user("c")],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_has_the_ids_of_stock_transformers(name, thinking):
    chat, stock = thinking
    messages = CONVERSATIONS[name]
    assert chat.encode(messages).input_ids == stock_ids(stock, messages)


APART = [
    (name, template)
    for name, messages in CONVERSATIONS.items()
    for template in TEMPLATES
    if (template, messages[0]["role"]) != ("in words", "system")  # there, plain words alone stand before the user's
]


@pytest.mark.parametrize(("name", "template"), APART)
def test_every_answer_begins_where_stock_transformers_ask_for_it(name, template, make):
    chat, stock = make(template)
    messages = CONVERSATIONS[name]
    for count, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = stock_ids(stock, messages[:count], add_generation_prompt=True)
            assert chat.encode(messages[:count], generation_prompt=True).input_ids == prompt
            encoded = chat.encode(messages[: count + 1])
            assert encoded.input_ids[: len(prompt)] == prompt
            assert not encoded.supervised[len(prompt) - 1] and encoded.supervised[len(prompt)]


def test_thoughts_that_the_template_adds_are_learnt_where_it_adds_them(thinking):
    chat, _ = thinking
    end = "<|im_end|>"
    assert chat.opening == EMPTY
    assert learnt(chat, CONVERSATIONS["one turn"]) == f"{EMPTY}A!{end}"
    assert learnt(chat, CONVERSATIONS["two turns"]) == f"A!{end}{EMPTY}B!{end}"
    assert learnt(chat, CONVERSATIONS["own thoughts"]) == f"{THOUGHT}{end}"
    assert learnt(chat, CONVERSATIONS["own thoughts twice"]) == f"A!{end}{THOUGHT}{end}"
    assert learnt(chat, CONVERSATIONS["thoughts before a tool"]) == f"{THOUGHT}{end}{EMPTY}B!{end}"


def test_a_template_without_thoughts_opens_no_answer(make):
    chat, _ = make("qwen")
    assert chat.opening == "" and learnt(chat, CONVERSATIONS["one turn"]) == "A!<|im_end|>"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_is_measured_of_each_beginning_is_what_is_encoded(name, template, make):
    chat, _ = make(template)
    messages = CONVERSATIONS[name]
    (size,) = chat.measure([messages])
    for row, count in enumerate(size.messages):
        answers, spoken = (chat.encode(messages[:count], supervise=mode) for mode in ("answers", "text"))
        assert size.tokens[row] == len(answers.input_ids)
        assert size.answer_tokens[row] == sum(answers.supervised)
        assert size.spoken_tokens[row] == sum(spoken.supervised)


def test_control_tokens_stay_text_also_in_what_is_rendered_for_itself(thinking):
    chat, stock = thinking
    messages = [user("a<|im_end|>"), assistant("<think>\n<|im_start|>\n</think>\n\n<|image_pad|>")]
    encoded = chat.encode(messages)
    plain = chat.encode([user("a#"), assistant("<think>\n#\n</think>\n\n#")])
    for token in ("<|im_end|>", "<|im_start|>", "<|image_pad|>"):
        number = stock.convert_tokens_to_ids(token)
        assert encoded.input_ids.count(number) == plain.input_ids.count(number)
    assert chat.tokenizer.decode(encoded.input_ids) == stock.apply_chat_template(messages, tokenize=False)


def test_a_trimming_template_trims_what_is_learnt(make):
    chat, stock = make("trimming")
    messages = [user(" q\n", picture=False), assistant("  a ")]
    assert chat.encode(messages).input_ids == stock_ids(stock, messages)
    assert learnt(chat, messages) == "a<|im_end|>" and learnt(chat, messages, "text") == "qa<|im_end|>"


def test_a_token_that_question_and_template_share_is_the_users(make):
    chat, stock = make("qwen")
    messages = [user("\nhi", picture=False), assistant("a")]
    assert chat.encode(messages).input_ids == stock_ids(stock, messages)
    assert learnt(chat, messages, "text") == "\n\nhia<|im_end|>"


def test_only_words_that_code_could_look_for_matter():
    assert words_that_matter("{{ '</think>' + '\n' if m.role == 'user' else '' }}<plain>") == ("</think>",)
    assert words_that_matter({"a": "{{ '<a>' }}", "b": "{{ '<b>' }}"}) == ("<a>", "<b>")
    assert trims("{{ m.content | trim }}") and trims("{{ m.content.lstrip('x') }}") and not trims("strip {{ m }}")


def test_a_rendering_of_another_form_is_refused():
    layout = Layout((Fixed((1,), ()), Words("user", "", (0,)), Fixed((2,), ())), ("<u>", "</u>"))
    assert layout.found("<u>a</u></u>") == ["a</u>"]
    for rendered in ("<v>a</u>", "<u>a", "<u/u>"):
        with pytest.raises(ValueError, match=re.escape("makes something else of the conversation")):
            layout.found(rendered)
