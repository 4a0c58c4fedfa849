import json
import os
import re
import shutil
from pathlib import Path

from mindvl.data.tokenizer import load_tokenizer


def test_index_counts_samples_and_writes_an_index_beside_each_shard(corpus, mindvl, tmp_path):
    for shard in (corpus / "train").glob("counting-*.tar"):
        shutil.copy(shard, tmp_path)
    indexed = mindvl("data", "index", tmp_path)
    assert indexed.status == 0, indexed.err
    (line,) = indexed.out.splitlines()
    assert re.fullmatch(r"20 samples with 20 images and \d+ text tokens in 1 shards, 0 cannot be used", line)
    assert [path.name for path in tmp_path.glob("*.index.npz")] == ["counting-000000.tar.index.npz"]


def test_index_says_what_cannot_be_used_and_why(mindvl, tmp_path, write_tar, record, picture):
    members = [("a.json", record()), ("b.json", b"{"), ("c.json", record(images=1)), ("notes.txt.bak", b"x")]
    write_tar(tmp_path / "s.tar", members)
    indexed = mindvl("data", "index", tmp_path)
    lines = [line.split(None, 1) for line in indexed.out.splitlines()[1:]]
    assert sorted(lines) == [
        ["1", "files ignored: neither text nor picture of a sample"],
        ["1", f"no .json or .txt record (such as notes in {tmp_path}/s.tar)"],
        ["1", f"placeholders and pictures differ in number (such as c in {tmp_path}/s.tar)"],
        ["1", f"the record is not JSON (such as b in {tmp_path}/s.tar)"],
    ]


def test_index_tells_a_reason_once_and_misses_a_shard_that_was_there(mindvl, tmp_path, write_tar, record):
    for shard in ("s-0", "s-1", "s-2"):
        bad = [(f"{shard}{n}.txt", b"x" * n + b"\xe9") for n in range(100)]
        write_tar(tmp_path / f"{shard}.tar", [*bad, ("a.json", record())])
    indexed = mindvl("data", "index", tmp_path, "--workers", "1")
    assert indexed.out.splitlines()[1:] == [f"       300  the record is not UTF-8 (such as s-00 in {tmp_path}/s-0.tar)"]
    (tmp_path / "s-1.tar").unlink()
    refused = mindvl("data", "index", tmp_path)
    assert refused.status == 2 and refused.complaint == (
        f"mindvl data: 1 of 3 indexed shards are missing: {tmp_path}/s-1.tar is not there, its index "
        f"{tmp_path}/s-1.tar.index.npz is; bring the tar back, or delete the index to do without it"
    )


def test_index_into_a_folder_leaves_the_shards_place_alone_and_verify_reads_every_byte(corpus, mindvl, tmp_path):
    (tmp_path / "shards").mkdir()
    shard = Path(shutil.copy(next((corpus / "train").glob("counting-*.tar")), tmp_path / "shards"))
    indexed = mindvl("data", "index", tmp_path / "shards", "--into", tmp_path / "indexes", "--verify")
    assert indexed.status == 0 and "checksums of 1 shards are those of their indexes" in indexed.out
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["counting-000000.tar"]
    stat = shard.stat()
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    refused = mindvl("data", "index", tmp_path / "shards", "--into", tmp_path / "indexes", "--verify")
    assert refused.status == 2 and re.search(r"has checksum \w{32}, its index says \w{32}", refused.complaint)


def test_consumed_says_what_a_run_has_seen_of_each_source(mindvl, tmp_path):
    record = {
        "plan": "abc", "next_pack": 1200, "description": {"sequence_length": 4096},
        "consumed": {
            "docs": {
                "samples": 10, "drawn": 25, "epochs": 2.5, "times_drawn": {"2": 5, "3": 5}, "tokens": 300,
                "supervised_tokens": 30, "images": 25, "patches": 100,
            },
            "text": {
                "samples": 4, "drawn": 1, "epochs": 0.25, "times_drawn": {"0": 3, "1": 1}, "tokens": 100,
                "supervised_tokens": 10, "images": 0, "patches": 0,
            },
        },
        "left_out": [["docs", "a.tar", "no supervised token", 3]], "cut": {"docs": 2}, "closed": [],
        "skipped": [["docs", "b.tar", "the picture does not decode", 1]],
    }  # fmt: skip
    (tmp_path / "consumed.json").write_text(json.dumps(record))
    told = mindvl("data", "consumed", tmp_path)
    assert told.status == 0, told.err
    assert told.out.splitlines() == [
        "plan abc: 1,200 packs of 4,096 tokens",
        "source  samples  drawn  epochs  seen  most often  tokens  share  learnt  images",
        "docs         10     25    2.50    10         3 x     300  75.0%      30      25",
        "text          4      1    0.25     1         1 x     100  25.0%      10       0",
        "left out before training:",
        "         3  docs: no supervised token (a.tar)",
        "         2  docs: cut after an earlier answer",
        "left out on the way:",
        "         1  docs: the picture does not decode (b.tar)",
    ]
    assert json.loads(mindvl("data", "consumed", tmp_path, "--json").out) == record


