"""Every layout of a sample that shards of the field use becomes messages and pictures, or says why not."""

import json

import pytest

from mindvl.data.records import as_visuals, frame_numbers, group_members, parse_record, picture_members, record_members
from mindvl.data.tar import Member


def members(*names):
    return [Member(name, offset, 1) for offset, name in enumerate(names)]


def said(messages):
    return [(m["role"], [part.get("text", "<image>") for part in m["content"]]) for m in messages]


def test_members_are_grouped_by_key_also_when_they_are_not_neighbours():
    groups = group_members(members("x/a.png", "x/b.json", "x/a.json", "README", "__meta__.json"))
    assert {key: list(extensions) for key, extensions in groups.items()} == {"x/a": ["png", "json"], "x/b": ["json"]}


def test_a_member_that_is_there_twice_is_seen():
    assert [len(twice) for twice in group_members(members("a.json", "b.json", "a.JSON"))["a"].values()] == [2]


def test_pictures_are_ordered_by_number_and_other_files_left_alone():
    names = [f"a.{number}.png" for number in (10, 9, 2)] + ["a.jpg", "a.cls", "a.pth", "a.json"]
    (extensions,) = group_members(members(*names)).values()
    assert [member.name for member in picture_members(extensions)] == ["a.2.png", "a.9.png", "a.10.png", "a.jpg"]
    assert [kind for kind, _ in record_members(extensions)] == ["json"]


def test_frames_are_ordered_within_their_video_and_videos_among_pictures():
    names = ("2.png", "1.0010.jpg", "1.0009.jpg", "1.2.jpg", "0.png", "3.0000.jpg", "4.0000.jpg", "5.b.png")
    (extensions,) = group_members(members(*(f"a.{name}" for name in names))).values()
    found = picture_members(extensions)
    assert [member.name.removeprefix("a.") for member in found] == [
        "0.png",
        *("1.2.jpg", "1.0009.jpg", "1.0010.jpg"),
        "2.png",
        "3.0000.jpg",
        "4.0000.jpg",
        "5.b.png",
    ]
    frames = frame_numbers(found)
    assert frames == [-1, 0, 1, 2, -1, 0, 0, -1]
    files = [bytes([number]) for number in range(8)]
    assert as_visuals(files, frames) == [b"\0", (b"\1", b"\2", b"\3"), b"\4", (b"\5",), (b"\6",), b"\7"]


def test_a_text_file_is_the_caption_of_the_picture():
    messages = parse_record("\ufeff Ein Apfel. \n".encode(), kind="txt", num_images=1)["messages"]
    assert said(messages) == [("user", ["<image>"]), ("assistant", ["Ein Apfel."])]


@pytest.mark.parametrize("key", ["caption", "text"])
def test_a_json_caption_is_one_too_and_the_rest_of_the_record_stays(key):
    record = parse_record(json.dumps({key: "an apple", "url": "x"}).encode(), kind="json", num_images=1)
    assert said(record["messages"])[1] == ("assistant", ["an apple"]) and record["url"] == "x"


def test_question_and_answer_make_an_exchange_also_without_a_picture():
    data = json.dumps({"question": "1+1?", "answer": "2", "caption": "not this"}).encode()
    assert said(parse_record(data, kind="json", num_images=0)["messages"]) == [("user", ["1+1?"]), ("assistant", ["2"])]
    assert said(parse_record(data, kind="json", num_images=2)["messages"])[0] == (
        "user",
        ["<image>", "<image>", "1+1?"],
    )


REFUSED = {
    "Expecting property name": (b"{nope", 0),
    "the record is no JSON object": (b"[1]", 0),
    "the record has no list of `messages`$": (b'{"messages": "x"}', 0),
    "no `caption` and no `question` with `answer`": (b'{"caption": null}', 1),
    "a caption without a picture": (b'{"caption": "x"}', 0),
    "'utf-8' codec can't decode": (b'{"caption": "\xff"}', 1),
    "nested too deeply": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_record_that_says_nothing_is_refused_with_the_reason(reason):
    data, num_images = REFUSED[reason]
    with pytest.raises(ValueError, match=reason):
        parse_record(data, kind="json", num_images=num_images)
