import base64
import json

import pytest
from PIL import Image

from mindvl.data.chat import check_messages
from mindvl.data.images import open_image
from mindvl.data.importing.json_formats import guess_format, import_llava, import_qwen, import_sharegpt
from mindvl.data.importing.outcome import Rejected

IMPORTERS = {"llava": import_llava, "sharegpt": import_sharegpt, "qwen": import_qwen}


@pytest.fixture
def load(tmp_path, picture):
    """Imports records; the folder holds a.png (28x28), b.jpg (30x30) and c.png (32x32)."""
    for name, side, format in (("a.png", 28, "PNG"), ("b.jpg", 30, "JPEG"), ("c.png", 32, "PNG")):
        (tmp_path / name).write_bytes(picture(side, side, format=format))

    def run(format, *records):
        path = tmp_path / "data.json"
        path.write_text(json.dumps(records))
        found = list(IMPORTERS[format](path, tmp_path, source="made"))
        for sample in found:
            if not isinstance(sample, Rejected):
                check_messages(sample.messages)
        return found

    return run


def said(*texts, **fields):
    """A LLaVA record in which human and gpt take turns."""
    turns = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]
    return {"conversations": turns, **fields}


def shape(sample):
    """Messages as (role, [text or None for a picture])."""
    return [(m["role"], [part.get("text") for part in m["content"]]) for m in sample.messages]


def test_a_llava_record_becomes_a_sample(load, picture):
    (sample,) = load("llava", said("<image>\n图里是什么？", "一只猫", id="x/1.0", image="a.png", model="m"))
    assert sample.key == "x/1~2e0"
    assert sample.record == {
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "图里是什么？"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "一只猫"}]},
        ],
        "source": "made",
        "id": "x/1.0",
        "image_files": ["a.png"],
        "meta": {"model": "m"},
    }
    assert sample.images == (picture(28, 28),)


def test_marks_become_pictures_exactly_where_they_stand(load, picture):
    turns = said(
        "<image>\n<image>\nCompare <image> with",
        "ok",
        "now\n<image>",
        "yes",
        image=["a.png", "b.jpg", "c.png", "a.png"],
    )
    (sample,) = load("llava", turns)
    assert shape(sample) == [
        ("user", [None, None, "Compare ", None, " with"]),
        ("assistant", ["ok"]),
        ("user", ["now", None]),
        ("assistant", ["yes"]),
    ]
    a, b, c = picture(28, 28), picture(30, 30, format="JPEG"), picture(32, 32)
    assert sample.images == (a, b, c, a)


@pytest.mark.parametrize("image", [{}, {"image": None}, {"image": ""}, {"image": []}])
def test_records_without_pictures_are_text_and_numbered_by_their_place(load, image):
    first, second = load("llava", said("hi", "ho", **image), said("\nhi\n", "ho", id=7, **image))
    assert (first.key, second.key) == ("00000001", "7")
    assert first.images == () and "image_files" not in first.record and "meta" not in first.record
    assert shape(second)[0] == ("user", ["\nhi\n"])  # line breaks belong to a mark only beside one


def test_what_spells_a_special_token_stays_text(load):
    text = "<|im_end|><|vision_start|> <img>a.png</img> <IMAGE> </s>"
    (sample,) = load("llava", said(f"<image>{text}", "an <image> tag", image="a.png"))
    assert shape(sample) == [("user", [None, text]), ("assistant", ["an <image> tag"])]


def test_system_turns_and_system_fields_lead_the_conversation(load):
    turn = {"from": "system", "value": "Be brief."}
    record = said("hi", "ho")
    (one,) = load("llava", {"conversations": [turn, *record["conversations"]]})
    (two,) = load("sharegpt", {**record, "system": "Be brief."})
    (three,) = load("sharegpt", {"conversations": [turn, *record["conversations"]], "system": "unused"})
    assert one.messages == two.messages == three.messages
    assert shape(one)[0] == ("system", ["Be brief."])


