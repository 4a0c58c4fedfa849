"""A shard is read whole or refused by name; its index is the same reading, kept."""

import io
import json
import os
import re
import tarfile

import pytest
from webdataset import ShardWriter

from mindvl.data.shards import ShardReader, find_shards, index_shard, load_index, shard_members


def record(question: str = "?", answer: str = "a", *, images: int = 0) -> bytes:
    content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}).encode()


def write_tar(path, members: list[tuple[str, bytes]]):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shard(tmp_path, picture):
    """Three good samples, the second with two pictures."""
    members = [
        ("one.json", record("first")),
        ("two.json", record("second", images=2)),
        ("two.0.png", picture(28, 56)),
        ("two.1.jpg", picture(84, 28, format="JPEG")),
        ("three.json", record("third", images=1)),
        ("three.png", picture(30, 40)),
    ]
    return write_tar(tmp_path / "shard.tar", members)


def index_of(path, encoder):
    return index_shard(path, encoder, "fingerprint")


def test_a_shard_written_by_webdataset_is_read(tmp_path, encoder, picture):
    with ShardWriter(str(tmp_path / "%06d.tar"), maxcount=2, verbose=0) as writer:
        for number in range(3):
            writer.write({"__key__": f"key{number}", "json": record(images=1), "0.png": picture(28, 28 * (number + 1))})
    shards = find_shards(tmp_path)
    indexes = [index_of(path, encoder) for path in shards]
    assert [index.key.tolist() for index in indexes] == [["key0", "key1"], ["key2"]]
    assert [index.image_width.tolist() for index in indexes] == [[28, 56], [84]]
    assert all((index.problem == "").all() for index in indexes)


def test_the_index_finds_each_record_and_picture_by_offset(shard, encoder, picture):
    index, reader = index_of(shard, encoder), ShardReader()
    assert index.key.tolist() == ["one", "two", "three"] and index.first_image.tolist() == [0, 0, 2, 3]
    assert index.image_height.tolist() == [28, 84, 30] and index.image_width.tolist() == [56, 28, 40]
    places = zip(index.record_offset.tolist(), index.record_bytes.tolist(), strict=True)
    records = [reader.read(shard, *place) for place in places]
    assert records[1] == record("second", images=2)
    assert reader.read(shard, int(index.image_offset[0]), int(index.image_bytes[0])) == picture(28, 56)


def test_the_index_counts_the_tokens_that_the_encoder_makes(shard, encoder):
    index = index_of(shard, encoder)
    chat = encoder.encode(json.loads(record("second", images=2))["messages"])
    assert index.text_tokens[1] == len(chat.input_ids) and index.answer_tokens[1] == sum(chat.supervised) == 2


def test_pictures_are_ordered_by_number(tmp_path, encoder, picture):
    sizes = {f"a.{number}.png": picture(28, 28 + number) for number in (10, 9, 0, 2, 1, 11, 3, 4, 5, 6, 7, 8)}
    index = index_of(write_tar(tmp_path / "s.tar", [("a.json", record(images=12)), *sizes.items()]), encoder)
    assert index.image_width.tolist() == [28 + number for number in range(12)]


def test_a_key_may_have_a_folder_and_members_need_not_be_in_order(tmp_path, encoder, picture):
    members = [("x/a.png", picture(28, 28)), ("x/b.json", record()), ("x/a.json", record(images=1))]
    index = index_of(write_tar(tmp_path / "s.tar", members), encoder)
    assert sorted(index.key.tolist()) == ["x/a", "x/b"] and (index.problem == "").all()


def damaged(shard, change) -> str:
    data = bytearray(shard.read_bytes())
    shard.write_bytes(change(data))
    return re.escape(str(shard))


def test_a_tar_cut_at_a_member_boundary_is_refused(shard, encoder):
    boundary = shard_members(shard)[4].offset
    name = damaged(shard, lambda data: data[:boundary])
    with pytest.raises(ValueError, match=f"{name} ends early: .* without an end-of-archive mark.*after two.1.jpg"):
        index_of(shard, encoder)


def test_a_tar_cut_inside_a_member_is_refused(shard, encoder):
    middle = shard_members(shard)[2].offset_data + 700
    name = damaged(shard, lambda data: data[:middle])
    with pytest.raises(ValueError, match=f"{name} (ends early|is not a readable tar)"):
        index_of(shard, encoder)


@pytest.mark.parametrize("member", range(1, 6))
def test_a_flipped_byte_in_a_later_header_is_refused(member, shard, encoder):
    place = shard_members(shard)[member].offset + 5

    def flip(data):
        data[place] ^= 1
        return data

    name = damaged(shard, flip)
    with pytest.raises(ValueError, match=f"{name} ends early"):
        index_of(shard, encoder)


def test_a_tar_whose_first_header_is_damaged_is_refused(shard, encoder):
    name = damaged(shard, lambda data: b"\xff" + data[1:])
    with pytest.raises(ValueError, match=f"{name} is not a readable tar"):
        index_of(shard, encoder)


def test_zero_bytes_are_refused(shard, encoder):
    name = damaged(shard, lambda data: b"")
    with pytest.raises(ValueError, match=f"{name} is empty: 0 bytes"):
        index_of(shard, encoder)


def test_a_tar_without_members_is_refused(tmp_path, encoder):
    with pytest.raises(ValueError, match=r"none\.tar is empty: no sample in 10240 bytes"):
        index_of(write_tar(tmp_path / "none.tar", []), encoder)


