"""Shards are found and read by range, on disk and behind URLs; nothing is ever run."""

import os
import uuid

import fsspec
import pytest

from mindvl.data.storage import (
    find_shards,
    index_location,
    open_for_reading,
    read_range,
    read_whole,
    version_of,
    write_whole,
)


@pytest.fixture
def bucket():
    """A folder in fsspec's memory store: the same interface as a bucket."""
    name = f"memory:///bucket-{uuid.uuid4().hex}"
    store = fsspec.filesystem("memory")
    for number in (1, 0):
        store.pipe_file(f"{name}/part-{number}.tar", bytes(range(100)))
    store.pipe_file(f"{name}/part-0.tar.index.npz", b"index")
    yield name
    store.rm(name, recursive=True)


def test_a_folder_a_file_and_a_glob_name_the_same_shards(tmp_path):
    shard = tmp_path / "shard.tar"
    shard.write_bytes(b"x")
    (tmp_path / "shard.tar.index.npz").write_bytes(b"y")
    assert find_shards(tmp_path) == find_shards(shard) == find_shards(str(tmp_path / "sh*.tar")) == [str(shard)]


def test_a_missing_folder_and_an_empty_one_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"no shards at .*nowhere/\*\.tar: the folder .*nowhere does not exist"):
        find_shards(tmp_path / "nowhere" / "*.tar")
    with pytest.raises(ValueError, match=r"no shards at .*: 0 files match"):
        find_shards(tmp_path)


