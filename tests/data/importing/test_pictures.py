import base64
import io
import os

import pytest
from PIL import Image

from mindvl.data.importing.outcome import Refusal
from mindvl.data.importing.pictures import PictureFolder


@pytest.fixture
def folder(tmp_path, picture):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "images-two").mkdir()
    for place in ("images/a.png", "images/sub/b.jpg", "images-two/secret.png", "secret.png"):
        (tmp_path / place).write_bytes(picture(28, 28))
    return tmp_path / "images"


def reason(folder, reference):
    with pytest.raises(Refusal) as caught:
        PictureFolder(folder).load(reference)
    return caught.value.reason


def test_pictures_are_read_by_path_bytes_or_both(folder, picture, monkeypatch):
    pictures, data = PictureFolder(folder), picture(28, 28)
    for reference in ("a.png", "./sub/../a.png", "sub/b.jpg", str(folder / "a.png"), {"bytes": None, "path": "a.png"}):
        assert pictures.load(reference) == data
    other = picture(30, 30)
    assert pictures.load(other) == pictures.load({"bytes": other, "path": "a.png"}) == other
    monkeypatch.chdir(folder.parent)
    assert PictureFolder(type(folder)("images")).load("a.png") == data


def test_a_file_url_is_its_path_and_a_data_url_the_picture_itself(folder, picture):
    pictures, data = PictureFolder(folder), picture(28, 28)
    (folder / "a b.png").write_bytes(picture(30, 30))
    (folder / "50%25.png").write_bytes(picture(32, 32))
    for url in (f"file://{folder}/a.png", f"FILE://localhost{folder}/a.png", "file://a.png", "file://sub/b.jpg"):
        assert pictures.load(url) == data
    for name in ("a b.png", "a%20b.png"):
        assert pictures.load(f"file://{folder}/{name}") == picture(30, 30)
    assert pictures.load(f"file://{folder}/50%25.png") == picture(32, 32)
    assert pictures.load("data:image/jpeg;base64," + base64.b64encode(data).decode()) == data
    outside = [
        f"{folder.parent}/secret.png",
        "../secret.png",
        "%2e%2e/secret.png",
        "/etc/passwd",
        "localhost/etc/passwd",
    ]
    for place in outside:
        assert reason(folder, f"file://{place}") == "the picture's path leaves the image folder"
    assert reason(folder, f"file://{folder}/none.png") == "the picture's file is missing"


def test_a_path_that_leaves_the_folder_is_refused(folder):
    outside = ["../secret.png", "sub/../../secret.png", str(folder.parent / "secret.png"), "../images-two/secret.png"]
    for reference in [*outside, "", ".", str(folder), "/etc/passwd"]:
        assert reason(folder, reference) == "the picture's path leaves the image folder"


def test_a_link_in_the_folder_is_followed_for_it_is_the_owners(folder, picture):
    (folder / "linked").symlink_to(folder.parent / "images-two")
    assert PictureFolder(folder).load("linked/secret.png") == picture(28, 28)
    assert reason(folder, "linked/../../secret.png") == "the picture's path leaves the image folder"


def test_what_is_no_picture_file_is_refused_by_reason(folder, picture):
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    os.mkfifo(folder / "pipe.png")
    assert reason(folder, "none.png") == "the picture's file is missing"
    assert reason(folder, "x" * 5000) == "the picture's file cannot be read"
    assert reason(folder, "a\x00.png") in ("the picture's file cannot be read", "the picture's file is missing")
    assert reason(folder, "sub") == reason(folder, "pipe.png") == "the picture's path is not a file"
    for unread in ("text.png", "empty.png", b"", picture(28, 28)[:20]):
        assert reason(folder, unread) == "the file is not a picture"
    for url in ("https://example.org/a.png", "s3://bucket/a.png", "file://http://example.org/a.png"):
        assert reason(folder, url) == "the picture is behind a URL, which is not fetched"
    for url in ("data:image/png;base64,A", "data:image/png;base64,读", "data:image/png,%89PNG", "data:"):
        assert reason(folder, url) == "the picture's data URL is not base64"
    assert reason(folder, "data:image/png;base64,AAAA") == "the file is not a picture"
    for neither in (None, 7, {"path": None}, ["a.png"]):
        assert reason(folder, neither) == "the picture is given neither as a path nor as bytes"
    with io.BytesIO() as stream:
        Image.new("RGB", (9, 9)).save(stream, "PPM")
        assert reason(folder, stream.getvalue()) == "the picture is none of png, jpg, webp, gif, bmp, tif"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_above_the_cap_is_refused_by_its_header(folder):
    with io.BytesIO() as stream:
        Image.new("1", (10_001, 10_000)).save(stream, "PNG")
        assert reason(folder, stream.getvalue()) == "the picture has more pixels than the cap"


def test_an_image_folder_that_is_none_is_an_error(folder):
    with pytest.raises(ValueError, match=r"a\.png is not a folder"):
        PictureFolder(folder / "a.png")
