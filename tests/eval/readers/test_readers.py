"""Readers against small files in the real layouts; what is wrong is named by file, row and key."""

import json

import pytest

from mindvl.data.images import open_image, smart_resize
from mindvl.eval.readers import read_documents, read_parquet, read_rows, read_tsv


@pytest.fixture
def pictures(picture):
    """A tiny one, one of ratio 200, and one whose base64 is longer than the csv module's 131,072 characters."""
    return {"tiny": picture(1, 1), "ribbon": picture(2, 400), "large": picture(260, 160)}


def test_a_table_gives_pictures_as_they_were_stored(write_tsv, pictures):
    rows = [{"index": n, "image": image, "question": 'a\tb\n"c"'} for n, image in enumerate(pictures.values())]
    found = list(read_tsv(write_tsv("X", rows)))
    assert [row.images for row in found] == [(image,) for image in pictures.values()]
    assert len(pictures["large"]) > 131_072 * 3 / 4
    assert (found[0].text("question"), found[2].number, found[2].part) == ('a\tb\n"c"', 3, "X")


def test_rows_may_point_at_the_picture_of_another_before_or_behind_them(write_tsv, pictures):
    rows = [{"index": 1, "image": "7"}, {"index": 7, "image": pictures["tiny"]}, {"index": 8, "image": "7"}]
    assert [row.images for row in read_tsv(write_tsv("X", rows))] == [(pictures["tiny"],)] * 3


def test_a_row_may_have_several_pictures_or_none(write_tsv, pictures):
    both = [pictures["tiny"], pictures["ribbon"]]
    rows = [{"index": 1, "image": both}, {"index": 2, "image": ""}]
    assert [list(row.images) for row in read_tsv(write_tsv("X", rows))] == [both, []]


