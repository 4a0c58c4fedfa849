import itertools
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError

from mindvl.cli.lightning_cli import MindVLCLI
from mindvl.data.module import PackedShards
from mindvl.data.render.config import check_config
from mindvl.data.tokenizer import byte_tokenizer
from mindvl.eval.benchmarks import names
from mindvl.phases import Phase
from mindvl.phases.miniature import on_meta, sizes_of
from mindvl.recipe.loading import load_recipe
from mindvl.recipe.stages import fit_config

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
CONTENTS = {file: yaml.safe_load(file.read_text(encoding="utf-8")) for file in FILES}
RECIPES = [file for file in FILES if "stages" in CONTENTS[file]]
DATA = [file for file in FILES if "sources" in CONTENTS[file] and "out" not in CONTENTS[file]]
DATA_RECIPES = [file for file in FILES if "sources" in CONTENTS[file] and "out" in CONTENTS[file]]
TOYS = [file for file in FILES if file.parent.name == "routing_toy"]
EVALS = [file for file in FILES if file.parent.name == "eval"]
FITS = [file for file in FILES if "trainer" in CONTENTS[file] and file not in (*RECIPES, *EVALS)]
VARIANTS = [(file, name) for file in RECIPES for name in (None, *CONTENTS[file].get("variants", {}))]
STAGES = [
    (file, variant, stage.name)
    for file, variant in VARIANTS
    for stage in load_recipe(file, variant=variant).stages
    if stage.phase is not None
]


def name_of(value):
    return str(value.relative_to(ROOT / "configs")) if isinstance(value, Path) else value


class Parsed(MindVLCLI):
    """`mindvl fit` up to the point where phase and data exist, without a Trainer."""

    def instantiate_classes(self):
        self.config_init = self.parser.instantiate_classes(self.config)

    def _run_subcommand(self, subcommand):
        pass


@pytest.fixture
def parsed(monkeypatch):
    """The phase and the data module that a config of `mindvl fit` stands for; of `validate` its callbacks too."""
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's own calls
    monkeypatch.setattr(sys, "argv", ["mindvl"])  # Lightning compares it with `args`
    monkeypatch.chdir(ROOT)

    def parse(file, verb="fit"):
        settings = {"subclass_mode_model": True, "subclass_mode_data": True, "seed_everything_default": 0}
        cli = Parsed(Phase, PackedShards, args=[verb, "--config", str(file)], **settings)
        made = cli.config_init[verb]
        return (made["model"], made["data"], *(made["trainer"]["callbacks"] if verb == "validate" else ()))

    return parse


def build_on_meta(phase):
    """The phase with its model at full size and without memory; weights to start from are not there yet.

    Parts from elsewhere are not there either: their sizes are those that the config writes out.
    """
    if any(part.pretrained is not None for part in phase.spec.parts()):
        return on_meta(sizes_of(phase.spec), phase.trains, phase.spec)
    phase.spec = replace(phase.spec, start_from=None)
    with torch.device("meta"):
        phase.configure_model()
    return phase.model


def test_every_config_is_of_a_known_kind():
    assert RECIPES and DATA and DATA_RECIPES and TOYS and EVALS
    assert set(FILES) == {*RECIPES, *DATA, *DATA_RECIPES, *TOYS, *EVALS, *FITS}
    assert not list((ROOT / "configs").rglob("*.yml"))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_config_opens_with_its_purpose_and_its_command(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    head = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert head and len(head[0].split()) > 4, f"{file} opens with {lines[0]!r}, not with its purpose"
    commands = [line for line in head if re.match(r"#\s+(mindvl|make) ", line)]
    assert commands, f"the head of {file} has no line with a command"
    relative = str(file.relative_to(ROOT))
    assert any(relative in line for line in commands), f"no command in the head of {file} names {relative}"


@pytest.mark.parametrize("file", DATA, ids=name_of)
def test_a_data_config_is_accepted_by_the_renderer(file):
    assert check_config(CONTENTS[file]).sources


@pytest.mark.parametrize(("file", "variant"), VARIANTS, ids=name_of)
def test_a_recipe_reads_sources_that_its_data_config_draws(file, variant):
    recipe = load_recipe(file, variant=variant)
    sources = check_config(yaml.safe_load((ROOT / recipe.data).read_text(encoding="utf-8"))).sources
    for stage in recipe.stages:
        for name in recipe.mixtures.get(stage.mixture, {}):
            assert sources[name].samples["train"] and sources[name].samples["validation"]
    if recipe.report is not None:
        for name in recipe.mixtures[recipe.stage(recipe.report.final).mixture]:
            assert sources[name].samples["test"] >= 1 or sources[name].text_only
    if recipe.study is not None:
        for name in [name for group in recipe.study.families.values() for name in group]:
            assert min(sources[name].samples[split] for split in ("validation", "test")) >= 2
            assert not sources[name].text_only


@pytest.mark.parametrize(("file", "variant", "stage"), STAGES, ids=name_of)
def test_each_fit_of_a_recipe_is_a_config_that_builds_its_model(file, variant, stage, parsed, tmp_path):
    recipe = replace(load_recipe(file, variant=variant), out=str(tmp_path))
    byte_tokenizer(recipe.tokenizer.get("words", "").split()).save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(fit_config(recipe, recipe.stage(stage))))
    phase, data = parsed(tmp_path / "fit.yaml")
    assert recipe.stage(stage).phase.rpartition(".")[2] == type(phase).__name__
    assert data.budget.tokens == recipe.stage(stage).sequence_length
    model = build_on_meta(phase)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and model.device.type == "meta"


def no_network(*_, **__):
    raise LocalEntryNotFoundError("tests ask no hub")


@pytest.mark.parametrize(("name", "parameters"), [("mindvl_8b", 8.87e9), ("mindvl_671b_a37b", 671.72e9)])
def test_a_large_config_has_the_size_of_its_name(name, parameters, parsed, monkeypatch):
    phase, _ = parsed(ROOT / f"configs/{name}.yaml")
    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    found = sum(parameter.numel() for parameter in build_on_meta(phase).parameters())
    assert found == pytest.approx(parameters, rel=1e-3)


def test_each_config_of_a_single_run_builds_its_model(parsed, monkeypatch):
    for file in FITS:
        phase, data = parsed(file)
        monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
        assert any(parameter.requires_grad for parameter in build_on_meta(phase).parameters())
        assert data.budget.tokens > 0


@pytest.mark.parametrize("file", EVALS, ids=name_of)
def test_a_config_of_an_evaluation_asks_known_benchmarks_of_any_saved_model(file, parsed, make_model, tmp_path):
    phase, _, benchmarks = parsed(file, "validate")
    assert {wanted.benchmark.name for wanted in benchmarks._wanted} == set(names())
    model = make_model(max_pixels=7_840)
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    phase.spec = replace(phase.spec, start_from=str(tmp_path), tokenizer="auto")
    phase.configure_model()
    assert phase.model.state_dict().keys() == model.state_dict().keys()
    assert phase.model.config.max_pixels == 7_840
