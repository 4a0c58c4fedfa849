"""Benchmarks and validation losses over two processes: the lines and the losses of one, under ddp and with parameters
that are shared out."""

import base64
import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

WORLDS = ("alone", "ddp", "gone on", "shards", "tensor")
OUT = {"gone on": "stopped"}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory, make_model, make_spec, picture, corpus):
    """The folder that benchmark_ranks.py leaves: eleven questions, one with a torn picture, two without any."""
    folder = tmp_path_factory.mktemp("benchmark_ranks")
    make_model(language={"num_key_value_heads": 4}).save_pretrained(folder / "model")
    spec = make_spec(tokenizer="bytes", language={"num_key_value_heads": 4})
    torch.save(replace(spec, start_from=str(folder / "model")), folder / "spec")
    shutil.copytree(corpus / "validation", folder / "corpus")
    with (folder / "DocVQA.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["index", "image", "question", "answer"])
        for n in range(11):
            image = b"torn" if n == 4 else b"" if n in (0, 6) else picture(28 * (1 + n % 3), 28 * (1 + n % 2), seed=n)
            table.writerow([n, base64.b64encode(image).decode(), "what " * (n + 1), "['a']"])
    script = Path(__file__).with_name("benchmark_ranks.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return folder


def lines(worlds, world):
    return [json.loads(line) for line in (worlds / OUT.get(world, world) / "docvqa.jsonl").read_text().splitlines()]


def result(worlds, world, rank=0):
    return torch.load(worlds / f"{world}.{rank}.result", weights_only=False)


def test_answers_of_one_process_end_at_different_lengths(worlds):
    assert len({line["new_tokens"] for line in lines(worlds, "alone")}) > 3


@pytest.mark.parametrize("world", WORLDS[1:])
def test_every_question_has_the_line_that_one_process_gives_it_in_the_same_order(world, worlds):
    assert lines(worlds, world) == lines(worlds, "alone")


@pytest.mark.parametrize("world", ["ddp", "shards"])
def test_each_rank_answers_its_share_and_no_question_is_asked_twice(world, worlds):
    files = sorted((worlds / world / "answers").iterdir())
    ids = [[json.loads(line)["id"] for line in file.read_text().splitlines()[1:]] for file in files]
    assert [len(own) for own in ids] == [6, 5] and sorted(int(id) for own in ids for id in own) == list(range(11))


def test_ranks_that_hold_parts_of_one_layer_write_each_answer_once(worlds):
    (file,) = (worlds / "tensor" / "answers").iterdir()
    assert len(file.read_text().splitlines()) == 12


def test_a_run_of_two_ranks_that_was_killed_is_gone_on_from_by_one(worlds):
    files = sorted((worlds / "stopped" / "answers").iterdir())
    kept = [len(file.read_bytes().split(b"\n")) - 2 for file in files]
    assert result(worlds, "gone on")["summary"]["asked"] == 7
    assert kept[1] == 2 and b'"half a li' not in files[0].read_bytes()


@pytest.mark.parametrize("world", WORLDS[1:])
def test_the_summary_is_that_of_one_process_on_all_ranks(world, worlds):
    ranks = 1 if world == "gone on" else 2
    alone = result(worlds, "alone")["summary"]
    for rank in range(ranks):
        other = result(worlds, world, rank)["summary"]
        assert {**other, "seconds": 0, "asked": 0} == {**alone, "seconds": 0, "asked": 0}
    assert [id for id, _ in alone["failed"]] == ["0", "4", "6"]
    assert alone["failed"][0][1] == alone["failed"][2][1] == "the row has no picture"


@pytest.mark.parametrize("world", WORLDS[1:])
def test_losses_of_every_source_are_those_of_one_process_on_all_ranks(world, worlds):
    alone = result(worlds, "alone")["logged"]
    assert {"validation/loss/ocr", "validation/loss/counting", "validation/perplexity", "eval/docvqa"} <= set(alone)
    for rank in range(1 if world == "gone on" else 2):
        assert result(worlds, world, rank)["logged"] == pytest.approx(alone, rel=1e-5)


def test_training_with_shared_out_parameters_goes_on_after_benchmarks_as_without_them(worlds):
    for rank in range(2):
        asked, not_asked = result(worlds, "fit", rank)
        assert asked == not_asked
    steps = [json.loads((worlds / "fit" / f"step-0000000{n}" / "summary.json").read_text()) for n in (1, 2)]
    assert len({step["model"] for step in steps}) == 2