@pytest.fixture
def three(tmp_path):
    """Three shards and another file, without indexes."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("s-000000.tar", "s-000001.tar", "t-000000.tar", "notes.txt"):
        (folder / name).write_bytes(b"x")
    return folder


def test_braces_name_shards_as_webdataset_writes_them(three, bucket):
    both = [str(three / f"s-00000{number}.tar") for number in (0, 1)]
    assert find_shards(f"{three}/s-{{000000..000001}}.tar") == both
    assert find_shards(f"{three}/{{t,s}}-*.tar") == [*both, str(three / "t-000000.tar")]
    assert find_shards(f"{bucket}/part-{{0..1}}.tar") == find_shards(bucket)
    for pattern, missing in (
        (f"{three}/s-{{000000..000002}}.tar", "s-000002"),
        (f"{bucket}/part-{{0..2}}.tar", "part-2"),
    ):
        with pytest.raises(ValueError, match=rf"no shards at .*{missing}\.tar of .*\.\.\w+\}}\.tar: 0 files match"):
            find_shards(pattern)
    with pytest.raises(ValueError, match=r"no shards at .*s-\{000000\.tar: a brace has no partner"):
        find_shards(f"{three}/s-{{000000.tar")
    (three / "{0..9}.tar").write_bytes(b"x")
    assert find_shards(three / "{0..9}.tar") == [str(three / "{0..9}.tar")]


@pytest.mark.parametrize("pattern", ["docs", "docs/*.tar", "docs/s-*.tar", "docs/*", "docs/s-000001.tar"])
@pytest.mark.parametrize("start", ["", "absolute", "./"])
def test_an_index_whose_shard_is_gone_is_an_error_that_names_it(three, pattern, start, monkeypatch):
    monkeypatch.chdir(three.parent)
    pattern = f"{three.parent}/{pattern}" if start == "absolute" else start + pattern
    for shard in three.glob("*.tar"):
        (three / index_location(shard.name)).write_bytes(b"index")
    whole = find_shards(pattern)
    assert whole and all(shard.endswith((".tar", "notes.txt")) for shard in whole)
    (three / "s-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"1 of \d indexed shards are missing: .*docs/s-000001\.tar is not there"):
        find_shards(pattern)


@pytest.mark.parametrize("pattern", ["docs", "docs/s-*.tar", "./docs/", "docs/*"])
@pytest.mark.parametrize("folder", ["indexes", "docs"])
def test_a_shard_that_is_gone_is_missed_by_its_index_in_another_folder(three, pattern, folder, monkeypatch):
    monkeypatch.chdir(three.parent)
    (three.parent / "indexes").mkdir()
    for location in [*find_shards("docs/*.tar"), "other/s-000007.tar"]:
        (three.parent / index_location(location, folder)).write_bytes(b"index")
    (three / "t-000000.tar").unlink()
    if "s-" in pattern:
        assert len(find_shards(pattern, index_folder=folder)) == 2
        (three / "s-000001.tar").unlink()
    gone = "s-000001" if "s-" in pattern else "t-000000"
    with pytest.raises(
        ValueError, match=rf"1 of \d indexed shards are missing: docs/{gone}\.tar is not there, its index"
    ):
        find_shards(pattern, index_folder=folder)


def test_a_shard_that_is_gone_from_a_bucket_is_missed_too(bucket):
    store, indexes = fsspec.filesystem("memory"), f"{bucket}/indexes"
    store.pipe_file(index_location(f"{bucket}/part-1.tar", indexes), b"index")
    both = [f"{bucket}/part-0.tar", f"{bucket}/part-1.tar"]
    for pattern in (bucket, f"{bucket}/part-*.tar"):
        assert find_shards(pattern) == find_shards(pattern, index_folder=indexes) == both
    store.rm(both[1])
    assert find_shards(bucket) == both[:1]
    with pytest.raises(ValueError, match=r"1 of 2 indexed shards are missing: memory://.*/part-1\.tar is not there"):
        find_shards(bucket, index_folder=indexes)
    store.pipe_file(both[1], b"x")
    store.rm(both[0])
    for pattern in (bucket, f"{bucket}/part-*.tar"):
        with pytest.raises(
            ValueError, match=r"1 of 1 indexed shards are missing: memory://.*/part-0\.tar is not there"
        ):
            find_shards(pattern)


def test_a_url_names_a_folder_a_file_or_a_glob(bucket):
    both = [f"{bucket}/part-0.tar", f"{bucket}/part-1.tar"]
    assert find_shards(bucket) == find_shards(f"{bucket}/part-*.tar") == both
    assert find_shards(both[1]) == both[1:]
    with pytest.raises(ValueError, match=r"no shards at memory://.*/none\.tar: 0 files match"):
        find_shards(f"{bucket}/none.tar")


def test_a_range_of_a_url_is_read(bucket):
    assert read_range(f"{bucket}/part-0.tar", 10, 5) == bytes(range(10, 15))
    assert version_of(f"{bucket}/part-0.tar").size_bytes == 100
    file = open_for_reading(f"{bucket}/part-1.tar")
    file.seek(97)
    assert file.read() == bytes([97, 98, 99])
    file.close()


@pytest.mark.parametrize("place", ["disk", "url"])
def test_a_small_file_is_written_whole_and_read_back(place, bucket, tmp_path):
    location = str(tmp_path / "a.npz") if place == "disk" else f"{bucket}/a.npz"
    assert read_whole(location) is None
    write_whole(location, b"one")
    write_whole(location, b"two")
    assert read_whole(location) == b"two"
    assert place == "url" or [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_pipe_is_refused_before_anything_runs(tmp_path):
    mark = tmp_path / "ran"
    with pytest.raises(ValueError, match=r"'pipe:touch .*' would run a command"):
        find_shards(f"pipe:touch {mark}")
    assert not mark.exists()


def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match=r"cannot open nosuch://bucket/a\.tar: .*nosuch"):
        find_shards("nosuch://bucket/a.tar")


def test_a_place_that_cannot_be_written_is_named_with_the_size(tmp_path):
    with pytest.raises(ValueError, match=r"cannot write 3 bytes to .*/absent/a\.npz"):
        write_whole(str(tmp_path / "absent" / "a.npz"), b"one")


def test_a_changed_file_has_another_version(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"x")
    before = version_of(str(path))
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    assert version_of(str(path)) != before and version_of(str(path)).size_bytes == 1
    with pytest.raises(FileNotFoundError, match=r"b\.tar"):
        version_of(str(tmp_path / "b.tar"))
