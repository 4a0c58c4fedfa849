import json

import pytest

from mindvl.cli.chat import Conversation, converse, split_words
from mindvl.phases.answering import Answerer, Prompt, load_answerer
from mindvl.phases.decoding import Decoding


@pytest.fixture
def photo(picture, tmp_path):
    file = tmp_path / "photo.png"
    file.write_bytes(picture(60, 90))
    return file


@pytest.fixture
def second(picture, tmp_path):
    file = tmp_path / "second photo.jpg"
    file.write_bytes(picture(90, 60, seed=4, format="JPEG"))
    return file


@pytest.fixture
def typed(monkeypatch):
    """What a user types, line by line, until the input ends."""

    def type_lines(*lines):
        left = iter(lines)

        def line(prompt):
            try:
                return next(left)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", line)
        return left

    return type_lines


@pytest.fixture
def asked(monkeypatch):
    """(pictures, user texts, decoding) of every question that reached the model."""
    prompts = []
    aloud = Answerer.answer_aloud

    def listen(self, prompt, decoding, say):
        texts = [
            part["text"] for m in prompt.messages if m["role"] == "user" for part in m["content"] if "text" in part
        ]
        prompts.append((len(prompt.images), texts, decoding))
        return aloud(self, prompt, decoding, say)

    monkeypatch.setattr(Answerer, "answer_aloud", listen)
    return prompts


def test_a_question_on_the_command_line_is_answered_in_one_line(trained, photo, mindvl):
    answered = mindvl("chat", trained.model, photo, "what is the text?", "--max-new-tokens", 3)
    assert answered.status == 0, answered.err
    assert answered.out.endswith("\n") and answered.err == ""
    content = [{"type": "image"}, {"type": "text", "text": "what is the text?"}]
    prompt = Prompt([{"role": "user", "content": content}], (photo.read_bytes(),))
    (answer,) = load_answerer(trained.model).answer([prompt], Decoding(max_new_tokens=3))
    assert answered.out == f"{answer.text}\n"


def test_several_pictures_and_none_are_asked_about_in_one_question(trained, photo, second, mindvl, asked):
    for arguments in ((photo, second, "which?"), (photo, photo, second, "--question", "which?"), ("which?",)):
        answered = mindvl("chat", trained.model, *arguments, "--max-new-tokens", 2)
        assert answered.status == 0, answered.err
    assert [(pictures, texts) for pictures, texts, _ in asked] == [(2, ["which?"]), (3, ["which?"]), (0, ["which?"])]


def test_without_a_question_the_conversation_goes_on_until_the_input_ends(trained, photo, mindvl, typed, asked):
    left = typed("what is the text?", "", "and the first word?")
    answered = mindvl("chat", trained.model, photo, "--max-new-tokens", 2)
    assert answered.status == 0, answered.err
    assert next(left, None) is None
    assert [texts for _, texts, _ in asked] == [["what is the text?"], ["what is the text?", "and the first word?"]]


def test_a_picture_joins_a_later_turn_and_a_reset_forgets_all(trained, photo, second, mindvl, typed, asked):
    typed("one?", f"/image {second}", f"/image {photo}", "two?", "/reset", "three?", "/quit", "four?")
    answered = mindvl("chat", trained.model, photo, "--max-new-tokens", 2)
    assert answered.status == 0, answered.err
    assert [(pictures, texts) for pictures, texts, _ in asked] == [
        (1, ["one?"]),
        (3, ["one?", "two?"]),
        (0, ["three?"]),
    ]


def test_what_cannot_be_done_is_said_in_a_line_and_the_conversation_goes_on(
    trained, photo, mindvl, typed, asked, tmp_path
):
    (tmp_path / "note.png").write_text("not a picture")
    typed("/image none.png", f"/image {tmp_path}/note.png", "/imagine", "a\x00b", "one?")
    answered = mindvl("chat", trained.model, photo, "--max-new-tokens", 2)
    assert answered.status == 0
    lines = answered.err.splitlines()
    assert lines[0] == "picture none.png is not a file"
    assert lines[1].startswith("the picture does not decode") and "note.png" in lines[1]
    assert lines[2].startswith("no command /imagine: /image FILE adds a picture")
    assert "has a character that no text may hold" in lines[3]
    assert [(pictures, texts) for pictures, texts, _ in asked][-1] == (1, ["one?"])


def test_a_conversation_says_when_an_answer_was_cut(make_model, tokenizer, typed, capsys):
    typed("one?", "two?")
    converse(Conversation(Answerer(make_model(), tokenizer), Decoding(max_new_tokens=2, min_new_tokens=2), []))
    assert capsys.readouterr().err == "(cut after 2 tokens, --max-new-tokens)\n" * 2


