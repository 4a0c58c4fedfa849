"""`mindvl plan` at the door: its table, what does not fit, and settings in place of the config's."""

import argparse
import copy
import os

import pytest
import yaml

from mindvl.cli import plan
from mindvl.parallel.device_types import DEVICE_TYPES, DeviceType

CONFIG = {
    "trainer": {
        "devices": 2,
        "num_nodes": 1,
        "precision": "bf16-mixed",
        "strategy": {"class_path": "mindvl.parallel.MindVLStrategy", "init_args": {"shard": -1}},
    },
    "model": {
        "class_path": "mindvl.phases.Multitask",
        "init_args": {
            "model": {
                "vision": {"depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 40},
                "language": {
                    "model_type": "qwen3",
                    "pretrained": "/nowhere/at/all",
                    "vocab_size": 320,
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 4,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 4,
                    "head_dim": 8,
                },
            }
        },
    },
    "data": {
        "class_path": "mindvl.data.module.PackedShards",
        "init_args": {"train": {"a": {"shards": "nowhere/*.tar"}}, "sequence_length": 128},
    },
}


@pytest.fixture
def door(tmp_path, monkeypatch, capsys):
    """Runs the verb on the config, changed by a function; returns what it printed."""
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setattr("sys.argv", ["mindvl"])  # Lightning compares it with `args`

    def call(*words, change=lambda config: None):
        config = copy.deepcopy(CONFIG)
        change(config)
        (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
        parser = argparse.ArgumentParser()
        plan.add_arguments(parser)
        plan.run(parser.parse_args(["-c", str(tmp_path / "fit.yaml"), *words]))
        return capsys.readouterr().out

    return call


def rows(out):
    lines = out.split("\n\n")[1].splitlines()
    return {line[:18].strip(): line[18:].split() for line in lines[:-1]}


def test_a_plan_shows_memory_by_part_bytes_by_kind_and_the_bound(door):
    out = door()
    table = rows(out)
    assert "on 2 x h100" in out and "no step of 256 tokens is faster than" in out
    assert list(table) == ["GiB per rank", "tower", "projector", "embeddings, head", "dense layers", "all"]
    parts = [float(table[part][-1]) for part in list(table)[1:-1]]
    assert sum(parts) == pytest.approx(float(table["all"][-1]), abs=0.02)
    assert "all-gather of parameters" in out and "reduce-scatter of gradients" in out


def test_settings_stand_in_place_of_the_configs(door):
    out = door("--devices", "4", "trainer.strategy.init_args.tensor=2", "trainer.accumulate_grad_batches=3")
    assert "on 4 x h100" in out and "all-reduce of dense layers" in out
    assert f"no step of {2 * 3 * 128} tokens" in out


def test_a_plan_that_does_not_fit_names_the_largest_entry_and_what_helps(door, monkeypatch):
    small = DeviceType("h100", 1e12, 1e6, 8, 1e9, 1e9, "a small one", "nobody")
    monkeypatch.setitem(DEVICE_TYPES, "h100", small)
    with pytest.raises(ValueError, match="the activations of") as refused:
        door()
    assert "recompute=full" in str(refused.value) and "sequence_length" in str(refused.value)
    with pytest.raises(ValueError, match="does not fit") as refused:
        door("trainer.strategy.init_args.recompute=full")
    assert "recompute=full" not in str(refused.value)


def test_each_resource_shows_its_time_and_the_slowest_is_the_bound(door):
    out = door("--devices", "16")
    times_s = {}
    for resource in ("arithmetic", "network", "links"):
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {resource} ")]
        number, unit = line.split()[1:3]
        times_s[resource] = float(number) * {"s": 1.0, "ms": 1e-3}[unit]
    slowest = max(times_s, key=lambda resource: times_s[resource])
    assert out.splitlines()[-1].startswith("no step of 2,048 tokens is faster than ") and f", by {slowest} (" in out
    row = next(line.split() for line in out.splitlines() if line.startswith("all-gather of parameters"))
    assert row[3:5] == ["16", "16"]


def test_this_machine_can_be_planned_for(door):
    out = door("--device", "cpu", "trainer.precision=null")
    assert "measured on" in out and len(os.sched_getaffinity(0)) >= 1


@pytest.mark.parametrize(
    ("rate", "text"), [(3.13e14, "313 TFLOP/s"), (1.2e12, "1 TFLOP/s"), (4.6e10, "46 GFLOP/s"), (2.34e9, "2.3 GFLOP/s")]
)
def test_a_slow_machine_has_a_rate_that_is_not_zero(rate, text):
    assert plan._in_units(rate, "FLOP/s") == text


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0.00123, "1.23 ms"), (7.3117, "7.312 s"), (150.0, "2.5 min"), (234448.992, "65.1 h"), (7.2e7, "20,000.0 h")],
)
def test_a_long_time_is_said_in_minutes_or_hours(time_s, text):
    assert plan._duration(time_s) == text


@pytest.mark.parametrize(
    ("words", "change", "complaint"),
    [
        (("--device", "abacus"), None, "there is no device type abacus; known are a100"),
        (("--visual-ratio", "1.5"), None, "--visual-ratio is 1.5"),
        (("nonsense",), None, "nonsense is no setting"),
        (("--devices", "0"), None, "--devices is 0; a run has at least 1 rank"),
        (("--devices", "-4"), None, "--devices is -4; a run has at least 1 rank"),
        (("--devices", "3", "trainer.strategy.init_args.shard=2"), None, "is 2, but there are 3 ranks"),
        (("trainer.strategy=ddp",), None, "trainer.strategy is ddp"),
        ((), lambda config: config["trainer"].update(devices="auto"), "say how many ranks there are with --devices"),
        (
            (),
            lambda config: config["model"]["init_args"]["model"]["language"].pop("model_type"),
            "/nowhere/at/all: there is no such folder",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_sentence(words, change, complaint, door):
    with pytest.raises(ValueError, match=complaint):
        door(*words, change=change or (lambda config: None))
