import argparse
import gc
import hashlib
import json
import subprocess
import sys
import warnings

import pytest
import webdataset
from PIL import Image

from mindvl.data.images import image_size
from mindvl.data.importing import command


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def read(folder):
    paths = sorted(str(path) for path in folder.glob("*.tar"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves closing its files to the collector
        samples = list(webdataset.WebDataset(paths, shardshuffle=False))
        gc.collect()
    return samples


def record(id, image=None, text="读"):
    mark = "<image>\n" if image else ""
    turns = [{"from": "human", "value": mark + text}, {"from": "gpt", "value": "好"}]
    return {"id": id, "conversations": turns} | ({"image": image} if image else {})


@pytest.fixture
def data(tmp_path, picture):
    """A LLaVA file of five records, one of them without its picture, beside a folder `img`."""
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.png").write_bytes(picture(28, 28, format="JPEG"))
    records = [record("1", "a.png"), record("2"), record("1", "a.png"), record("4", "none.png"), record("5")]
    (tmp_path / "my data.v1.json").write_text(json.dumps(records), encoding="utf-8")
    return tmp_path / "my data.v1.json"


def test_an_import_is_read_back_by_webdataset_and_described(data, picture, capsys):
    out = data.parent / "out"
    status = run(data, out, "--images", data.parent / "img", "--samples-per-shard", 3, "--max-rejected-ratio", 0.2)
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "my-data-v1-000000.tar",
        "my-data-v1-000001.tar",
        "my-data-v1.import.json",
    ]
    samples = read(out)
    assert [sample["__key__"] for sample in samples] == ["1", "2", "1~~2", "5"]
    assert samples[0]["0.jpg"] == picture(28, 28, format="JPEG")  # named by content, not by ".png"
    assert json.loads(samples[2]["json"])["messages"][0]["content"] == [
        {"type": "image"},
        {"type": "text", "text": "读"},
    ]
    assert json.loads((out / "my-data-v1.import.json").read_text()) == {
        "name": "my-data-v1",
        "input": str(data),
        "format": "llava",
        "images_folder": str(data.parent / "img"),
        "samples": 4,
        "images": 2,
        "repeated_ids": 1,
        "num_rejected": 1,
        "rejected": {
            "the picture's file is missing": {
                "records": 1,
                "first": ["4"],
                "first_about": str(data.parent / "img" / "none.png"),
            }
        },
        "shards": ["my-data-v1-000000.tar", "my-data-v1-000001.tar"],
    }
    printed = capsys.readouterr()
    assert f"reading {data} as llava, by its first records" in printed.err
    assert "4 samples with 2 pictures in 2 shards" in printed.out
    assert "1 samples repeat an id" in printed.out
    assert f"       1  the picture's file is missing (4); first: {data.parent}/img/none.png" in printed.out


def test_a_wrong_image_folder_is_told_by_the_first_path_that_was_looked_for(data, capsys):
    (data.parent / "other").mkdir()
    run(data, data.parent / "out", "--images", data.parent / "other")
    said = f"       3  the picture's file is missing (1, 1, 4); first: {data.parent}/other/a.png\n"
    assert said in capsys.readouterr().out


def test_videos_are_counted_and_sampled_as_told(tmp_path, capsys):
    frames = [Image.new("L", (40, 30), 20 * number) for number in range(10)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    turns = [{"from": "human", "value": "<video>\nwhat?"}, {"from": "gpt", "value": "grey"}]
    (tmp_path / "clips.json").write_text(json.dumps([{"video": "clip.gif", "conversations": turns}] * 2))
    out = tmp_path / "out"
    assert run(tmp_path / "clips.json", out, "--fps", 9, "--max-frames", 6, "--frame-pixels", 784) == 0
    assert "2 samples with 0 pictures and 2 videos of 12 frames in 1 shards" in capsys.readouterr().out
    summary = json.loads((out / "clips.import.json").read_text())
    assert (summary["format"], summary["videos"], summary["frames"]) == ("qwen", 2, 12)
    sample = read(out)[0]
    assert sorted(name for name in sample if name.endswith(".png")) == [f"0.{number:04d}.png" for number in range(6)]
    assert image_size(sample["0.0000.png"]) == (28, 28)
    assert json.loads(sample["json"])["messages"][0]["content"][0] == {"type": "video", "fps": 6.0}
    with pytest.raises(ValueError, match=r"fps of videos is -1\.0; it must be above 0"):
        run(tmp_path / "clips.json", out, "--fps", -1, "--overwrite")


def test_too_many_rejected_records_are_an_error_with_both_numbers(data, capsys):
    assert run(data, data.parent / "out", "--images", data.parent / "img") == 1
    assert "rejected were 0.2000 of the records, more than --max-rejected-ratio 0.05" in capsys.readouterr().err
    assert len(read(data.parent / "out")) == 4  # to be looked at


def test_the_same_input_gives_the_same_bytes(data):
    sums = []
    for out in (data.parent / "one", data.parent / "two"):
        run(data, out, "--images", data.parent / "img", "--name", "n")
        sums.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())])
    assert sums[0] == sums[1] and len(sums[0]) == 2


