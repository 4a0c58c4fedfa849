"""`mindvl validate` with benchmarks: killed, gone on with, and the same as if it had never been killed."""

import base64
import csv
import json
import signal
import subprocess
import time

import pytest
import yaml

NUM_QUESTIONS = 20


@pytest.fixture
def questions(tmp_path, picture):
    """A DocVQA file; the picture of its question 3 does not open."""
    path = tmp_path / "DocVQA_VAL.tsv"
    with path.open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["index", "image", "question", "answer"])
        for n in range(NUM_QUESTIONS):
            image = b"torn" if n == 3 else picture(28 * (1 + n % 3), 56, seed=n)
            table.writerow([n, base64.b64encode(image).decode(), f"what is {n}?", "['a']"])
    return path


@pytest.fixture
def config(tmp_path, tiny_config, questions):
    """Of a model with random weights, the same in every process, and no held-out packs."""

    def make(root, **settings):
        made = tiny_config(root)
        made["data"]["init_args"]["validation"] = {}
        callback = {"benchmarks": {"docvqa": str(questions)}, "batch_tokens": 1, **settings}
        made["trainer"]["callbacks"] = [{"class_path": "mindvl.phases.Benchmarks", "init_args": callback}]
        file = tmp_path / f"{root.name}.yaml"
        file.write_text(yaml.safe_dump(made))
        return file

    return make


def lines(root):
    return (root / "benchmarks" / "docvqa.jsonl").read_text()


def test_a_killed_validation_goes_on_with_the_same_command_and_asks_only_what_is_missing(
    tmp_path, config, command, environment, mindvl
):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    again = [*command, "validate", "-c", str(config(killed))]
    answers = killed / "benchmarks" / "answers" / "docvqa.rank-00000.jsonl"
    with (tmp_path / "first.txt").open("w") as output:
        first = subprocess.Popen(again, env=environment, stdout=output, stderr=output)
        deadline = time.monotonic() + 300
        while not answers.is_file() or answers.read_bytes().count(b"\n") < 6:
            assert first.poll() is None and time.monotonic() < deadline, (tmp_path / "first.txt").read_text()
            time.sleep(0.005)
        first.kill()
        assert first.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    written = answers.read_bytes()
    kept = written[: written.rfind(b"\n") + 1]
    assert 5 <= kept.count(b"\n") - 1 < NUM_QUESTIONS and not (killed / "benchmarks" / "docvqa.jsonl").exists()

    second = subprocess.run(again, env=environment, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Warning" not in second.stderr
    summary = json.loads((killed / "benchmarks" / "summary.json").read_text())["benchmarks"]["docvqa"]
    assert summary["asked"] == NUM_QUESTIONS - (kept.count(b"\n") - 1) and summary["n"] == NUM_QUESTIONS
    assert answers.read_bytes().startswith(kept) and [id for id, _ in summary["failed"]] == ["3"]

    never_killed = mindvl("validate", "-c", config(whole))
    assert never_killed.status == 0, never_killed.err
    assert lines(killed) == lines(whole)


def test_scores_are_printed_and_logged_beside_their_results(tmp_path, config, mindvl):
    root = tmp_path / "run"
    done = mindvl("validate", "-c", config(root, limit=3, batch_tokens=4096))
    assert done.status == 0, done.err
    (row,) = [line for line in done.out.splitlines() if line.startswith("docvqa ")]
    assert row.split()[-1] == "DocVQA_VAL" and row.split()[5] == "3"
    with (root / "benchmarks" / "csv" / "metrics.csv").open(newline="") as file:
        (logged,) = csv.DictReader(file)
    summary = json.loads((root / "benchmarks" / "summary.json").read_text())["benchmarks"]["docvqa"]
    assert float(logged["eval/docvqa"]) == pytest.approx(summary["score"])
    assert (root / "benchmarks" / "csv" / "config.yaml").is_file() and list(root.glob("benchmarks/wandb/offline-run-*"))


def test_other_settings_in_the_same_folder_are_refused_in_one_line(tmp_path, config, mindvl):
    root = tmp_path / "run"
    assert mindvl("validate", "-c", config(root, limit=2), "--trainer.logger", "false").status == 0
    refused = mindvl("validate", "-c", config(root, limit=2, max_pixels=3136), "--trainer.logger", "false")
    assert refused.status == 2
    assert "holds answers given under other settings (max_pixels: 50176, now 3136)" in refused.complaint


def test_an_unknown_benchmark_is_refused_before_a_model_is_built(tmp_path, config, mindvl):
    file = config(tmp_path / "run", benchmarks={"docvqq": "x.tsv"})
    refused = mindvl("validate", "-c", file)
    assert refused.status == 2 and "benchmarks.docvqq: unknown benchmark 'docvqq'" in refused.err
