"""Samples from a few words and pictures, and recipes small enough to run in a second."""

from __future__ import annotations

import hashlib

import pytest

from mindvl.data.raw import RawSample
from mindvl.data.steps.loading import check_data_recipe

RECIPE = {
    "seed": 3,
    "samples_per_shard": 7,
    "style": {"cell_pixels": 28},
    "sources": {
        "ocr": {"render": {"family": "ocr_line", "train": 20, "test": 3, "word_length_chars": [2, 3]}},
        "stem": {
            "category": "sums",
            "render": {"family": "stem", "train": 30, "operand": [0, 9], "kinds": ["arithmetic"], "operations": ["+"]},
            "steps": [{"text_length": {"max_chars": 40}}],
        },
        "text": {"render": {"family": "ocr_line", "text_only": True, "train": 25}},
        "absent": {"import": {"format": "llava", "path": "nowhere.json"}, "optional": True},
    },
    "steps": [
        {"duplicate_pictures": {"hash_size": 8, "max_distance": 4, "same_text": False}},
        {"duplicate_texts": {"min_chars": 10, "threshold": 0.5}},
        {"well_formed": {}},
        {"text_share": {"ratio": 0.4}},
    ],
}


@pytest.fixture
def raw(conversation):
    """A sample from a question, an answer and picture sizes; the answer None leaves the last turn out."""

    def make(question="what?", answer="this", sizes=(), *, key="k", seed=0):
        messages, images = conversation(question, answer, sizes, seed=seed)
        return RawSample(key, {"messages": messages}, tuple(images))

    return make


@pytest.fixture
def small_recipe():
    """RECIPE itself, to take parts of."""
    return RECIPE


@pytest.fixture
def recipe(tmp_path):
    """A checked recipe: RECIPE with keys replaced, into `out` under the test's folder."""
    return lambda out="out", *, samples=None, **changes: check_data_recipe(
        {**RECIPE, "out": str(tmp_path / out), **changes}, samples=samples
    )


@pytest.fixture
def checksums():
    """Relative path -> SHA-256 of all files under a folder."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
