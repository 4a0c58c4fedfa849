import json

import pytest

from mindvl.data.questions import load_questions


@pytest.fixture
def shard(tmp_path, write_tar):
    """A shard of records by key, each with its picture files; returns the shard's location."""

    def write(**samples):
        members = []
        for key, (record, *pictures) in samples.items():
            members.append((f"{key}.json", json.dumps(record).encode()))
            members += [(f"{key}.{number}.png", data) for number, data in enumerate(pictures)]
        return write_tar(tmp_path / "s-000000.tar", members)

    return write


def turn(role, *parts):
    return {
        "role": role,
        "content": [part if isinstance(part, dict) else {"type": "text", "text": part} for part in parts],
    }


IMAGE = {"type": "image"}
CONVERSATION = [
    {"role": "system", "content": "Be short."},
    turn("user", IMAGE, "which colour?"),
    {"role": "assistant", "content": "Red."},
    turn("user", "and this: ", IMAGE, "?"),
    turn("assistant", "Blue", "."),
    {"role": "user", "content": "thanks"},
]


def test_each_answered_turn_of_a_conversation_is_a_question_after_the_turns_before_it(shard, picture):
    one, two = picture(28, 28, seed=1), picture(28, 56, seed=2)
    first, second = load_questions("mine", shard(a=({"messages": CONVERSATION}, one, two)))
    assert (first.text, first.answer, first.images) == ("which colour?", "Red.", (one,))
    assert first.messages == CONVERSATION[:2]
    assert (second.text, second.answer, second.images) == ("and this: ?", "Blue.", (one, two))
    assert second.messages == CONVERSATION[:4]
    assert {first.metric, second.metric} == {"exact_match"} and {first.key, second.key} == {"a"}


def test_first_turns_of_all_conversations_come_before_the_second_of_any(shard):
    chat = [turn("user", "1?"), turn("assistant", "1"), turn("user", "2?"), turn("assistant", "2")]
    asked = load_questions("mine", shard(a=({"messages": chat},), b=({"messages": chat},)), limit=3)
    assert [(question.key, question.text) for question in asked] == [("a", "1?"), ("b", "1?"), ("a", "2?")]


def test_a_record_that_lists_questions_is_asked_those_alone(shard, picture):
    listed = [{"question": "how many?", "answer": "3", "metric": "relaxed_accuracy"}]
    file = picture(28, 28)
    chat = {"messages": [turn("user", IMAGE, "describe"), turn("assistant", "Three dots.")]}
    asked = load_questions(
        "mine", shard(a=({**chat, "questions": listed}, file), b=({**chat, "questions": []}, file), c=(chat, file))
    )
    assert [(question.key, question.text, question.metric) for question in asked] == [
        ("a", "how many?", "relaxed_accuracy"),
        ("c", "describe", "exact_match"),
    ]
    assert asked[0].messages == [turn("user", IMAGE, "how many?")]


def test_shards_in_which_nothing_is_answered_are_refused_with_what_is_missing(shard):
    location = shard(a=({"messages": [turn("user", "?")]},), b=({"messages": [turn("assistant", "!")]},))
    with pytest.raises(ValueError) as refused:
        load_questions("mine", location)
    assert str(refused.value) == (
        f"source mine: {location} holds no question with a known answer: no record lists `questions`, and no user turn "
        "is followed by an assistant's text"
    )
