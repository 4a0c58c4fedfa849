"""`mindvl fit` with adapters, from a config alone."""

import subprocess

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mindvl.model.mindvl import MindVL
from mindvl.model.parts import is_adapter

pytest.importorskip("peft")

LORA = {"rank": 4, "alpha": 8, "parts": ["vision", "language"], "targets": ["qkv", "q_proj", "v_proj"], "dropout": 0.0}


@pytest.fixture(scope="module")
def fit(tmp_path_factory, trained, tiny_config, command, environment):
    """A run of 4 steps from the weights of `trained`, as a user starts it; returns its folder and what it printed."""

    def run(name: str, *options: object):
        folder = tmp_path_factory.mktemp(name)
        config = tiny_config(folder / "run")
        config["model"]["init_args"]["model"] |= {"lora": LORA, "start_from": str(trained.model)}
        checkpoints = {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": str(folder / "checkpoints"), "save_top_k": -1, "every_n_train_steps": 2},
        }
        csv_alone = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(folder)}}
        config["trainer"] |= {"max_steps": 4, "val_check_interval": 4, "log_every_n_steps": 1}
        config["trainer"] |= {"callbacks": [checkpoints], "logger": csv_alone}
        (folder / "fit.yaml").write_text(yaml.safe_dump(config))
        done = subprocess.run(
            [*command, "fit", "-c", folder / "fit.yaml", *map(str, options)],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
        )
        return folder, done

    return run


@pytest.fixture(scope="module")
def whole(fit):
    folder, done = fit("whole")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    return folder


def test_a_fit_trains_adapters_and_saves_a_model_without_any(whole, trained):
    before, after = (load_file(folder / "model.safetensors") for folder in (trained.model, whole / "run" / "model"))
    assert before.keys() == after.keys()
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    merger = {name for name in before if ".merger." in name}
    assert all(
        name.endswith(("attn.qkv.weight", "q_proj.weight", "v_proj.weight")) or name in merger
        for name in before.keys() - same
    )
    assert len(before.keys() - same - merger) == 3 + 2 * 2
    MindVL.from_pretrained(whole / "run" / "model")
    assert (whole / "run" / "model-adapter" / "adapter_model.safetensors").is_file()


def test_a_resumed_fit_ends_with_the_same_adapters_to_the_bit(whole, fit):
    (middle,) = whole.glob("checkpoints/*step=2*.ckpt")
    folder, done = fit("resumed", "--ckpt_path", middle)
    assert done.returncode == 0, done.stdout + done.stderr
    states = [
        torch.load(next(root.glob("checkpoints/*step=4*.ckpt")), weights_only=False)["state_dict"]
        for root in (whole, folder)
    ]
    assert any(is_adapter(name) for name in states[0])
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    models = [load_file(root / "run" / "model" / "model.safetensors") for root in (whole, folder)]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