def test_shards_of_the_name_are_refused_or_replaced_with_their_indexes(data):
    out, images = data.parent / "out", ("--images", data.parent / "img")
    run(data, out, *images, "--name", "n", "--samples-per-shard", 1)
    run(data, out, *images, "--name", "n-other")
    (out / "n-000003.tar.index.npz").write_bytes(b"of the old shard")
    with pytest.raises(ValueError, match="holds 4 shards of 'n' already"):
        run(data, out, *images, "--name", "n")
    run(data, out, *images, "--name", "n", "--overwrite")
    names = ["n-000000.tar", "n-other-000000.tar", "n-other.import.json", "n.import.json"]
    assert sorted(path.name for path in out.iterdir()) == names


def test_an_import_that_fails_leaves_the_old_shards_and_nothing_else(data, monkeypatch):
    out = data.parent / "out"
    run(data, out, "--images", data.parent / "img", "--name", "n")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mindvl.data.shard_writer.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(data, out, "--images", data.parent / "img", "--name", "n", "--overwrite", "--samples-per-shard", 1)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_a_killed_import_left_is_named_and_overwritten(data):
    out = data.parent / "out"
    (out / ".n.import").mkdir(parents=True)
    (out / ".n.import" / "n-000007.tar").write_bytes(b"old")
    with pytest.raises(ValueError, match=r"\.n\.import is there: another import is running, or one was killed"):
        run(data, out, "--name", "n")
    run(data, out, "--name", "n", "--images", data.parent / "img", "--overwrite")
    assert sorted(path.name for path in out.iterdir()) == ["n-000000.tar", "n.import.json"]


def test_when_no_sample_is_left_nothing_is_written(data, capsys):
    lines = data.parent / "bad.jsonl"
    lines.write_text("{broken\n" + json.dumps(record("x", "none.png")) + "\n[]\n" + json.dumps(record("\ud800\n", "b")))
    out = data.parent / "out"
    assert run(lines, out, "--max-rejected-ratio", 1) == 1
    assert list(out.glob("*")) == []
    printed = capsys.readouterr()
    assert "no sample is left of 4 records" in printed.err
    assert "       1  the line is not JSON (line 1)" in printed.out and "'\\ud800\\n'" in printed.out


@pytest.mark.parametrize("format", ["sharegpt", "qwen"])
def test_a_given_format_is_taken_at_its_word(data, format, capsys):
    run(data, data.parent / "out", "--images", data.parent / "img", "--format", format, "--name", "n")
    assert json.loads((data.parent / "out" / "n.import.json").read_text())["format"] == format
    assert "by its first records" not in capsys.readouterr().err


def test_a_hugging_face_folder_is_known_and_its_options_reach_it(tmp_path, picture):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        rows = [{"pic": {"bytes": picture(28, 28), "path": None}, "words": split, "question": "q", "answer": "a"}] * 2
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "set" / f"{split}-00000-of-00001.parquet")
    columns = ("--image-column", "pic", "--caption-column", "words", "--prompt", "说")
    assert run(tmp_path / "set", tmp_path / "out", "--split", "test", *columns) == 0
    samples = read(tmp_path / "out")
    assert [sample["__key__"] for sample in samples] == ["00000001", "00000002"]
    messages = json.loads(samples[0]["json"])["messages"]
    assert messages[0]["content"][1]["text"] == "说" and messages[1]["content"][0]["text"] == "test"
    assert samples[0]["0.png"] == picture(28, 28)
    with pytest.raises(ValueError, match="2 splits: test, train"):
        run(tmp_path / "set", tmp_path / "out", "--name", "other")


def test_human_errors_are_told_before_anything_is_written(data):
    out, folder = data.parent / "out", data.parent
    (folder / "empty.json").write_text("[]")
    (folder / "broken.json").write_text('[\n{"id" 1}]')
    (folder / "lines.jsonl").write_text("broken\n")
    (folder / "other.json").write_text('[{"id": 1}]')
    for arguments, message in (
        ((folder / "none.json", out), r"none\.json does not exist"),
        ((folder / "empty.json", out), r"empty\.json holds no records"),
        ((folder / "broken.json", out), r"broken\.json, line 2, column 7: not JSON"),
        ((folder / "lines.jsonl", out), "holds no records at its head: line 1: the line is not JSON"),
        ((folder / "other.json", out), "none of the first 1 records has conversations or messages; say --format"),
        ((folder / "img", out), r"holds no \.parquet files"),
        ((data, out, "--images", folder / "no"), "the image folder .*no is not a folder"),
        ((data, out, "--max-rejected-ratio", "5"), "--max-rejected-ratio is 5.0; it must lie between 0 and 1"),
        ((data, out, "--samples-per-shard", "0"), "samples_per_shard is 0; it must be at least 1"),
        ((data, out, "--prompt", "x"), "are for Hugging Face datasets; this is read as llava"),
        ((data, out, "--name", "a/b"), "shard name 'a/b' is not made of letters"),
    ):
        with pytest.raises(ValueError, match=message):
            run(*arguments)
    assert not out.exists()


def test_the_help_opens_without_torch_transformers_or_pyarrow():
    code = (
        "import sys, argparse; from mindvl.data.importing.command import add_arguments;"
        "add_arguments(argparse.ArgumentParser());"
        "assert not {'torch', 'transformers', 'pyarrow', 'webdataset', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
