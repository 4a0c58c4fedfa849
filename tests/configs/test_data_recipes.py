"""Every shipped data recipe runs on a handful of samples, and readers understand what it writes."""

import gc
import warnings
from pathlib import Path

import pytest
import webdataset

from mindvl.data.reader import read_samples
from mindvl.data.steps.loading import load_data_recipe
from mindvl.data.steps.run import run_recipe

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs/data").glob("*.yaml"))


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def made(request, tmp_path_factory):
    """A recipe, its folder and its report after a trial of two samples a source and split."""
    pytest.importorskip("imagehash", reason="needs mindvl[curation]")
    pytest.importorskip("datasketch", reason="needs mindvl[curation]")
    out = tmp_path_factory.mktemp(request.param.stem)
    recipe = load_data_recipe(request.param, {"out": str(out)}, samples=2)
    return recipe, out, run_recipe(recipe, workers=1)


def test_there_is_a_recipe_for_each_phase():
    assert [file.stem for file in FILES] == ["instruct", "multitask", "warmup"]


def test_a_recipe_makes_every_source_that_is_there_and_names_the_others(made):
    recipe, _, report = made
    for source in recipe.sources:
        entry = report["sources"][source.name]
        if source.kind == "render":
            assert not entry["absent"] and entry["steps"][0]["in"] >= 2
        else:
            assert source.optional and entry["absent"]


def test_webdataset_and_our_reader_agree_about_its_shards(made):
    _, out, report = made
    ours = {s.key: s for shard in report["shards"] for s in read_samples(str(out / shard["path"]))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves closing its files to the collector
        paths = [str(out / shard["path"]) for shard in report["shards"]]
        theirs = {s["__key__"]: s for s in webdataset.WebDataset(paths, shardshuffle=False).decode("pil")}
        gc.collect()
    assert set(ours) == set(theirs) and len(ours) == report["samples"] > 0
    for key, sample in ours.items():
        assert theirs[key]["json"] == sample.record
        assert sum(name.endswith("jpg") for name in theirs[key]) == len(sample.images)


def test_categories_are_those_of_the_phase(made):
    recipe, _, report = made
    there = {name for name, totals in report["train_categories"].items() if totals["samples"]}
    expected = {"captions", "grounding", "ocr", "stem"}
    if any(source.settings.get("text_only") for source in recipe.sources):  # all but the warm-up
        expected |= {"documents", "structured", "text"}
    assert there == expected


def test_half_of_the_instructions_is_text():
    pytest.importorskip("datasketch", reason="needs mindvl[curation]")
    recipe = load_data_recipe(ROOT / "configs/data/instruct.yaml")
    assert recipe.steps[-1].name == "text_share" and recipe.steps[-1].arguments == {"ratio": 0.5, "by_chars": False}
    counts = {True: 0, False: 0}
    for source in recipe.sources:
        if source.kind == "render":
            counts[bool(source.settings.get("text_only"))] += source.settings["train"]
    assert counts == {True: 1650, False: 1500}  # enough text to hold the half, with something to spare
