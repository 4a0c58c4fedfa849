"""A recipe in small: all kinds of stages over two families and the text twin of one."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import yaml

DATA = {
    "cell_pixels": 28,
    "samples_per_shard": 20,
    "sources": {
        "ocr": {"family": "ocr_line", "train": 24, "validation": 4, "test": 4},
        "counting": {"family": "counting", "train": 12, "validation": 4, "test": 4},
        "text_ocr": {
            "family": "ocr_line",
            "text_only": True,
            "train": 12,
            "validation": 4,
            "word_length_chars": [2, 5],
        },
    },
}
STEPS = 6


@pytest.fixture(scope="session")
def mini_recipe(make_spec) -> Callable[[Path], dict]:
    """The recipe as a mapping, to run in a folder; its data config is written there."""
    spec = asdict(make_spec(vision={"depth": 1, "fullatt_block_indexes": [0]}, language={"num_hidden_layers": 1}))
    model = {name: spec[name] for name in ("vision", "language", "min_pixels", "max_pixels")}

    def stage(name: str, phase: str, mixture: str, *, length: int = 256, **more) -> dict:
        fit = {"phase": f"mindvl.phases.{phase}", "mixture": mixture, "sequence_length": length, "steps": STEPS}
        return {"name": name, **fit, **more}

    def make(folder: Path) -> dict:
        (folder / "data.yaml").write_text(yaml.safe_dump(DATA))
        return {
            "out": str(folder / "out"),
            "seed": 3,
            "data": str(folder / "data.yaml"),
            "tokenizer": {"words": "what is the text how many"},
            "model": model,
            "data_args": {"workers": 0},
            "trainer": {"precision": "32-true", "accelerator": "cpu", "log_every_n_steps": 2},
            "mixtures": {"text": {"text_ocr": 1}, "pictures": {"ocr": 1, "counting": 0.5}},
            "stages": [
                stage("language", "LanguageOnly", "text", rates={"language": 1e-3}),
                stage("warmup", "WarmUp", "pictures", start_from="language"),
                stage("short", "Multitask", "pictures", start_from="warmup", phase_args={"supervise": "answers"}),
                stage("long", "Multitask", "pictures", start_from="warmup", length=512, accumulate=2),
                {"name": "mean", "average": ["short", "long"]},
                stage("instruct", "InstructionTuning", "pictures", start_from="mean"),
            ],
            "report": {
                "final": "instruct",
                "singles": {"256": "short", "512": "long"},
                "average": "mean",
                "budgets": [[784, 50176], [784, 3136]],
                "questions": 3,
                "selection_questions": 2,
                "singles_questions": 2,
                "max_new_tokens": 2,
            },
        }

    return make


@dataclass(frozen=True)
class Ran:
    """What `mindvl recipe` came to: exit status and what it printed."""

    status: int
    text: str
    error: str


@pytest.fixture(scope="module")
def run_recipe() -> Iterator[Callable[..., Ran]]:
    """`mindvl recipe` in this process, with a W&B that does not start and one core for the renderer."""
    from mindvl.cli.main import main

    def broken(**settings):
        raise RuntimeError("no W&B in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mindvl.cli.loggers.WandbLogger", broken)
        patch.setattr("mindvl.data.render.writer.num_cores", lambda: 1)
        patch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's own calls
        patch.delenv("MINDVL_TRACEBACK", raising=False)

        def run(*arguments: object) -> Ran:
            with (
                contextlib.redirect_stdout(io.StringIO()) as text,
                contextlib.redirect_stderr(io.StringIO()) as error,
            ):
                status = main(["recipe", *(str(argument) for argument in arguments)])
            return Ran(status, text.getvalue(), error.getvalue())

        yield run
