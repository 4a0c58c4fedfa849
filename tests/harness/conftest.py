"""A tiny saved model, the packages of the harnesses for processes of their own, and pictures with questions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[2] / "build" / "harness"


@pytest.fixture(scope="session")
def harness_environment() -> dict[str, str]:
    """Of a process that can import lmms-eval and serve models, and fetches nothing."""
    if not (HARNESS / "lmms_eval").is_dir():
        pytest.skip(f"no {HARNESS}: run `make harness`")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return {**os.environ, **offline, "PYTHONPATH": str(HARNESS), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


@pytest.fixture(scope="session")
def saved_model(make_model, tokenizer, tmp_path_factory) -> Path:
    """Folder of a tiny model whose answers differ from picture to picture."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_model(seed=3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
