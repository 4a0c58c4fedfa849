"""The quickstart with experts is the quickstart in all but its language model, what balances it, and its folder."""

import json
from pathlib import Path

import pytest
import yaml

from mindvl.model.flops import cost_coefficients
from mindvl.model.moe import SigmoidRouter, routers_of
from mindvl.phases import ModelSpec
from mindvl.phases.model_spec import build_model, config_of

FOLDER = Path(__file__).parents[2] / "configs" / "quickstart"
QUICKSTART, EXPERTS = (yaml.safe_load((FOLDER / name).read_text()) for name in ("recipe.yaml", "moe.yaml"))


def test_stages_data_and_report_are_the_quickstarts():
    mine, theirs = (json.loads(json.dumps(recipe)) for recipe in (EXPERTS, QUICKSTART))  # aliases become copies
    assert mine.pop("out") != theirs.pop("out")
    assert mine["model"].pop("language")["model_type"] != theirs["model"].pop("language")["model_type"]
    balanced = {}
    for ours, stage in zip(mine["stages"], theirs["stages"], strict=True):
        if "average" not in stage:
            balanced[stage["name"]] = ours["phase_args"].pop("experts")
            stage.setdefault("phase_args", {})
    assert mine == theirs
    assert not balanced.pop("warmup"), "the language model is frozen there"
    assert len(balanced) == 6 and all(settings["bias_update_speed"] == 0.005 for settings in balanced.values())


def test_as_many_weights_work_for_a_token_as_in_the_quickstart(tokenizer):
    configs = [config_of(ModelSpec(**recipe["model"]), tokenizer) for recipe in (EXPERTS, QUICKSTART)]
    ours, theirs = (cost_coefficients(config)["token"] for config in configs)
    assert ours == pytest.approx(theirs, rel=0.05)
    routers = routers_of(build_model(ModelSpec(**EXPERTS["model"]), configs[0]))
    assert list(routers) == [1, 2] and all(type(router) is SigmoidRouter for router in routers.values())
