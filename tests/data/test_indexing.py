"""A shard is read once: its index says where everything lies, and what is wrong with each sample that is."""

import json
import os
import pickle
import re
from pathlib import Path

import fsspec
import numpy as np
import pytest
from webdataset import ShardWriter

from mindvl.data.index import COLUMNS, read_index, save_index
from mindvl.data.indexing import index_shard, index_shards, load_index, verify_shard
from mindvl.data.storage import find_shards, index_location
from mindvl.data.tokenizer import byte_tokenizer, tokenizer_fingerprint


def keys(index) -> list[str]:
    return [index.key(row) for row in range(len(index))]


def reasons(index) -> list[str]:
    return [index.reason(row) for row in range(len(index))]


def equal(one, other) -> bool:
    return one.facts == other.facts and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in COLUMNS)


@pytest.fixture
def fingerprint(tokenizer):
    return tokenizer_fingerprint(tokenizer)


def test_a_shard_written_by_webdataset_is_read(tmp_path, encoder, picture, record):
    with ShardWriter(str(tmp_path / "%06d.tar"), maxcount=2, verbose=0) as writer:
        for number in range(3):
            writer.write({"__key__": f"key{number}", "json": record(images=1), "0.png": picture(28, 28 * (number + 1))})
    indexes = [index_shard(path, encoder) for path in find_shards(tmp_path)]
    assert [keys(index) for index in indexes] == [["key0", "key1"], ["key2"]]
    assert [index.image_width.tolist() for index in indexes] == [[28, 56], [84]]
    assert all(reasons(index) == [""] * len(index) for index in indexes)


def showing(*kinds: str) -> bytes:
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": "?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
    return json.dumps({"messages": messages}).encode()


def test_a_video_is_as_many_rows_as_it_has_frames(tmp_path, encoder, picture, write_tar):
    frames = [(f"a.1.{number:04d}.png", picture(28, 56, seed=number)) for number in range(3)]
    members = [("a.json", showing("image", "video", "image")), ("a.0.png", picture(28, 28)), *frames]
    members += [("a.2.png", picture(56, 56)), ("b.json", showing("video")), ("b.0.0000.jpg", picture(28, 28))]
    index = index_shard(write_tar(tmp_path / "s.tar", members), encoder)
    assert reasons(index) == ["", ""] and index.first_image.tolist() == [0, 5, 6]
    assert index.image_frame.tolist() == [-1, 0, 1, 2, -1, 0] and (index.num_images, index.num_videos) == (2, 2)
    assert index.image_width.tolist() == [28, 56, 56, 56, 56, 28]
    save_index(index, str(tmp_path / "index.npz"))
    assert equal(read_index(str(tmp_path / "index.npz")), index)


@pytest.mark.parametrize(
    ("kinds", "names", "reason"),
    [
        ("iv", ("0.0000.png", "1.png"), "pictures and videos are not in the order of their placeholders"),
        ("ii", ("0.0000.png", "1.png"), "placeholders differ in number from pictures or videos"),
        ("v", ("0.png", "1.0000.png"), "placeholders differ in number from pictures or videos"),
        ("i", ("0.png", "1.png"), "placeholders and pictures differ in number"),
        ("v", ("0.0000.png", "0.0001.jpg"), "the frames of a video differ in size"),
    ],
)
def test_videos_that_do_not_fit_their_text_are_told(kinds, names, reason, tmp_path, encoder, picture, write_tar):
    record = showing(*({"i": "image", "v": "video"}[kind] for kind in kinds))
    sizes = {".png": (28, 28), ".jpg": (28, 56)}
    members = [("a.json", record), *((f"a.{name}", picture(*sizes[Path(name).suffix])) for name in names)]
    assert reasons(index_shard(write_tar(tmp_path / "s.tar", members), encoder)) == [reason]


