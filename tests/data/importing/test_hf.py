import json
from dataclasses import replace

import pytest

from mindvl.data.chat import check_messages
from mindvl.data.importing.hf import Columns, find_columns, import_hf
from mindvl.data.importing.outcome import Rejected

pyarrow = pytest.importorskip("pyarrow")


@pytest.fixture
def load(tmp_path):
    """Imports rows from a parquet file in a folder of its own."""
    import pyarrow.parquet

    def run(*rows, marks=None, **settings):
        folder = tmp_path / "dataset"
        folder.mkdir(exist_ok=True)
        table = pyarrow.Table.from_pylist(list(rows))
        if marks:  # what Hugging Face's own writer says of the columns
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": marks}})})
        pyarrow.parquet.write_table(table, folder / "train-00000-of-00001.parquet")
        found = list(import_hf(folder, tmp_path, **settings))
        for sample in found:
            if not isinstance(sample, Rejected):
                check_messages(sample.messages)
        return found

    return run


def shape(sample):
    return [(m["role"], [part.get("text") for part in m["content"]]) for m in sample.messages]


def test_questions_and_answers_beside_a_picture_become_samples(load, picture):
    png = picture(28, 28)
    one, two = load(
        {"id": "q/1", "image": {"bytes": png, "path": "1.png"}, "question": "几个？", "answer": "3", "extra": 1.5},
        {
            "id": "q/2",
            "image": {"bytes": png, "path": None},
            "question": "Is <image> it?",
            "answer": "yes",
            "extra": None,
        },
        source="made",
    )
    assert one.key == "q/1" and one.images == (png,)
    assert one.record == {
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "几个？"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "3"}]},
        ],
        "source": "made",
        "id": "q/1",
        "image_files": ["1.png"],
    }
    assert shape(two)[0] == ("user", ["Is ", None, " it?"])


@pytest.mark.parametrize("form", ["struct", "binary", "list of structs", "list of binaries", "path"])
def test_pictures_may_be_structs_bytes_paths_or_lists_of_them(load, picture, tmp_path, form):
    png = picture(28, 28)
    (tmp_path / "a.png").write_bytes(png)
    value = {
        "struct": {"bytes": png, "path": None},
        "binary": png,
        "list of structs": [{"bytes": png, "path": None}],
        "list of binaries": [png],
        "path": "a.png",
    }[form]
    (sample,) = load({"image": value, "question": "q", "answer": "a"})
    assert sample.images == (png,) and sample.key == "00000001"


def test_captions_answer_the_prompt_and_the_first_of_several_counts(load, picture):
    (sample,) = load({"img": picture(28, 28), "texts_en": ["Two cats.", "Cats."]}, columns=Columns(caption="texts_en"))
    assert shape(sample) == [("user", [None, "Describe this picture."]), ("assistant", ["Two cats."])]
    (sample,) = load({"image": picture(28, 28), "caption": "Two cats."}, prompt="描述图片。")
    assert shape(sample) == [("user", [None, "描述图片。"]), ("assistant", ["Two cats."])]


def test_a_caption_needs_its_picture(load, picture):
    png = {"bytes": picture(28, 28), "path": None}
    rejected, sample = load({"id": 1, "image": None, "caption": "Cats."}, {"id": 2, "image": png, "caption": "Dogs."})
    assert rejected == Rejected("1", "a caption without a picture") and sample.key == "2"
    assert load({"id": 1, "caption": "Cats."}) == [Rejected("1", "a caption without a picture")]


@pytest.mark.parametrize("form", ["struct", "list", "marked"])
def test_a_column_of_pictures_that_would_not_be_read_is_an_error_that_says_how_to_name_it(load, picture, form):
    png = {"bytes": picture(28, 28), "path": "1.png"}
    row = {"image_": [png] if form == "list" else png, "problem": "q", "answer": "a"}
    if form == "marked":
        row["image_"] = picture(28, 28)
    marks = {"image_": {"_type": "Image"}} if form == "marked" else {}
    with pytest.raises(
        ValueError, match=r"dataset has pictures in column 'image_', .*with --image-column \(image_column"
    ):
        load(row, marks=marks)
    (sample,) = load(row, marks=marks, columns=Columns(image="image_"))
    assert sample.images == (picture(28, 28),)
    with pytest.raises(ValueError, match="in column 'image_', which would not be read beside 'image'"):
        load({**row, "image": "images/1.png"}, marks=marks)


