"""Whole runs on a double of an NPU: what training touches lives on npu:0, what it leaves behind loads anywhere.

Nothing here has run on Ascend: the double shows where tensors are and who casts them, not speed nor kernels.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

HERE = Path(__file__).parent
MIXTURE = {"model_type": "qwen3_moe", "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}


@pytest.fixture(scope="session")
def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "PL_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "JSONARGPARSE_DEPRECATION_WARNINGS": "off", "MINDVL_TRACEBACK": "1"}


@pytest.fixture(scope="session")
def run(environment):
    """Runs a file of this folder in a process of its own, and returns what it printed."""

    def start(*arguments):
        command = [sys.executable, "-W", "ignore", *map(str, arguments)]
        done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return start


@pytest.fixture(scope="session")
def config_file(corpus, make_spec):
    """The file of a run of four steps into a folder; keywords replace fields of the trainer."""

    def make(folder, *, language=None, ckpt_path=None, callbacks=(), **trainer):
        spec = {name: value for name, value in asdict(make_spec(language=language)).items() if value is not None}
        sources = {name: {"shards": str(corpus / "train" / f"{name}-*.tar")} for name in ("ocr", "counting")}
        phase = {"model": spec, "rates": {"warmup_steps": 2}, "supervise": "answers"}
        data = {"train": sources, "sequence_length": 256, "workers": 0}
        config = {
            "seed_everything": 0,
            "model": {"class_path": "mindvl.phases.Multitask", "init_args": phase},
            "data": {"class_path": "mindvl.data.module.PackedShards", "init_args": data},
            "ckpt_path": ckpt_path,
            "trainer": {
                "default_root_dir": str(folder),
                "max_steps": 4,
                "log_every_n_steps": 2,
                "limit_val_batches": 0,
                "logger": False,
                "callbacks": list(callbacks),
                **trainer,
            },
        }
        (folder / "fit.yaml").write_text(yaml.safe_dump(config))
        return folder / "fit.yaml"

    return make


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what `npu_fit.Watch` has seen in it."""

    root: Path
    seen: dict[str, list[str]]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.root / "model" / "model.safetensors")


@pytest.fixture(scope="session")
def runs(run, config_file, tmp_path_factory):
    """Runs of `mindvl fit` on the double, by name, and what they printed."""
    parent = tmp_path_factory.mktemp("npu")
    checkpoint = str(parent / "mixed" / "checkpoints" / "step=2.ckpt")
    settings = {
        "mixed": {"accelerator": "npu", "devices": 1},
        "resumed": {"accelerator": "npu", "devices": 1, "ckpt_path": checkpoint},
        "experts": {"accelerator": "auto", "precision": "32-true", "language": MIXTURE},
    }
    configs = []
    for name, setting in settings.items():
        folder = parent / name
        folder.mkdir()
        every_2 = {"dirpath": str(folder / "checkpoints"), "filename": "{step}", "every_n_train_steps": 2}
        callbacks = (
            {"class_path": "npu_fit.Watch", "init_args": {"file": str(folder / "seen.json")}},
            {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {**every_2, "save_top_k": -1}},
        )
        configs.append(config_file(folder, callbacks=callbacks, **setting))
    printed = run("npu_fit.py", *configs)
    return {
        name: Run(parent / name, json.loads((parent / name / "seen.json").read_text())) for name in settings
    }, printed


@pytest.fixture
def mixed(runs):
    return runs[0]["mixed"]


@pytest.mark.parametrize("name", ["mixed", "resumed", "experts"])
def test_everything_a_step_touches_is_on_the_npu(name, runs):
    seen = runs[0][name].seen
    places = {name: devices for name, devices in seen.items() if name.endswith("_device")}
    parts = ("parameter", "gradient", "moment", "batch", "matmul", "checkpoint")
    assert places == {f"{part}_device": ["npu:0"] for part in parts}
    assert seen["strategy"] == ["NPUSingleDevice"] and seen["tied"] == ["True"]


def test_the_precision_that_pays_on_an_npu_casts_on_the_npu(mixed, runs):
    assert mixed.seen["precision"] == ["bf16-mixed"] and "Ascend double, precision bf16-mixed" in runs[1]
    assert mixed.seen["autocast"] == ["True"] and mixed.seen["matmul_dtype"] == ["torch.bfloat16"]


def test_device_stats_are_named_by_their_units(mixed):
    stats = {name: value for name, value in mixed.seen.items() if name.endswith(("_bytes", "_percent"))}
    assert stats == {
        "memory_allocated_bytes": ["1024"],
        "memory_reserved_bytes": ["4096"],
        "memory_peak_bytes": ["2048"],
        "utilization_percent": ["37"],
    }


