"""What a Trainer on NPUs is given, on a machine that only says how many it has."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from mindvl.parallel.npu import NPUAccelerator, process_group_backend
from mindvl.parallel.npu_strategy import keeping_ties
from mindvl.parallel.npu_trainer import precision_plugin, trainer_arguments


@pytest.fixture
def four_npus(monkeypatch):
    monkeypatch.setattr(torch, "npu", SimpleNamespace(device_count=lambda: 4), raising=False)


@pytest.mark.parametrize(
    ("devices", "numbers"),
    [(1, [0]), (3, [0, 1, 2]), (-1, [0, 1, 2, 3]), ("2", [0, 1]), ("-1", [0, 1, 2, 3]), ("1,3", [1, 3]), ("2,", [2])],
)
def test_devices_are_counted_or_named(devices, numbers, four_npus):
    assert NPUAccelerator.parse_devices(devices) == numbers
    assert NPUAccelerator.parse_devices(numbers) == numbers


@pytest.mark.parametrize(("devices", "named"), [(5, "[0, 1, 2, 3, 4]"), ("3,4", "[3, 4]"), ([1, 1], "[1, 1]")])
def test_devices_beyond_those_visible_are_refused_with_both_numbers(devices, named, four_npus, monkeypatch):
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,5,6,7")
    with pytest.raises(ValueError) as refused:
        NPUAccelerator.parse_devices(devices)
    assert str(refused.value) == (
        f"trainer.devices asks for NPUs {named}, but there are 4 (ASCEND_RT_VISIBLE_DEVICES=4,5,6,7), from 0 on"
    )


def test_several_npus_need_hccl_which_torch_npu_registers(four_npus, monkeypatch):
    with pytest.raises(
        ValueError, match=r"through hccl, which torch_npu registers, and this process knows .*gloo.* alone"
    ):
        trainer_arguments(devices=2)
    monkeypatch.setattr(torch.distributed.Backend, "backend_list", ["gloo", "hccl"])
    assert process_group_backend() == "cpu:gloo,npu:hccl"
    strategy = trainer_arguments(devices=2, strategy="ddp_find_unused_parameters_true")["strategy"]
    assert strategy.process_group_backend == "cpu:gloo,npu:hccl"
    assert strategy._ddp_kwargs == {"find_unused_parameters": True}


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16"])
def test_mixed_precision_casts_on_the_device_that_is_named(precision):
    plugin = precision_plugin(precision, "cpu")
    assert isinstance(plugin, MixedPrecision) and (plugin.precision, plugin.device) == ("bf16-mixed", "cpu")


@pytest.mark.parametrize("precision", ["32-true", 32, "bf16-true", None])
def test_other_precisions_are_left_to_lightning(precision, four_npus):
    assert precision_plugin(precision, "cpu") is None
    arguments = trainer_arguments(strategy="mindvl", precision=precision)
    assert arguments["precision"] == precision and arguments["plugins"] is None


def test_a_strategy_that_is_given_stays(four_npus):
    given = SingleDeviceStrategy(device="cpu")
    assert trainer_arguments(strategy=given)["strategy"] is given
    assert trainer_arguments(strategy="mindvl")["strategy"] == "mindvl"


def test_ties_outlive_a_move_that_makes_new_parameters():
    def model():
        net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
        net[1][0].weight = net[0].weight
        return net

    with torch.device("meta"):
        untied, tied = model().to_empty(device="cpu"), model()
    assert untied[1][0].weight is not untied[0].weight  # what a move between unlike tensors does
    with keeping_ties(tied):
        tied.to_empty(device="cpu")
    assert tied[1][0].weight is tied[0].weight and tied[1][1].weight is not tied[0].weight