@pytest.mark.parametrize("human", ["human", "user", "Human"])
@pytest.mark.parametrize("machine", ["gpt", "assistant", "model", "bot", "chatgpt"])
def test_sharegpt_roles_have_many_names(load, human, machine):
    (sample,) = load("sharegpt", {"conversations": [{"from": human, "value": "q"}, {"from": machine, "value": "a"}]})
    assert shape(sample) == [("user", ["q"]), ("assistant", ["a"])]


def test_llama_factory_messages_and_images_are_read(load, picture):
    turns = [{"role": "user", "content": "<image>which?<image>"}, {"role": "assistant", "content": "b"}]
    (sample,) = load("sharegpt", {"messages": turns, "images": ["a.png", "b.jpg"], "videos": [], "tools": ""})
    assert shape(sample)[0] == ("user", [None, "which?", None])
    assert sample.images == (picture(28, 28), picture(30, 30, format="JPEG"))


def test_content_in_parts_is_read_and_its_texts_have_no_marks(load, picture):
    parts = [{"type": "image", "image": "b.jpg"}, {"type": "text", "text": "an <image>"}, {"type": "image"}]
    url = {"type": "image_url", "image_url": {"url": "c.png"}}
    turns = [{"role": "user", "content": [*parts, url]}, {"role": "assistant", "content": "a"}]
    (sample,) = load("sharegpt", {"messages": turns, "images": ["a.png"]})
    assert shape(sample)[0] == ("user", [None, "an <image>", None, None])
    assert sample.images == (picture(30, 30, format="JPEG"), picture(28, 28), picture(32, 32))
    assert sample.record["image_files"] == ["b.jpg", "a.png", "c.png"]


def test_parts_without_a_type_are_what_they_hold(load, picture):
    asked = [{"image": "b.jpg"}, {"text": "which?", "image": None}, {"image_url": {"url": "c.png"}}]
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": [{"text": "a"}]}]
    both = [{"role": "user", "content": [{"image": "b.jpg", "text": "?"}]}, turns[1]]
    sample, rejected = load("sharegpt", {"messages": turns}, {"messages": both})
    assert shape(sample) == [("user", [None, "which?", None]), ("assistant", ["a"])] and len(sample.images) == 2
    assert rejected.reason == "a part of a turn is neither text nor picture"


def test_a_picture_inside_the_record_is_stored_once(load, picture):
    url = "data:image/png;base64," + base64.b64encode(picture(50, 50)).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
    (sample,) = load(
        "sharegpt", {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}]}
    )
    assert sample.images == (picture(50, 50),) and "base64" not in json.dumps(sample.record)


@pytest.mark.parametrize("answer", [" ", " \n", "\u3000"])
def test_an_answer_of_blanks_is_an_empty_one(load, answer):
    assert load("llava", said("q", answer, id="1")) == [Rejected("1", "a message is an empty answer")]


def test_qwen_fine_tuning_records_are_read(load):
    one, two = load(
        "qwen", said("<image>\nread", "abc", image="a.png"), said("<image><image>same?", "no", image=["a.png", "b.jpg"])
    )
    assert shape(one)[0] == ("user", [None, "read"]) and shape(two)[0] == ("user", [None, None, "same?"])
    assert len(two.images) == 2


def test_qwen_paths_inside_the_text_are_pictures_and_numbered_where_there_are_several(load, picture):
    turns = [
        {"from": "user", "value": "Picture 1: <img>a.png</img>\nWhat is <ref>it</ref>?"},
        {"from": "assistant", "value": "<ref>it</ref><box>(1,2),(3,4)</box>"},
    ]
    second = {"from": "user", "value": "Picture 2: <img>b.jpg</img>\nAnd like Picture 1?"}
    one, two = load("qwen", {"conversations": turns}, {"conversations": [*turns, second, turns[1]]})
    assert shape(one)[:2] == [("user", [None, "What is <ref>it</ref>?"]), ("assistant", [turns[1]["value"]])]
    assert shape(two)[0] == ("user", ["Picture 1: ", None, "What is <ref>it</ref>?"])
    assert shape(two)[2] == ("user", ["Picture 2: ", None, "And like Picture 1?"])
    assert two.images == (picture(28, 28), picture(30, 30, format="JPEG"))
    assert two.record["image_files"] == ["a.png", "b.jpg"]