def test_sound_is_no_picture_although_it_is_stored_like_one(load, picture):
    row = {"clip": {"bytes": b"RIFF", "path": "1.wav"}, "question": "q", "answer": "a"}
    (sample,) = load(row, marks={"clip": {"_type": "Audio"}})
    assert sample.images == ()


def test_the_answer_that_most_people_gave_comes_before_the_list_of_all(load, picture):
    all = [{"answer": "yes", "answer_id": 1}, {"answer": "no", "answer_id": 2}]
    row = {"multiple_choice_answer": "yes", "answers": all, "question": "Is it?", "image": picture(28, 28)}
    assert shape(load(row)[0]) == [("user", [None, "Is it?"]), ("assistant", ["yes"])]


def test_numbers_are_answers(load):
    found = load({"question": "How many?", "answer": 3})
    assert shape(found[0]) == [("user", ["How many?"]), ("assistant", ["3"])]


PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "which?"}, {"type": "image", "text": None}]


@pytest.mark.parametrize(
    ("turns", "asked"),
    [
        ([{"user": "which?", "assistant": "a"}], [None, None, "which?"]),
        ([{"from": "human", "value": "<image>which?<image>"}, {"from": "gpt", "value": "a"}], [None, "which?", None]),
        ([{"role": "user", "content": "which?"}, {"role": "assistant", "content": "a"}], [None, None, "which?"]),
        (
            [{"role": "user", "content": PARTS}, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}],
            [None, "which?", None],
        ),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_conversations_are_read_in_their_usual_forms(load, picture, turns, asked, as_text):
    pictures = [picture(28, 28), picture(30, 30)]
    (sample,) = load({"images": pictures, "messages": json.dumps(turns) if as_text else turns})
    assert shape(sample) == [("user", asked), ("assistant", ["a"])]
    assert list(sample.images) == pictures


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": None}, "the answer is not text"),
        ({"answer": ""}, "a message is an empty answer"),
        ({"question": None}, "the question is not text"),
        ({"question": "<image><image>"}, "there are more marks for pictures than pictures"),
        ({"image": {"bytes": b"text", "path": None}}, "the file is not a picture"),
        ({"image": {"bytes": None, "path": "../a.png"}}, "the picture's path leaves the image folder"),
        ({"image": {"bytes": None, "path": "a.png"}}, "the picture's file is missing"),
        ({"image": {"bytes": None, "path": None}}, "the picture is given neither as a path nor as bytes"),
    ],
)
def test_rejections_have_reasons_and_stop_nothing(load, picture, row, reason):
    good = {"id": 1, "image": {"bytes": picture(28, 28), "path": None}, "question": "q", "answer": "a"}
    rejected, sample = load({**good, **row}, {**good, "id": 2})
    assert rejected == Rejected("1", reason) and sample.key == "2"


@pytest.mark.parametrize("value", [True, float("nan")])
def test_truth_values_and_nan_are_no_answers(load, value):
    assert load({"question": "q", "answer": value}) == [Rejected("00000001", "the answer is not text")]


def test_columns_are_found_by_usual_names_of_one_kind(tmp_path):
    def find(*present, **given):
        return find_columns(present, Columns(**given), tmp_path)

    chosen = Columns(question="question", choices="options", answer="answer")
    assert find("question", "options", "answer") == chosen and find("text", "options") == Columns(caption="text")
    assert find("question", "parts", "answer", choices="parts") == replace(chosen, choices="parts")
    assert find("id", "image", "query", "label") == Columns(image="image", question="query", answer="label")
    assert find("images", "texts", "question", "answer") == Columns(image="images", messages="texts")
    assert find("question", "text") == Columns(caption="text")
    assert find("p", "question", "answer", "text", image="p", caption="text") == Columns(image="p", caption="text")
    assert find("why", "answer", "messages", question="why") == Columns(question="why", answer="answer")
    with pytest.raises(ValueError, match="no column 'x'; there are: image, text"):
        find("image", "text", answer="x")
    with pytest.raises(ValueError, match="say which of its columns hold them: image, question"):
        find("image", "question")
    with pytest.raises(ValueError, match="not of several kinds"):
        find("a", "b", caption="a", question="b")
