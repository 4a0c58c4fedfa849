import gc
import hashlib
import io
import json
import tarfile
import warnings

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mindvl.data.raw import RawSample
from mindvl.data.reader import read_samples
from mindvl.data.shard_writer import MAX_KEY_CHARS, ShardWriter, check_key, encode_record, picture_extension, safe_key


def sample(key, *images, text="abc"):
    parts = [{"type": "image"} for _ in images]
    user = {"role": "user", "content": [*parts, {"type": "text", "text": "read"}]}
    return RawSample(key, {"messages": [user, {"role": "assistant", "content": text}]}, images)


def read(paths):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves closing its files to the collector
        samples = list(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False))
        gc.collect()
    return samples


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_webdataset_reads_back_every_sample_in_order(tmp_path, picture):
    png, jpeg = picture(28, 56), picture(30, 30, format="JPEG")
    written = [sample("a/0", png, jpeg), sample("b"), sample("图", png, text="读图")]
    with ShardWriter(tmp_path, "s", samples_per_shard=2) as writer:
        for one in written:
            writer.write(one)
        assert writer.samples == 3
    assert names(tmp_path) == ["s-000000.tar", "s-000001.tar"]
    assert writer.paths == [tmp_path / "s-000000.tar", tmp_path / "s-000001.tar"] and writer.samples == 3
    found = read(writer.paths)
    assert [one["__key__"] for one in found] == [one.key for one in written]
    assert [json.loads(one["json"]) for one in found] == [one.record for one in written]
    assert (found[0]["0.png"], found[0]["1.jpg"], found[2]["0.png"]) == (png, jpeg, png)


def test_the_frames_of_a_video_are_members_of_their_own(tmp_path, picture):
    frames = tuple(picture(28, 28, seed=number, format="JPEG") for number in range(11))
    with ShardWriter(tmp_path, "s") as writer:
        writer.write(sample("a", picture(28, 28), frames, frames[:1]))
        with pytest.raises(ValueError, match="video 1 of the sample has 0 frames"):
            writer.write(sample("b", picture(28, 28), ()))
    (found,) = read(writer.paths)
    assert found["0.png"] == picture(28, 28) and found["2.0000.jpg"] == frames[0]
    assert tuple(found[f"1.{number:04d}.jpg"] for number in range(11)) == frames
    (back,) = read_samples(str(writer.paths[0]))
    assert back.images == (picture(28, 28), frames, frames[:1]) and back.files == (picture(28, 28), *frames, frames[0])


def test_the_same_samples_give_the_same_bytes_and_plain_ustar(tmp_path, picture):
    sums = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        with ShardWriter(folder, "s") as writer:
            writer.write(sample(safe_key("图.png" * 30), picture(28, 28)))
        sums.append(hashlib.sha256(writer.paths[0].read_bytes()).hexdigest())
        with tarfile.open(writer.paths[0]) as archive:
            assert {(m.mtime, m.offset_data - m.offset, len(m.pax_headers)) for m in archive} == {(0, 512, 0)}
    assert sums[0] == sums[1]


def test_a_shard_ends_before_it_outgrows_its_bytes(tmp_path):
    blob = b"\x89PNG\r\n\x1a\n" + bytes(1000)  # 512 header + 1024; the record is 512 + 512: 2560 bytes a sample
    with ShardWriter(tmp_path, "s", max_shard_bytes=5120) as writer:
        for key in "abc":
            writer.write(sample(key, blob))
        writer.write(sample("large", blob * 10))
        writer.write(sample("d"))
    keys = [[one["__key__"] for one in read([path])] for path in writer.paths]
    assert keys == [["a", "b"], ["c"], ["large"], ["d"]]


def test_an_exception_removes_the_unfinished_shard_and_leaves_the_finished(tmp_path):
    def write():
        with ShardWriter(tmp_path, "s", samples_per_shard=2) as writer:
            for key in "abc":
                writer.write(sample(key))
            assert len(names(tmp_path)) == 2  # one of them under its temporary name
            writer.write(sample("c"))

    with pytest.raises(ValueError, match=r"s-000001\.tar: key 'c' is there twice"):
        write()
    assert names(tmp_path) == ["s-000000.tar"]


def test_a_rename_that_fails_leaves_no_temporary_file(tmp_path):
    (tmp_path / "s-000000.tar").mkdir()
    writer = ShardWriter(tmp_path, "s")
    writer.write(sample("a"))
    with pytest.raises(OSError):
        writer.close()
    assert names(tmp_path) == ["s-000000.tar"] and writer.samples == 0


def test_without_samples_there_is_no_shard(tmp_path):
    with ShardWriter(tmp_path / "out", "s") as writer:
        pass
    assert writer.paths == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["", "a.b", "..", "../a", "/a", "a//b", "a/", "a\\b", "a\x00", "a\nb", "__a__/b"])
def test_keys_that_readers_would_misread_are_refused_and_made_safe(tmp_path, key):
    with ShardWriter(tmp_path, "s") as writer:
        with pytest.raises(ValueError, match="safe_key"):
            writer.write(sample(key))
        writer.write(sample(safe_key(key)))
    assert [one["__key__"] for one in read(writer.paths)] == [safe_key(key)]


def test_safe_keys_are_as_documented():
    assert safe_key("ocr_vqa/12.jpg") == "ocr_vqa/12~2ejpg"
    assert safe_key("GCC-train_000") == "GCC-train_000"
    assert safe_key("../x") == "~2e~2e~2fx"
    assert safe_key("a//b/") == "a~2f~2fb~2f"
    assert safe_key("图~") == "~e5~9b~be~7e"
    assert safe_key("__a__/b") == "~5f_a__/b" and safe_key("") == "~"
    long = safe_key("x" * 500)
    assert long.startswith("x" * MAX_KEY_CHARS + "~~") and len(long) == MAX_KEY_CHARS + 18
    assert long != safe_key("x" * 501)


@given(st.lists(st.text(st.characters(), max_size=40) | st.text("._~/a", max_size=12), unique=True, max_size=20))
def test_different_names_get_different_keys_that_pass_the_check(texts):
    keys = [safe_key(text) for text in texts]
    assert len(set(keys)) == len(texts)
    for key in keys:
        check_key(key)
        assert key.isascii() and len(key) + len(".999.webp") <= 100


@pytest.mark.parametrize(
    ("format", "extension"),
    [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif")],
)
def test_a_picture_is_named_by_its_content(picture, format, extension):
    assert picture_extension(picture(28, 28, format=format)) == extension


def test_a_picture_of_another_format_is_refused():
    with io.BytesIO() as stream:
        Image.new("RGB", (9, 9)).save(stream, "PPM")
        data = stream.getvalue()
    for unknown in (data, b"", b"RIFF1234WAVE"):
        with pytest.raises(ValueError, match="none of png, jpg, webp, gif, bmp, tif"):
            picture_extension(unknown)


@pytest.mark.parametrize("value", [float("nan"), "\ud800", b"bytes"])
def test_a_record_that_is_not_json_is_refused(value):
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        encode_record({"score": value})


def test_settings_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"name '\.\./s' is not made of letters"):
        ShardWriter(tmp_path, "../s")
    with pytest.raises(ValueError, match="samples_per_shard is 0"):
        ShardWriter(tmp_path, "s", samples_per_shard=0)


def test_a_full_disk_leaves_no_temporary_file_and_is_reported(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mindvl.data.shard_writer.os.fsync", full)

    def write():
        with ShardWriter(tmp_path, "s") as writer:
            writer.write(sample("a"))

    with pytest.raises(OSError, match="No space left"):
        write()
    assert names(tmp_path) == []