def test_caption_pairs_of_other_tools_are_read(tmp_path, encoder, picture, write_tar):
    members = [
        ("a.jpg", picture(28, 28, format="JPEG")),
        ("a.txt", b"a caption"),
        ("b.jpg", picture(28, 56, format="JPEG")),
        ("b.json", b'{"caption": "another", "width": 56}'),
        ("c.jpg", picture(28, 84, format="JPEG")),
        ("c.json", b'{"caption": null, "status": "success"}'),
        ("c.txt", b"the text file has it"),
    ]
    index = index_shard(write_tar(tmp_path / "s.tar", members), encoder)
    assert reasons(index) == ["", "", ""] and index.record_kind.tolist() == [1, 0, 1]
    assert index.answer_tokens.tolist() == [
        len(b"a caption") + 1,
        len(b"another") + 1,
        len(b"the text file has it") + 1,
    ]
    assert index.facts.ignored_members == 1  # c.json


def test_the_index_counts_the_tokens_that_the_encoder_makes_for_every_beginning(tmp_path, encoder, record, write_tar):
    shard = write_tar(tmp_path / "s.tar", [("a.json", record("second", "two", images=0, turns=3))])
    index = index_shard(shard, encoder)
    messages = json.loads(record("second", "two", turns=3))["messages"]
    assert index.turns.tolist() == [3] and index.cut_messages.tolist() == [2, 4]
    ends = [*zip(index.cut_messages, index.cut_tokens, index.cut_answers, index.cut_spoken, strict=True)]
    ends.append((6, index.text_tokens[0], index.answer_tokens[0], index.spoken_tokens[0]))
    for count, tokens, answers, spoken in ends:
        for supervise, learnt in (("answers", answers), ("text", spoken)):
            chat = encoder.encode(messages[:count], supervise=supervise)
            assert (len(chat.input_ids), sum(chat.supervised)) == (tokens, learnt)


def test_the_checksum_of_the_shard_is_that_of_its_bytes(shard, encoder):
    import xxhash

    index = index_shard(shard, encoder)
    data = Path(shard).read_bytes()
    assert index.facts.checksum == xxhash.xxh3_128_hexdigest(data) and index.facts.size_bytes == len(data)
    verify_shard(shard, index)
    Path(shard).write_bytes(data[:600] + b"?" + data[601:])
    with pytest.raises(ValueError, match=rf"has checksum \w+, its index says {index.facts.checksum}"):
        verify_shard(shard, index)


PROBLEMS = {
    "the record is not JSON": lambda picture, record: [("a.json", b"{nope")],
    "the record has no list of `messages`": lambda picture, record: [("a.json", b'{"other": "x"}')],
    "no .json or .txt record": lambda picture, record: [("a.png", picture(28, 28))],
    "placeholders and pictures differ in number": lambda picture, record: [("a.json", record(images=1))],
    "placeholders and pictures differ": lambda picture, record: [("a.json", record()), ("a.png", picture(28, 28))],
    "not a picture": lambda picture, record: [("a.json", record(images=1)), ("a.png", b"no picture")],
    "a message is an empty answer": lambda picture, record: [("a.json", record(answer=""))],
    "no supervised token": lambda picture, record: [("a.json", b'{"messages": [{"role": "user", "content": "hi"}]}')],
    "a message has no content": lambda picture, record: [("a.json", b'{"messages": [{"role": "user"}]}')],
    "a message has an unknown role": lambda p, r: [("a.json", b'{"messages": [{"role": "robot", "content": "x"}]}')],
    "the conversation does not begin with the user": lambda p, r: [
        ("a.json", b'{"messages": [{"role": "assistant", "content": "x"}]}')
    ],
    "the record is not UTF-8": lambda picture, record: [("a.json", b'{"messages": "\xff"}')],
    "a member is there twice": lambda picture, record: [("a.json", record()), ("a.json", record("other"))],
}