@pytest.mark.parametrize("folder", ["", "images", "images/X"])
def test_pictures_may_lie_beside_the_table(write_tsv, pictures, tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in ("tiny", "ribbon"):
        (tmp_path / folder / f"{name}.png").write_bytes(pictures[name])
    rows = [{"index": 1, "image_path": "tiny.png"}, {"index": 2, "image_path": "['tiny.png', 'ribbon.png']"}]
    found = [row.images for row in read_tsv(write_tsv("X", rows))]
    assert found == [(pictures["tiny"],), (pictures["tiny"], pictures["ribbon"])]


def test_reading_is_lazy(write_tsv, pictures):
    rows = [{"index": 1, "image": pictures["tiny"]}, {"index": 2, "image": "?" * 100}]
    table = read_tsv(write_tsv("X", rows))
    assert next(table).number == 1
    with pytest.raises(ValueError, match=r"X\.tsv, row 2, image: '\?{20}\.\.\. of 100 characters' is neither base64"):
        next(table)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has no column 'index'; there are: $"),
        (b"id\tquestion\n1\twhat\n", "has no column 'index'; there are: id, question"),
        (b"index\timg\n1\tAAAA\n", r"has no column of pictures \(image or image_path\); there are: index, img"),
        (b"index\timage\n1\n", "row 1, index: the row has 1 fields, the table 2 columns"),
        (b"index\timage_path\n1\tno.png\n", "row 1, image_path: no picture no.png in "),
        (b"index\timage\n1\tseven!\n", "row 1, image: 'seven!' is neither base64 nor a row's index"),
        (b"index\timage\n1\t\xff\xfe\n", "after row 0: 'utf-8' codec"),
    ],
)
def test_a_damaged_table_is_named_with_row_and_key(tmp_path, content, complaint):
    (tmp_path / "X.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        list(read_rows(tmp_path / "X.tsv"))
    assert str(tmp_path / "X.tsv") in str(caught.value)


@pytest.mark.parametrize(
    "name", ["data/test-00000-of-00001.parquet", "test/0000.parquet", "test-00000-of-00001-0123456789abcdef.parquet"]
)
def test_a_split_is_found_by_the_name_of_file_or_folder(write_parquet, pictures, tmp_path, name):
    write_parquet(f"Set/{name}", [{"question": "what", "image": pictures["ribbon"]}])
    write_parquet(f"Set/{name.replace('test', 'dev')}", [{"question": "other", "image": pictures["tiny"]}])
    (row,) = read_parquet(tmp_path / "Set", split="test")
    assert (row.text("question"), row.images, row.part) == ("what", (pictures["ribbon"],), "Set test")
    with pytest.raises(ValueError, match="holds 2 splits: dev, test; choose one"):
        list(read_parquet(tmp_path / "Set"))
    with pytest.raises(ValueError, match="has no split 'val'; there are: dev, test"):
        list(read_parquet(tmp_path / "Set", split="val"))


def test_a_repository_of_several_sets_keeps_each_in_a_folder(write_parquet, pictures, tmp_path):
    for name in ("en", "cn"):
        write_parquet(f"Set/{name}/dev-00000-of-00001.parquet", [{"question": name, "image": pictures["tiny"]}])
    (row,) = read_rows(tmp_path / "Set", split="dev", subfolder="cn")
    assert (row.text("question"), row.part) == ("cn", "Set/cn dev")


def test_more_rows_than_a_step_and_more_files_than_one_keep_their_order(write_parquet, pictures, tmp_path):
    for shard in (0, 1):
        rows = [{"n": shard * 40 + number, "image": pictures["tiny"]} for number in range(40)]
        write_parquet(f"Set/test-0000{shard}-of-00002.parquet", rows)
    found = list(read_rows(tmp_path / "Set", split="test"))
    assert [row.get("n") for row in found] == list(range(80))
    assert [row.number for row in found[38:42]] == [39, 40, 1, 2]


def test_numbered_columns_and_lists_of_pictures_are_read_in_order(write_parquet, pictures):
    path = write_parquet(
        "test.parquet",
        [{"image_1": pictures["tiny"], "image_2": pictures["ribbon"]}, {"image_1": pictures["large"], "image_2": None}],
    )
    found = [row.images for row in read_rows(path, image_columns=("image", "image_1", "image_2"))]
    assert found == [(pictures["tiny"], pictures["ribbon"]), (pictures["large"],)]
    listed = write_parquet("list.parquet", [{"image": [{"bytes": pictures["tiny"], "path": "a"}] * 2}])
    assert [row.images for row in read_rows(listed)] == [(pictures["tiny"],) * 2]


def test_pictures_of_a_parquet_file_may_be_paths(write_parquet, pictures, tmp_path):
    (tmp_path / "a.png").write_bytes(pictures["tiny"])
    path = write_parquet("test.parquet", [{"image": {"bytes": None, "path": "a.png"}}])
    assert [row.images for row in read_rows(path)] == [(pictures["tiny"],)]


def test_damaged_parquet_files_are_named(write_parquet, tmp_path):
    path = write_parquet("test.parquet", [{"image": "not a picture"}])
    with pytest.raises(ValueError, match=r"test\.parquet, row 1, image: holds str, not a picture's bytes or path"):
        list(read_rows(path))
    complaint = r"test\.parquet has no column of pictures \(image_1 or image_2\); there are: image"
    with pytest.raises(ValueError, match=complaint):
        list(read_rows(path, image_columns=("image_1", "image_2")))
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"test\.parquet, after row 0: "):
        list(read_rows(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no \.parquet file"):
        list(read_rows(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("key", "named", "place"),
    [
        ("image", "documents/x.png", "documents/x.png"),
        ("image", "documents/x.png", "spdocvqa_images/x.png"),
        ("image_local_name", "x.png", "infographicsvqa_images/x.png"),
        ("image_local_name", "x.png", "x.png"),
        ("image", "documents/x.png", "../documents/x.png"),
    ],
)
def test_documents_and_their_pictures_are_found(tmp_path, pictures, key, named, place):
    home = tmp_path / "val"
    home.mkdir()
    (home / place).parent.mkdir(parents=True, exist_ok=True)
    (home / place).write_bytes(pictures["ribbon"])
    record = {"questionId": 1, "question": "who", key: named, "answers": ["a", "b"]}
    (home / "val_v1.0.json").write_text(json.dumps({"dataset_split": "val", "data": [record]}))
    (row,) = read_documents(home / "val_v1.0.json")
    assert (row.images, row.texts("answers"), row.part) == ((pictures["ribbon"],), ("a", "b"), "val_v1.0")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not JSON"),
        ("{}", "has no list 'data' of questions"),
        ('{"data": [7]}', "row 1, data: holds int, not a question"),
        ('{"data": [{"question": "x"}]}', "row 1, image: is missing; the row has: question"),
        ('{"data": [{"image": "documents/x.png"}]}', "row 1, image: no picture x.png in "),
    ],
)
def test_damaged_documents_are_named_with_row_and_key(tmp_path, content, complaint):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        list(read_rows(tmp_path / "x.json"))
    assert str(tmp_path / "x.json") in str(caught.value)


def test_the_layout_is_told_by_the_name(tmp_path, write_tsv, pictures):
    write_tsv("X", [{"index": 1, "image": pictures["tiny"]}])
    assert [row.part for row in read_rows(tmp_path)] == ["X"]
    write_tsv("Y", [{"index": 1, "image": pictures["tiny"]}])
    with pytest.raises(ValueError, match=r"holds 2 TSV files; give one of: X\.tsv, Y\.tsv"):
        read_rows(tmp_path)
    with pytest.raises(ValueError, match="is not there"):
        read_rows(tmp_path / "Z.tsv")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match=r"is none of \.tsv, \.json, \.parquet"):
        read_rows(tmp_path / "a.csv")


def test_fields_are_missing_when_null_empty_or_nan_and_not_when_they_say_none(write_tsv):
    values = {"index": 1, "A": "None", "B": "", "C": "NA", "answer": "['a', 2]", "b": "[x", "image": ""}
    (row,) = read_tsv(write_tsv("X", [values]))
    assert row.options() == {"A": "None", "C": "NA"}
    assert row.texts("answers", "answer") == ("a", "2")
    assert (row.texts("b"), row.texts("zz")) == (("[x",), ())
    with pytest.raises(ValueError, match=r"X\.tsv, row 1, hint: is missing; the row has: index, A, B, C"):
        row.text("hint", "B")


@pytest.mark.parametrize("pixels", [28 * 28, 64 * 28 * 28])
def test_tiny_and_ribbon_pictures_that_were_read_open_and_resize_under_min_equal_max(write_tsv, pictures, pixels):
    rows = [{"index": n, "image": pictures[name]} for n, name in enumerate(("tiny", "ribbon"))]
    for row in read_tsv(write_tsv("X", rows)):
        image = open_image(row.images[0])
        sides = smart_resize(image.height, image.width, min_pixels=pixels, max_pixels=pixels)
        assert min(sides) >= 28 and all(side % 28 == 0 for side in sides)
