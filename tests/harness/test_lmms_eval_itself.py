"""lmms-eval from PyPI finds `mindvl`, runs a local task with it, and comes to the scores that we compute ourselves."""

import json
import statistics
import subprocess
import sys

import pytest

from mindvl.eval.metrics.anls import anls
from mindvl.phases.answering import Prompt, load_answerer
from mindvl.phases.decoding import Decoding

QUESTIONS = ("read the text.", "which number?", "what is this?", "read it out, please.", "?")
SIZES = ((56, 140), (28, 56), (112, 84), (168, 168), (84, 28))
READ = """
task: read
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_visual: !function pictures.of
doc_to_text: "{{question}}"
doc_to_target: answers
generation_kwargs: {max_new_tokens: 12, temperature: 0, do_sample: false}
metric_list: [{metric: anls, aggregation: mean, higher_is_better: true}]
"""
PICTURES = """
from PIL import Image


def of(doc):
    return [Image.open(doc["image"]).convert("RGB")]
"""


@pytest.fixture(scope="module")
def answerer(saved_model):
    return load_answerer(saved_model, max_pixels=12544)


@pytest.fixture(scope="module")
def prompts(picture) -> list[Prompt]:
    return [
        Prompt(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
            (picture(*size, seed=number),),
        )
        for number, (text, size) in enumerate(zip(QUESTIONS, SIZES, strict=True))
    ]


@pytest.fixture(scope="module")
def ours(answerer, prompts) -> list[str]:
    return [answer.text for answer in answerer.answer(prompts, Decoding(max_new_tokens=12))]


@pytest.fixture(scope="module")
def references(ours) -> list[list[str]]:
    """Beside the model's own words: the same, nearly the same, something else."""
    return [[ours[0]], ["other", "q" + ours[1][1:]], ["entirely different"], [ours[3][:-1] + "zz"], [ours[4]]]


@pytest.fixture(scope="module")
def found(harness_environment, saved_model, prompts, references, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("tasks")
    lines = []
    for number, (prompt, answers) in enumerate(zip(prompts, references, strict=True)):
        image = folder / f"{number}.png"
        image.write_bytes(prompt.images[0])
        asked = {"question": QUESTIONS[number], "image": str(image), "answers": answers}
        lines.append(json.dumps(asked))
    file = folder / "questions.jsonl"
    file.write_text("\n".join(lines))
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "pictures.py").write_text(PICTURES)
    (tasks / "read.yaml").write_text(READ.replace("FILE", str(file)))
    settings = f"--model mindvl --model_args pretrained={saved_model},max_pixels=12544 --batch_size auto --log_samples"
    places = ["--tasks", "read", "--include_path", tasks, "--output_path", folder / "out"]
    command = [sys.executable, "-m", "lmms_eval", *settings.split(), *places]
    environment = {**harness_environment, "HF_HOME": str(folder / "cache")}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,), (samples,) = (list((folder / "out").rglob(name)) for name in ("*_results.json", "*_samples_read.jsonl"))
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").split("\n") if line]
    return {
        "score": json.loads(results.read_text(encoding="utf-8"))["results"]["read"]["anls,none"],
        "answers": [line["filtered_resps"] for line in sorted(lines, key=lambda line: line["doc_id"])],
    }


def test_its_answers_are_ours_to_the_letter_and_in_order(found, ours):
    assert found["answers"] == [text.strip() for text in ours]  # lmms-eval takes off the blanks at their ends
    assert len(set(ours)) == len(ours)


def test_its_score_is_ours(found, ours, references):
    scores = [anls(text, answers, compat="lmms-eval") for text, answers in zip(ours, references, strict=True)]
    assert 0 < statistics.mean(scores) < 1 and len(set(scores)) > 2
    assert found["score"] == pytest.approx(statistics.mean(scores), abs=1e-12)