@pytest.mark.parametrize("reason", PROBLEMS)
def test_a_sample_that_cannot_be_used_says_why_and_leaves_the_others(
    reason, tmp_path, encoder, picture, record, write_tar
):
    members = [("good.json", record()), *PROBLEMS[reason](picture, record), ("later.json", record())]
    index = index_shard(write_tar(tmp_path / "s.tar", members), encoder)
    assert keys(index) == ["good", "a", "later"]
    assert reasons(index)[1].startswith(reason) and (reasons(index)[0], reasons(index)[2]) == ("", "")
    assert list(index.problem_counts().values()) == [1]


def test_a_thousand_ways_to_be_wrong_are_a_handful_of_reasons_each_with_its_first_key(
    tmp_path, encoder, picture, record, write_tar
):
    def turn(role: str) -> bytes:
        return json.dumps(
            {"messages": [*({"role": "user", "content": "?"},) * 9, {"role": role, "content": ""}]}
        ).encode()

    members = [("good.json", record())]
    for n in range(30):
        members += [
            (f"latin{n}.json", b'{"caption": "' + b"x" * n + b'\xe9"}'),
            (f"cut{n}.json", record("?" * n)[: -n - 1]),
        ]
        members += [(f"role{n}.json", turn(f"robot {n}")), (f"empty{n}.json", turn("assistant"))]
        members += [(f"many{n}.json", record(images=n + 2)), (f"many{n}.png", picture(28, 28))]
        members += [(f"type{n}.json", showing(f"sound {n}"))]
    index = index_shard(write_tar(tmp_path / "s.tar", members), encoder)
    assert index.problem_counts() == dict.fromkeys(index.facts.problems[1:], 30)
    assert index.problem_examples() == {
        "the record is not UTF-8": "latin0",
        "the record is not JSON": "cut0",
        "a message has an unknown role": "role0",
        "a message is an empty answer": "empty0",
        "placeholders and pictures differ in number": "many0",
        "a message has a part of an unknown type": "type0",
    }


def test_pictures_of_a_sample_that_cannot_be_used_stay_its_own(tmp_path, encoder, picture, record, write_tar):
    members = [("a.json", b"{"), ("a.png", picture(28, 28)), ("b.json", record(images=1)), ("b.png", picture(28, 56))]
    index = index_shard(write_tar(tmp_path / "s.tar", members), encoder)
    assert index.first_image.tolist() == [0, 1, 2] and index.image_width.tolist() == [28, 56]


def test_names_that_lead_out_of_a_folder_are_keys_and_nothing_else(tmp_path, encoder, record, write_tar):
    names = ["../../etc/a.json", "/abs/b.json", "s p a c e/\u4e2d.json"]
    index = index_shard(write_tar(tmp_path / "s.tar", [(name, record()) for name in names]), encoder)
    assert keys(index) == ["../../etc/a", "/abs/b", "s p a c e/\u4e2d"] and reasons(index) == ["", "", ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.tar"]


def test_a_pickle_in_a_shard_is_never_opened(tmp_path, encoder, record, write_tar):
    class Canary:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    members = [(f"a.{kind}", pickle.dumps(Canary())) for kind in ("pkl", "pyd", "pth")]
    index = index_shard(write_tar(tmp_path / "s.tar", [*members, ("a.json", record())]), encoder)
    assert reasons(index) == [""] and index.facts.ignored_members == 3 and not (tmp_path / "ran").exists()


def test_a_stored_index_is_the_one_that_was_made(shard, encoder, fingerprint):
    index_shards([shard], encoder)
    assert equal(index_shard(shard, encoder), load_index(shard, fingerprint))
    assert sorted(path.name for path in Path(shard).parent.iterdir()) == ["shard.tar", "shard.tar.index.npz"]


def test_a_shard_that_has_its_index_is_not_read_again(shard, encoder, monkeypatch):
    index_shards([shard], encoder)
    monkeypatch.setattr("mindvl.data.indexing.index_shard", lambda *_: pytest.fail("read again"))
    heard = []
    index_shards([shard], encoder, done=lambda location, index: heard.append((location, len(index))))
    assert heard == [(shard, 3)]


def test_an_interrupted_call_goes_on_with_the_shards_that_are_left(tmp_path, encoder, record, write_tar, monkeypatch):
    shards = [write_tar(tmp_path / f"{n}.tar", [("a.json", record())]) for n in range(3)]
    Path(shards[1]).write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match=r"1\.tar is not a readable tar"):
        index_shards(shards, encoder)
    write_tar(Path(shards[1]), [("a.json", record())])
    made = []
    real = index_shard
    monkeypatch.setattr("mindvl.data.indexing.index_shard", lambda s, e: made.append(s) or real(s, e))
    index_shards(shards, encoder)
    assert made == shards[1:]