@pytest.fixture
def clip(tmp_path):
    """A GIF of eight frames, ten a second; and beside it the two frames that two a second are."""
    frames = [Image.new("RGB", (40, 30), (30 * number, 0, 0)) for number in range(8)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    return "clip.gif"


@pytest.mark.parametrize("format", ["qwen", "llava", "sharegpt"])
def test_a_video_takes_the_place_of_its_mark(load, clip, format):
    (sample,) = load(format, said("<video>\nwhat <video> tag?", "a video", video=[clip, clip]))
    video = {"type": "video", "fps": 5.0}
    assert sample.messages[0]["content"] == [
        video,
        {"type": "text", "text": "what "},
        video,
        {"type": "text", "text": " tag?"},
    ]
    assert sample.record["video_files"] == [clip, clip] and "meta" not in sample.record
    first, second = sample.images
    assert first == second and [open_image(frame).getpixel((0, 0))[0] for frame in first] == [0, 60, 120, 180]


def test_llava_videos_marked_as_images_are_videos(load, clip):
    (sample,) = load("llava", said("<image>\nwhat happens?", "it turns red", video=clip, data_source="x"))
    assert [part["type"] for part in sample.messages[0]["content"]] == ["video", "text"] and len(sample.images[0]) == 4


def test_pictures_and_videos_of_one_record_keep_their_order(load, clip, picture):
    record = said("<image><video>so?<image>", "a", "<video>", "b", image=["a.png", "c.png"], video=[clip, ["a.png"]])
    (sample,) = load("qwen", record)
    kinds = [part["type"] for message in sample.messages for part in message["content"]]
    assert kinds == ["image", "video", "text", "image", "text", "video", "text"]
    a, c = picture(28, 28), picture(32, 32)
    assert (sample.images[0], sample.images[2], sample.images[3]) == (a, c, (a,)) and len(sample.images[1]) == 4


def test_a_list_of_picture_files_is_the_frames_of_one_video(load, picture):
    part = {"type": "video", "video": ["a.png", "a.png"], "sample_fps": "1.5"}
    turns = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "a"}]
    marked, listed = load("qwen", said("<video>", "a", videos=["a.png", "a.png"]), {"messages": turns})
    assert marked.images == listed.images == ((picture(28, 28),) * 2,)
    assert marked.messages[0]["content"] == [{"type": "video"}]
    assert listed.messages[0]["content"] == [{"type": "video", "fps": 1.5}]


def test_those_who_ask_about_the_video_tag_of_html_are_not_taken_at_their_word(load):
    text = "how do I close a <video> tag?"
    for format in ("llava", "sharegpt"):
        (sample,) = load(format, said(text, "by </video>"))
        assert shape(sample)[0] == ("user", [text])


NOT_JSON = "the record cannot be written as JSON (NaN, or half a character)"
TURN, ANSWER = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}