def test_a_checkpoint_of_the_npu_loads_on_a_cpu(mixed):
    from mindvl.model.mindvl import MindVL

    checkpoint = torch.load(mixed.root / "checkpoints" / "step=4.ckpt", map_location="cpu", weights_only=False)
    model = MindVL.from_pretrained(mixed.root / "model")
    for name, parameter in model.state_dict().items():
        saved = checkpoint["state_dict"][f"model.{name}"]
        assert saved.device.type == "cpu" and torch.equal(saved, parameter), name


def test_a_resumed_run_on_the_npu_ends_in_the_weights_of_the_uninterrupted_one(mixed, runs):
    whole, resumed = mixed.weights, runs[0]["resumed"].weights
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_auto_picks_the_npu_and_trains_experts_to_the_weights_of_the_cpu(runs, config_file, tmp_path, monkeypatch):
    from mindvl.cli.lightning_cli import run_lightning

    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's own calls
    config = config_file(tmp_path, accelerator="cpu", precision="32-true", language=MIXTURE)
    run_lightning(["fit", "-c", str(config)])
    ours, theirs = runs[0]["experts"].weights, Run(tmp_path, {}).weights
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="session")
def outcomes(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainers")
    run("npu_trainers.py", folder)
    return json.loads((folder / "outcomes.json").read_text())


@pytest.mark.parametrize(
    ("precision", "parameters", "computed"),
    [
        ("fp32", "float32", "float32"),
        ("bf16-mixed", "float32", "bfloat16"),
        ("bf16-true", "bfloat16", "bfloat16"),
    ],
)
def test_a_plain_trainer_with_our_arguments_is_right_in_each_precision(precision, parameters, computed, outcomes):
    assert outcomes[precision] == [f"computed in torch.{computed}", f"npu:0 torch.{parameters}", "tied True"]


def test_weights_that_were_tied_are_tied_on_the_npu_and_back_on_the_host(outcomes):
    assert "tied True" in outcomes["fp32"] and outcomes["tied_after"]


def test_the_random_numbers_of_the_npu_go_on_where_the_checkpoint_left_them(outcomes):
    assert outcomes["saving_changes_nothing"] and outcomes["resumed_equals_whole"]
    assert not outcomes["resumed_without_random_state_equals_whole"]


def test_a_sanity_check_draws_no_random_number_of_the_run(outcomes):
    assert outcomes["sanity_check_changes_nothing"]
    assert not outcomes["sanity_check_changes_nothing_by_itself"]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("cpu", "the strategy would compute on cpu"),
        ("autocast", "precision bf16-mixed casts on cuda alone, so that all would be computed in fp32"),
        ("ties", "Lightning's SingleDeviceStrategy would untie first.weight and second.weight by moving them"),
        ("ddp", "Lightning's DDPStrategy wraps models in a stream of GPUs"),
    ],
)
def test_a_plain_trainer_that_would_be_silently_wrong_is_refused(fault, sentence, outcomes):
    advice = "give the Trainer what mindvl.parallel.npu_trainer.trainer_arguments returns"
    assert outcomes["refused"][fault] == f"accelerator npu, but {sentence}: {advice}"


def test_devices_that_are_not_there_are_refused(outcomes):
    assert outcomes["refused"]["devices"] == "trainer.devices asks for NPUs [0, 1], but there are 1, from 0 on"


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory, samples, pack, make_model, environment, run_ranks):
    """A folder with the gradients that each of two processes with a double had, the second without pictures."""
    folder = tmp_path_factory.mktemp("npu_ranks")
    make_model().save_pretrained(folder / "model")
    torch.save([[pack(samples[0], samples[2], samples[3])], [pack(samples[1])]], folder / "packs")
    (folder / "printed").write_text(run_ranks(HERE / "npu_ranks.py", folder, environment=environment, nodes=True)[0])
    return folder


def test_two_ranks_over_hccl_have_the_gradient_of_one_process(two_ranks, make_model, samples, pack):
    model, batch = make_model(), pack(*samples)
    (model(packed=batch).loss / batch.num_supervised).backward()
    for rank in range(2):
        gradients = torch.load(two_ranks / f"gradients.{rank}", map_location="cpu")
        for name, parameter in model.named_parameters():
            difference = (gradients[name] - parameter.grad).norm() / parameter.grad.norm()
            assert difference <= 1e-5, f"{name}: {difference:.1e}"
    assert "distributed_backend=cpu:gloo,npu:hccl" in (two_ranks / "printed").read_text()


def test_a_checkpoint_holds_the_random_numbers_of_every_rank(two_ranks):
    states = torch.load(two_ranks / "last.ckpt", map_location="cpu", weights_only=False)["random_state"]
    for rank, state in enumerate(states):
        device_type, numbers = state["device"]
        assert device_type == "npu" and torch.equal(numbers, torch.Generator().manual_seed(rank).get_state())
    assert len(states) == 2
