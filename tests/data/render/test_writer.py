import gc
import hashlib
import json
import subprocess
import sys
import warnings

import pytest
import webdataset

from mindvl.data.render import render

CONFIG = {
    "cell_pixels": 28,
    "samples_per_shard": 8,
    "sources": {
        "ocr_line": {"family": "ocr_line", "train": 20, "validation": 3, "test": 4},
        "caption": {"family": "caption", "train": 5},
        "text_stem": {"family": "stem", "text_only": True, "train": 9},
    },
}


def checksums(folder):
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.tar"))}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("rendered")
    return out, render(CONFIG, out, workers=1)


def test_the_same_seed_writes_the_same_bytes_with_one_and_two_workers(rendered, tmp_path):
    out, _ = rendered
    render(CONFIG, tmp_path, workers=2)
    assert checksums(out) == checksums(tmp_path) != {}
    assert (out / "render.json").read_bytes() == (tmp_path / "render.json").read_bytes()


def test_another_seed_writes_other_bytes(rendered, tmp_path):
    render({**CONFIG, "seed": 1}, tmp_path, workers=1)
    assert not set(checksums(rendered[0]).values()) & set(checksums(tmp_path).values())


def test_webdataset_reads_back_what_was_written(rendered):
    out, summary = rendered
    paths = [str(out / shard["path"]) for shard in summary["shards"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves closing its files to the collector
        samples = list(webdataset.WebDataset(paths, shardshuffle=False).decode("pil"))
        gc.collect()
    assert len(samples) == summary["samples"] == 41
    for sample in samples:
        record = sample["json"]
        assert sample["__key__"].rsplit("-", 1)[0] == f"{record['source']}-{record['split']}"
        images = [sample["0.png"]] if "0.png" in sample else []
        assert record["image_sizes"] == [[image.height, image.width] for image in images]
        parts = [part for message in record["messages"] for part in message["content"]]
        assert [part["type"] for part in parts].count("image") == len(images)
        users = [m["content"][-1]["text"] for m in record["messages"] if m["role"] == "user"]
        answers = [m["content"][0]["text"] for m in record["messages"] if m["role"] == "assistant"]
        for asked in record["questions"]:
            assert answers[asked["turn"]] == asked["answer"]
            assert users[asked["turn"]].endswith(asked["question"])


def test_render_json_says_what_is_there(rendered):
    out, summary = rendered
    assert json.loads((out / "render.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["counts"]["train"] == {"ocr_line": 20, "caption": 5, "text_stem": 9}
    assert [s["samples"] for s in summary["shards"] if s["path"].startswith("train/ocr_line")] == [8, 8, 4]
    assert {s["path"] for s in summary["shards"]} == {p.as_posix() for p in checksums(out)}
    assert summary["image_height_pixels"][0] >= 28 and summary["image_width_pixels"][1] % 28 == 0
    assert not list(out.rglob("*.tmp"))


def test_a_second_run_with_the_same_config_changes_nothing(rendered, capsys):
    out, summary = rendered
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    assert render(CONFIG, out, workers=1)["fingerprint"] == summary["fingerprint"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before
    assert "are already there" in capsys.readouterr().err


def test_shards_of_another_config_are_refused_or_replaced_whole(tmp_path):
    first = {"cell_pixels": 28, "sources": {"a": {"family": "stem", "train": 2}}}
    second = {"cell_pixels": 28, "sources": {"b": {"family": "stem", "train": 2}}}
    one = render(first, tmp_path, workers=1)["fingerprint"]
    with pytest.raises(ValueError, match=f"config {one}, this config is [0-9a-f]+"):
        render(second, tmp_path, workers=1)
    (tmp_path / "train" / "a-000000.tar.index.npz").touch()
    render(second, tmp_path, workers=1, overwrite=True)
    assert [path.name for path in tmp_path.rglob("?-0*")] == ["b-000000.tar"]  # the index has gone with its shard
    (tmp_path / "render.json").unlink()  # as if interrupted
    with pytest.raises(ValueError, match="holds 1 other shards"):
        render(first, tmp_path, workers=1)
    render(second, tmp_path, workers=1)


def test_settings_that_fail_leave_no_file_behind(tmp_path):
    config = {"sources": {"a": {"family": "stem", "train": 2}, "b": {"family": "stem", "train": 2, "kinds": ["no"]}}}
    with pytest.raises(ValueError, match="source b: stem does not know 'no'"):
        render(config, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_the_room_opens_without_torch():
    code = (
        "import sys, argparse; from mindvl.data.render.command import add_arguments;"
        "add_arguments(argparse.ArgumentParser()); assert 'numpy' not in sys.modules;"
        "import mindvl.data.render.writer, mindvl.data.render.preview;"
        "assert not {'torch', 'webdataset', 'matplotlib', 'skimage'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