@pytest.mark.parametrize(
    ("format", "record", "reason"),
    [
        ("llava", said("<image><image>", "a", image="a.png"), "there are more marks for pictures than pictures"),
        ("llava", said("<image>", "a"), "there are more marks for pictures than pictures"),
        ("llava", said("q", "a", image="a.png"), "there are fewer marks for pictures than pictures"),
        ("llava", said("q", "<image>", image="a.png"), "there are fewer marks for pictures than pictures"),
        ("llava", said("<image>", "a", image="../a.png"), "the picture's path leaves the image folder"),
        ("llava", said("<image>", "a", image="none.png"), "the picture's file is missing"),
        ("llava", said("<image>", "a", image="data.json"), "the file is not a picture"),
        ("llava", said("<image>", "a", image="http://x/a.png"), "the picture is behind a URL, which is not fetched"),
        ("llava", said("<image>", "a", image=7), "the picture is given neither as a path nor as bytes"),
        ("llava", {}, "there is no list of turns"),
        ("llava", {"conversations": []}, "there is no list of turns"),
        ("llava", {"conversations": "text"}, "there is no list of turns"),
        ("llava", {"conversations": ["text"]}, "a turn is not an object"),
        ("llava", {"conversations": [TURN, {"from": "tool", "value": "a"}]}, "the role 'tool' is unknown"),
        ("llava", {"conversations": [TURN, {"value": "a"}]}, "the role 'None' is unknown"),
        ("llava", {"conversations": [TURN, {"from": "gpt", "value": None}]}, "a turn has no text"),
        ("llava", {"conversations": [TURN]}, "there is no answer by the assistant"),
        ("llava", {"conversations": [ANSWER]}, "the conversation does not begin with the user"),
        ("llava", said("q", ""), "a message is an empty answer"),
        ("llava", said("", "a"), "a user's turn is empty"),
        ("llava", said("q\x00", "a"), "a message has a character that no text may hold (NUL or a surrogate)"),
        (
            "llava",
            said("q", "a", score=float("nan")),
            NOT_JSON,
        ),
        ("llava", said("q", "a", id="\ud800"), NOT_JSON),
        ("qwen", said("<video>\nq", "a"), "there are more marks for videos than videos"),
        ("qwen", said("q", "a", video="a.gif"), "there are fewer marks for videos than videos"),
        ("sharegpt", said("q", "a", videos=["a.gif"]), "there are fewer marks for videos than videos"),
        ("qwen", said("<video>", "a", video="none.mp4"), "the video's file is missing"),
        ("qwen", said("<video>", "a", video="data.json"), "the video does not decode"),
        ("qwen", said("<video>", "a", video=["a.png", "c.png"]), "the frames of a video differ in size"),
        ("sharegpt", said("q", "a", audios=["a.wav"]), "sound is not supported yet"),
        ("sharegpt", said("q", "a", tools="[{}]"), "calls of tools are not supported yet"),
        (
            "sharegpt",
            {"messages": [{"role": "user", "content": [{"type": "video"}]}, ANSWER]},
            "there are more marks for videos than videos",
        ),
        (
            "sharegpt",
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "a part of a turn is neither text nor picture",
        ),
        (
            "sharegpt",
            {"messages": [TURN, {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]}]},
            "a message puts a picture into the assistant's turn",
        ),
    ],
)
def test_every_rejection_has_its_reason_and_stops_nothing(load, format, record, reason):
    rejected, good = load(format, {"id": "bad", **record}, said("q", "a", id="good"))
    assert rejected == Rejected(record.get("id", "bad"), reason)
    assert good.key == "good"


@pytest.mark.parametrize(
    ("record", "format"),
    [
        (said("<image>q", "a", image="a.png"), "llava"),
        (said("q", "a"), "llava"),
        ({"messages": []}, "sharegpt"),
        (said("q", "a", images=["a.png"]), "sharegpt"),
        (said("q", "a", videos=["a.mp4"]), "sharegpt"),
        (said("<image>q", "a", image=["a.png"]), "qwen"),
        (said("q", "a", video="a.mp4"), "qwen"),
        (said("Picture 1: <img>a.png</img>", "a"), "qwen"),
        ({"conversations": [{"from": "user", "value": "q"}]}, "qwen"),
        ({"question": "q"}, None),
        ({"conversations": 7}, None),
    ],
)
def test_a_format_is_told_by_its_look(record, format):
    assert guess_format([{"id": 1}, record]) == format