def test_an_interrupted_answer_is_forgotten_and_the_next_question_is_answered(
    trained, photo, mindvl, typed, monkeypatch
):
    typed("one?", "two?")
    turns = []
    aloud = Answerer.answer_aloud

    def interrupted(self, prompt, decoding, say):
        turns.append(len(prompt.messages))
        if len(turns) == 1:
            raise KeyboardInterrupt
        return aloud(self, prompt, decoding, say)

    monkeypatch.setattr(Answerer, "answer_aloud", interrupted)
    answered = mindvl("chat", trained.model, photo, "--max-new-tokens", 2)
    assert answered.status == 0 and "interrupted" in answered.err and turns == [1, 1]


def test_flags_say_how_an_answer_is_decoded(trained, photo, mindvl, asked):
    flags = ("--temperature", 0.7, "--top-p", 0.9, "--top-k", 20, "--seed", 3, "--stop", "\n", "--stop", "END")
    outs = [mindvl("chat", trained.model, photo, "?", "--max-new-tokens", 6, *flags).out for _ in range(2)]
    assert asked[0][2] == Decoding(6, temperature=0.7, top_p=0.9, top_k=20, stop=("\n", "END"), seed=3)
    assert outs[0] == outs[1]


def test_flags_out_of_bounds_are_refused_in_a_line(trained, photo, mindvl):
    refused = mindvl("chat", trained.model, photo, "?", "--temperature", -1)
    assert (refused.status, refused.err) == (
        2, "mindvl chat: temperature is -1.0; 0 is greedy, above 0 is drawn\n"
    )  # fmt: skip


def test_an_answer_is_said_while_it_is_written(make_model, tokenizer, capsys):
    said = []
    chat = Conversation(Answerer(make_model(), tokenizer), Decoding(max_new_tokens=40), [])
    streamed = Answerer.answer_aloud

    def aloud(prompt, decoding, say):
        return streamed(chat.answerer, prompt, decoding, lambda text: said.append(text) or say(text))

    chat.answerer.answer_aloud = aloud
    answer = chat.ask("well?")
    assert capsys.readouterr().out == answer.text + "\n" and "".join(said) == answer.text and said


@pytest.mark.parametrize(
    ("words", "question", "expected"),
    [
        (["a.png", "read the text."], None, (["a.png"], "read the text.")),
        (["a.png", "b.JPG"], None, (["a.png", "b.JPG"], None)),
        (["a.png", "b.jpg"], "which?", (["a.png", "b.jpg"], "which?")),
        (["what is 1 + 1?"], None, ([], "what is 1 + 1?")),
        ([], None, ([], None)),
    ],
)
def test_the_last_word_is_the_question_unless_it_is_a_pictures_name(words, question, expected):
    assert split_words(words, question) == expected


def test_a_file_of_any_name_is_a_picture(tmp_path):
    (tmp_path / "scan").write_bytes(b"")
    assert split_words([str(tmp_path / "scan")], None) == ([str(tmp_path / "scan")], None)


def test_the_pixel_budget_of_a_chat_must_not_be_upside_down(trained, photo, mindvl):
    refused = mindvl("chat", trained.model, photo, "?", "--min-pixels", 9000, "--max-pixels", 800)
    assert (refused.status, refused.err) == (2, "mindvl chat: min_pixels is 9000, more than max_pixels, 800\n")


@pytest.mark.parametrize("question", [[], ["?"]])
def test_a_missing_picture_is_named(question, trained, mindvl, tmp_path):
    refused = mindvl("chat", trained.model, tmp_path / "none.png", *question)
    assert (refused.status, refused.err) == (2, f"mindvl chat: picture {tmp_path}/none.png is not a file\n")


def test_a_file_that_is_no_picture_is_refused(trained, mindvl, tmp_path):
    (tmp_path / "note.png").write_text("not a picture")
    refused = mindvl("chat", trained.model, tmp_path / "note.png", "?")
    assert refused.status == 2 and "note.png" in refused.err
    assert refused.err.startswith("mindvl chat: the picture does not decode: ") and refused.err.count("\n") == 1


def test_a_folder_that_is_no_model_is_refused(photo, mindvl, tmp_path):
    refused = mindvl("chat", tmp_path, photo, "?")
    assert (refused.status, refused.err) == (2, f"mindvl chat: {tmp_path} is no saved model: it has no config.json\n")


@pytest.mark.parametrize(
    ("kind", "complaint"), [("qwen3", "holds a model of type qwen3, not mindvl"), ("mindvl", "has no safetensors file")]
)
def test_a_folder_of_another_model_or_without_weights_is_refused(kind, complaint, trained, photo, mindvl, tmp_path):
    config = json.loads((trained.model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    refused = mindvl("chat", tmp_path, photo, "?")
    assert refused.status == 2 and refused.err.startswith(f"mindvl chat: {tmp_path} {complaint}")
