"""Adapters under a strategy that shards: drawn, trained and saved as in a single process."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mindvl.model.lora import Lora
from mindvl.model.parts import is_adapter

pytest.importorskip("peft")

LORA = Lora(rank=4, alpha=8, parts=["vision", "language"], targets=["qkv", "q_proj", "o_proj"])


@pytest.fixture(scope="module")
def fits(tmp_path_factory, specs, step_packs, run_script):
    """The folder of two equal fits, and what a single process and rank 0 of two kept."""
    folder = tmp_path_factory.mktemp("lora")
    torch.save(replace(specs["qwen3_moe"], lora=LORA), folder / "lora.spec")
    torch.save(step_packs, folder / "packs")
    done = run_script("lora_ranks.py", str(folder))
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, *(torch.load(folder / f"{name}.0.result") for name in ("alone", "sharded"))


def test_two_ranks_start_with_the_adapters_of_one_process_and_train_them_alike(fits):
    _, alone, sharded = fits
    for name, tensor in alone["first"].items():
        assert torch.equal(tensor, sharded["first"][name]), name
    assert sharded["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(sharded["weights"][name], tensor, rtol=1e-3, atol=1e-5, msg=name)
        moved = not torch.equal(tensor, alone["first"][name])
        assert moved == (is_adapter(name) or ".merger." in name), name


def test_two_ranks_save_the_merged_model_and_the_adapters_that_one_process_saves(fits):
    folder, _, _ = fits
    for suffix, file in (("", "model.safetensors"), ("-adapter", "adapter_model.safetensors")):
        alone, sharded = (load_file(folder / f"{name}{suffix}" / file) for name in ("alone", "sharded"))
        assert alone.keys() == sharded.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(sharded[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    assert any("experts.7.down_proj" in name for name in load_file(folder / "sharded" / "model.safetensors"))
