"""Samples are read by offset, and a byte that changed since indexing is seen."""

import json
from pathlib import Path

import fsspec
import pytest

from mindvl.data.indexing import index_shard
from mindvl.data.reader import ShardReader, read_samples


def test_each_sample_is_read_by_its_offsets(shard, encoder, picture, record):
    index, reader = index_shard(shard, encoder), ShardReader()
    read, images = reader.sample(shard, index, 1)
    assert read == json.loads(record("second", images=2))
    assert images == [picture(28, 56), picture(84, 28, format="JPEG")]


def test_a_video_is_read_as_its_frames_between_the_pictures(tmp_path, encoder, picture, write_tar):
    content = [{"type": kind} for kind in ("image", "video", "video", "image")]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
    files = {f"a.{name}": picture(28, 28, seed=n) for n, name in enumerate(("0.png", "1.0.png", "1.1.png", "2.0.png"))}
    members = [("a.json", json.dumps({"messages": messages}).encode()), *files.items(), ("a.3.png", picture(56, 56))]
    shard = write_tar(tmp_path / "s.tar", members)
    still, first, second, other = files.values()
    visuals = [still, (first, second), (other,), picture(56, 56)]
    assert ShardReader().sample(shard, index_shard(shard, encoder), 0)[1] == visuals
    (sample,) = read_samples(shard)
    assert list(sample.images) == visuals


def test_a_sample_behind_a_url_is_the_same(shard, encoder):
    url = "memory:///reader/shard.tar"
    fsspec.filesystem("memory").pipe_file(url, Path(shard).read_bytes())
    index, reader = index_shard(url, encoder), ShardReader()
    assert [reader.sample(url, index, row) for row in range(3)] == [
        reader.sample(shard, index, row) for row in range(3)
    ]


def test_a_flipped_byte_of_a_record_or_a_picture_is_seen(shard, encoder):
    index, whole = index_shard(shard, encoder), Path(shard).read_bytes()
    for place in (index.record_offset[1] + 20, index.image_offset[0] + 40, index.image_offset[1] + 200):
        data = bytearray(whole)
        data[place] ^= 1
        Path(shard).write_bytes(data)
        with pytest.raises(ValueError, match="the bytes are not those that were indexed"):
            ShardReader().sample(shard, index, 1)
        assert ShardReader().sample(shard, index, 0) and ShardReader().sample(shard, index, 2)


def test_a_shard_that_shrank_is_an_error_with_both_numbers(shard, encoder):
    index = index_shard(shard, encoder)
    Path(shard).write_bytes(Path(shard).read_bytes()[: int(index.image_offset[2]) + 10])
    with pytest.raises(ValueError, match=rf"has 10 bytes at offset {index.image_offset[2]}, its index says \d+"):
        ShardReader().sample(shard, index, 2)


def test_a_reader_keeps_no_more_files_open_than_told(tmp_path, encoder, record, write_tar):
    reader = ShardReader(max_open_files=2)
    shards = [write_tar(tmp_path / f"{number}.tar", [("a.json", record(str(number)))]) for number in range(5)]
    index = index_shard(shards[0], encoder)
    place = int(index.record_offset[0]), int(index.record_bytes[0])
    for shard in [*shards, *shards[::-1]]:
        assert reader.read(shard, *place) == record(Path(shard).stem)
        assert len(reader._files) <= 2
    reader.close()
    assert reader._files == {}


def test_all_samples_of_a_shard_are_read_in_order_without_an_index(shard, picture):
    samples = list(read_samples(shard))
    assert [sample.key for sample in samples] == ["one", "two", "three"]
    assert [len(sample.images) for sample in samples] == [0, 2, 1] and samples[2].images[0] == picture(30, 40)
    assert samples[0].messages[0]["content"][0]["text"] == "first"


def test_a_sample_without_a_record_is_an_error_or_is_heard_of(tmp_path, record, picture, write_tar):
    shard = write_tar(tmp_path / "s.tar", [("a.json", b"{"), ("b.png", picture(28, 28)), ("c.json", record())])
    with pytest.raises(ValueError, match=r"s\.tar: sample a: the record is not JSON: Expecting property name"):
        list(read_samples(shard))
    heard = []
    assert [s.key for s in read_samples(shard, refused=lambda *why: heard.append(why))] == ["c"]
    assert heard == [("a", "the record is not JSON"), ("b", "no .json or .txt record")]


def test_with_and_without_an_index_the_same_samples_of_a_shard_are_refused(
    tmp_path, encoder, record, picture, write_tar
):
    twice = [("a.json", record(images=1)), ("a.0.png", picture(28, 28)), ("a.0.PNG", picture(56, 56))]
    two_records = [("b.json", record("first")), ("b.json", record("second"))]
    broken = [("c.json", b"{"), ("c.txt", b"\xff"), ("c.0.png", picture(28, 28))]
    shard = write_tar(tmp_path / "s.tar", [*twice, *two_records, *broken, ("d.json", record())])
    index, heard = index_shard(shard, encoder), []
    assert [sample.key for sample in read_samples(shard, refused=lambda *why: heard.append(why))] == ["d"]
    assert heard == [(index.key(row), index.reason(row)) for row in range(3)]
    assert [reason for _, reason in heard] == ["a member is there twice"] * 2 + ["the record is not UTF-8"]
    with pytest.raises(ValueError, match=r"s\.tar: sample a: a member is there twice"):
        list(read_samples(shard))