def test_consumed_says_of_every_plan_that_a_run_has_followed_what_it_left_out(mindvl, tmp_path):
    docs = {
        "samples": 4, "drawn": 4, "epochs": 1.0, "times_drawn": {"1": 4}, "tokens": 9, "supervised_tokens": 4,
        "images": 0, "patches": 0,
    }  # fmt: skip
    plan = {"next_pack": 2, "description": {"sequence_length": 64}, "consumed": {"docs": docs}}
    first = {**plan, "plan": "abc", "left_out": [["docs", "a.tar", "the record is not JSON", 3]], "cut": {"docs": 2}}
    last = {**plan, "plan": "def", "left_out": [], "cut": {}, "closed": [first], "skipped": []}
    (tmp_path / "consumed.json").write_text(json.dumps(last))
    lines = mindvl("data", "consumed", tmp_path).out.splitlines()
    assert lines[0] == "plan abc (1 of 2): 2 packs of 64 tokens"
    assert lines[3:7] == [
        "left out before training:",
        "         3  docs: the record is not JSON (a.tar)",
        "         2  docs: cut after an earlier answer",
        "plan def (2 of 2): 2 packs of 64 tokens",
    ]


def test_consumed_of_a_folder_that_is_no_run_is_refused(mindvl, tmp_path):
    refused = mindvl("data", "consumed", tmp_path)
    assert refused.status == 2 and "holds no record of a run: neither consumed.json nor" in refused.complaint


def test_index_names_an_empty_shard(mindvl, tmp_path):
    (tmp_path / "none.tar").touch()
    refused = mindvl("data", "index", tmp_path / "none.tar")
    assert refused.status == 2
    assert refused.complaint == f"mindvl data: shard {tmp_path}/none.tar is empty: 0 bytes"


def test_index_names_a_missing_tokenizer(corpus, mindvl, tmp_path):
    refused = mindvl("data", "index", corpus / "train", "--tokenizer", tmp_path / "none")
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert refused.err.startswith(f"mindvl data: tokenizer {tmp_path}/none: no such folder, and the hub does not give")


def test_index_names_a_missing_folder(mindvl, tmp_path):
    refused = mindvl("data", "index", tmp_path / "none" / "*.tar")
    assert refused.status == 2
    assert f"the folder {tmp_path}/none does not exist" in refused.err


def test_tokenizer_saves_one_that_knows_the_words(mindvl, tmp_path):
    saved = mindvl("data", "tokenizer", tmp_path / "tokenizer", "--words", "what is")
    assert saved.status == 0, saved.err
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert saved.err == f"{len(tokenizer)} tokens under {tmp_path}/tokenizer\n"
    assert [len(tokenizer.encode(text, add_special_tokens=False)) for text in ("what is", "whatis")] == [2, 6]


def test_render_draws_what_its_options_say(mindvl, tmp_path):
    drawn = mindvl("data", "render", tmp_path / "drawn", "--families", "stem", "--samples", 2, "--workers", 1)
    assert drawn.status == 0, drawn.err
    assert [path.name for path in (tmp_path / "drawn" / "train").iterdir()] == ["stem-000000.tar"]


def test_an_unknown_family_is_refused_in_one_line(mindvl, tmp_path):
    refused = mindvl("data", "render", tmp_path / "drawn", "--families", "poem")
    assert refused.status == 2
    assert refused.err.startswith("mindvl data: unknown family 'poem'; known families are ")
    assert refused.err.count("\n") == 1