def test_several_processes_make_the_same_indexes(corpus, encoder, fingerprint, tmp_path):
    shards = find_shards(corpus / "train")
    index_shards(shards, encoder, folder=str(tmp_path), workers=2)
    for shard in shards:
        assert equal(load_index(shard, fingerprint, folder=str(tmp_path)), index_shard(shard, encoder))


@pytest.mark.parametrize("change", ["grown", "rewritten", "tokenizer", "format", "cut short", "foreign"])
def test_a_stale_or_damaged_index_is_made_anew(change, shard, encoder, fingerprint, record, write_tar):
    index_shards([shard], encoder)
    place = Path(index_location(shard))
    if change == "grown":
        write_tar(Path(shard), [(f"{n}.json", record()) for n in range(50)])
    elif change == "rewritten":
        os.utime(shard, ns=(Path(shard).stat().st_atime_ns, Path(shard).stat().st_mtime_ns + 1))
    elif change == "tokenizer":
        fingerprint = tokenizer_fingerprint(byte_tokenizer(["word"]))
    elif change == "format":
        index = read_index(str(place))
        index.facts.__dict__["format"] = 1
        save_index(index, str(place))
    elif change == "cut short":
        place.write_bytes(place.read_bytes()[:200])
    else:
        np.savez(place, other=np.zeros(3))
    assert load_index(shard, fingerprint) is None
    if change != "tokenizer":
        index_shards([shard], encoder)
        assert len(load_index(shard, fingerprint)) == (50 if change == "grown" else 3)


def test_an_index_with_a_pickle_inside_is_not_opened(shard, fingerprint, tmp_path):
    class Canary:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.savez(index_location(shard), facts=np.asarray([Canary()], dtype=object), **dict.fromkeys(COLUMNS, np.zeros(1)))
    assert load_index(shard, fingerprint) is None and not (tmp_path / "ran").exists()


def test_shards_behind_a_url_are_indexed_where_they_lie(shard, encoder, fingerprint):
    store, url = fsspec.filesystem("memory"), "memory:///indexing/shard.tar"
    store.pipe_file(url, Path(shard).read_bytes())
    index_shards([url], encoder)
    there, here = load_index(url, fingerprint), index_shard(shard, encoder)
    assert all(np.array_equal(getattr(there, name), getattr(here, name)) for name in COLUMNS)
    assert there.facts.checksum == here.facts.checksum and store.exists("/indexing/shard.tar.index.npz")


def test_where_the_shards_cannot_be_written_the_error_says_so_and_a_folder_helps(shard, encoder, fingerprint, tmp_path):
    Path(index_location(shard)).mkdir()  # root may write everywhere, but not a file over a folder
    said = rf"cannot write \d+ bytes to {re.escape(shard)}\.index\.npz: .*`mindvl data index --into FOLDER`"
    with pytest.raises(ValueError, match=said):
        index_shards([shard], encoder)
    index_shards([shard], encoder, folder=str(tmp_path / "indexes"))
    assert len(load_index(shard, fingerprint, folder=str(tmp_path / "indexes"))) == 3
