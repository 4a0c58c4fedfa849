"""Every layout of a sample that shards of the field use becomes messages and pictures, or says why not."""

import json

import pytest
from webdataset import ShardWriter

from mindvl.data.reader import read_samples
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
    assert [member.name for member in picture_members(extensions)] == ["a.jpg", "a.2.png", "a.9.png", "a.10.png"]
    assert [kind for kind, _ in record_members(extensions)] == ["json"]


@pytest.mark.parametrize(
    ("in_the_tar", "in_order"),
    [
        ("image0 image1 image10 image11 image2", "image0 image1 image2 image10 image11"),
        ("img_10 img_2 img_0", "img_0 img_2 img_10"),
        ("1 2 -", "- 1 2"),
        ("left right before", "left right before"),
        ("right10 left10 left2 right2 right", "right right2 right10 left2 left10"),
        ("page2-b page10-a page2-a seg 7 -", "- 7 page2-a page2-b page10-a seg"),
    ],
)
def test_files_of_one_word_are_ordered_by_number_and_words_as_in_the_tar(in_the_tar, in_order):
    names = [f"a.{name}.png".replace("-.", "") for name in in_the_tar.split()]
    (extensions,) = group_members(members(*names)).values()
    found = [member.name[2:].removesuffix("png").removesuffix(".") or "-" for member in picture_members(extensions)]
    assert found == in_order.split()


def test_pictures_that_webdataset_has_written_come_in_the_order_of_their_numbers(tmp_path, picture):
    with ShardWriter(str(tmp_path / "%06d.tar"), verbose=0) as writer:
        files = {f"image{number}.png": picture(28, 28, seed=number) for number in range(12)}
        writer.write({"__key__": "a", "json": json.dumps({"caption": "x"}).encode(), **files})
    (sample,) = read_samples(str(tmp_path / "000000.tar"))
    assert list(sample.images) == list(files.values())


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
    "the record is not JSON: Expecting property name": (b"{nope", 0),
    "the record is no JSON object": (b"[1]", 0),
    "the record has no list of `messages`$": (b'{"messages": "x"}', 0),
    "no `caption` and no `question` with `answer`": (b'{"caption": null}', 1),
    "a caption without a picture": (b'{"caption": "x"}', 0),
    "the record is not UTF-8: byte 13 is 0xff$": (b'{"caption": "\xff"}', 1),
    "nested too deeply": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_record_that_says_nothing_is_refused_with_the_reason(reason):
    data, num_images = REFUSED[reason]
    with pytest.raises(ValueError, match=reason):
        parse_record(data, kind="json", num_images=num_images)