def test_what_is_no_tar_is_refused(tmp_path, encoder):
    (tmp_path / "text.tar").write_text("hello " * 1000)
    with pytest.raises(ValueError, match=r"text\.tar is not a readable tar"):
        index_of(tmp_path / "text.tar", encoder)


def test_a_member_that_is_there_twice_is_refused(tmp_path, encoder):
    path = write_tar(tmp_path / "s.tar", [("a.json", record()), ("b.json", record()), ("a.json", record())])
    with pytest.raises(ValueError, match=r"s\.tar: member 'a.json' is there twice"):
        index_of(path, encoder)


def test_a_missing_folder_and_an_empty_one_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"no shards at .*nowhere/\*\.tar: the folder .*nowhere does not exist"):
        find_shards(tmp_path / "nowhere" / "*.tar")
    with pytest.raises(ValueError, match=r"no shards at .*: 0 files match"):
        find_shards(tmp_path)


def test_a_folder_a_file_and_a_glob_name_the_same_shards(shard):
    assert find_shards(shard.parent) == find_shards(shard) == find_shards(shard.parent / "sh*.tar") == [shard]


PROBLEMS = {
    "Expecting property name": lambda picture: [("a.json", b"{nope")],
    "the record has no list of `messages`": lambda picture: [("a.json", b'{"text": "x"}')],
    "no .json record": lambda picture: [("a.png", picture(28, 28))],
    "1 image placeholders, 0 images": lambda picture: [("a.json", record(images=1))],
    "0 image placeholders, 1 images": lambda picture: [("a.json", record()), ("a.png", picture(28, 28))],
    "not a picture": lambda picture: [("a.json", record(images=1)), ("a.png", b"no picture")],
    "message 1 is an empty answer": lambda picture: [("a.json", record(answer=""))],
    "no supervised token": lambda picture: [("a.json", b'{"messages": [{"role": "user", "content": "hello"}]}')],
    "message 0 has no content": lambda picture: [("a.json", b'{"messages": [{"role": "user"}]}')],
    "'utf-8' codec can't decode": lambda picture: [("a.json", b'{"messages": "\xff"}')],
}


@pytest.mark.parametrize("reason", PROBLEMS)
def test_a_sample_that_cannot_be_used_says_why_and_leaves_the_others(reason, tmp_path, encoder, picture):
    members = [("good.json", record()), *PROBLEMS[reason](picture), ("later.json", record())]
    index = index_of(write_tar(tmp_path / "s.tar", members), encoder)
    assert index.key.tolist() == ["good", "a", "later"]
    assert index.problem[1].startswith(reason) and index.problem[[0, 2]].tolist() == ["", ""]


def equal(one, other):
    return all((getattr(one, name) == getattr(other, name)).all() for name in one.__dataclass_fields__)


def test_the_index_beside_the_shard_is_reused(shard, encoder, monkeypatch):
    first = load_index(shard, encoder, "f")
    monkeypatch.setattr("mindvl.data.shards.index_shard", lambda *_: pytest.fail("read again"))
    assert equal(first, load_index(shard, encoder, "f"))
    assert [path.name for path in shard.parent.iterdir() if path != shard] == ["shard.tar.index.npz"]


def test_the_index_is_made_anew_when_the_shard_grows(shard, encoder):
    assert len(load_index(shard, encoder, "f")) == 3
    write_tar(shard, [(f"{number}.json", record()) for number in range(50)])
    assert len(load_index(shard, encoder, "f")) == 50


def test_the_index_is_made_anew_when_the_shard_is_rewritten_at_the_same_size(shard, encoder):
    write_tar(shard, [("a.json", record("old"))])
    stale = load_index(shard, encoder, "f")
    size = shard.stat().st_size
    write_tar(shard, [("a.json", record("a longer question"))])
    os.utime(shard, ns=(shard.stat().st_atime_ns, int(stale.shard_mtime_ns) + 1))
    assert shard.stat().st_size == size
    assert load_index(shard, encoder, "f").text_tokens[0] > stale.text_tokens[0]


def test_the_index_is_made_anew_for_another_tokenizer(shard, encoder):
    load_index(shard, encoder, "f")
    assert str(load_index(shard, encoder, "g").fingerprint) == "g"


def test_a_shard_that_shrank_after_indexing_is_an_error_with_both_numbers(shard, encoder):
    index = index_of(shard, encoder)
    shard.write_bytes(shard.read_bytes()[: int(index.image_offset[2]) + 10])
    with pytest.raises(ValueError, match=f"10 bytes at offset {index.image_offset[2]}, the index says"):
        ShardReader().read(shard, int(index.image_offset[2]), int(index.image_bytes[2]))


def test_a_reader_keeps_no_more_files_open_than_told(tmp_path, encoder):
    reader = ShardReader(max_open_files=2)
    paths = [write_tar(tmp_path / f"{number}.tar", [("a.json", record(str(number)))]) for number in range(5)]
    offset = shard_members(paths[0])[0].offset_data
    for path in [*paths, *paths[::-1]]:
        assert json.loads(reader.read(path, offset, len(record("0"))))["messages"][0]["content"][0]["text"] == path.stem
        assert len(reader._files) <= 2
    reader.close()
    assert reader._files == {}
