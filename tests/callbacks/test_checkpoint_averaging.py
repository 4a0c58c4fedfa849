import json
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from mindvl_callbacks import CheckpointAveraging, average_state_dicts
from mindvl_callbacks.averaging_opening import open_checkpoint
from mindvl_callbacks.averaging_reading import BlockReader
from safetensors.torch import load_file
from torch.utils.data import DataLoader


class Model(BoringModel):
    """Has a counter, as batch norm does, and tied weights."""

    def __init__(self, *, dtype=torch.float32):
        super().__init__()
        self.layer = torch.nn.Linear(32, 2).to(dtype)
        self.second = self.layer
        self.register_buffer("count", torch.tensor(0))

    def training_step(self, batch, batch_idx):
        self.count += 1
        return super().training_step(batch.to(self.layer.weight.dtype), batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Keep(L.Callback):
    def __init__(self):
        self.states = {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.states[trainer.global_step] = {key: value.clone() for key, value in pl_module.state_dict().items()}


class Stop(L.Callback):
    """Ends a run as a kill does, after the checkpoint of a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KeyError("killed")


@pytest.fixture
def fit(tmp_path):
    def run(*callbacks, steps=6, model=None, ckpt_path=None, saver=None, accumulate=1):
        L.seed_everything(1, verbose=False)
        model = model or Model()
        keep = Keep()
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            accumulate_grad_batches=accumulate,
            callbacks=[keep, *callbacks, *([saver] if saver else [])],
            logger=False,
            enable_checkpointing=saver is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            default_root_dir=tmp_path,
        )
        inputs = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(3)).expand(16, -1, -1)
        trainer.fit(model, DataLoader(inputs, batch_size=None), ckpt_path=ckpt_path)
        return model, keep.states

    return run


def plain(states, steps):
    """The mean in memory, of weights alone; counters are the last step's."""
    weights = {str(step): {k: v for k, v in states[step].items() if v.is_floating_point()} for step in steps}
    return average_state_dicts(list(weights), weights.__getitem__)


def check(folder, states, steps):
    mean, expected = load_file(folder / "model.safetensors"), plain(states, steps)
    assert mean.keys() == {"layer.weight", "layer.bias", "count"}
    for key in ("layer.weight", "layer.bias"):
        torch.testing.assert_close(mean[key], expected[key])
    assert mean["count"] == states[steps[-1]]["count"]
    assert json.loads((folder / "averaging.json").read_text())["steps"] == list(steps)


def test_the_last_k_snapshots_are_averaged(fit, tmp_path):
    _, states = fit(CheckpointAveraging(tmp_path / "mean", every_n_steps=2, last=2))
    check(tmp_path / "mean", states, [4, 6])
    assert sorted(path.name for path in (tmp_path / "mean.snapshots").iterdir()) == ["step-00000004", "step-00000006"]


def test_the_running_mean_is_that_of_all_chosen_steps(fit, tmp_path):
    _, states = fit(CheckpointAveraging(tmp_path / "mean", at_steps=[1, 2, 5]))
    check(tmp_path / "mean", states, [1, 2, 5])
    assert [path.name for path in (tmp_path / "mean.snapshots").iterdir()] == ["mean-00000005"]


def test_steps_are_optimizer_steps(fit, tmp_path):
    _, states = fit(CheckpointAveraging(tmp_path / "mean", every_n_steps=1, last=2), steps=3, accumulate=4)
    check(tmp_path / "mean", states, [2, 3])


def test_a_running_mean_of_bf16_weights_is_kept_in_fp32_and_rounded_once(fit, tmp_path):
    _, states = fit(CheckpointAveraging(tmp_path / "mean", every_n_steps=1), model=Model(dtype=torch.bfloat16))
    expected = torch.stack([states[step]["layer.weight"].double() for step in range(1, 7)]).mean(0)
    assert torch.equal(load_file(tmp_path / "mean" / "model.safetensors")["layer.weight"], expected.bfloat16())
    running = load_file(tmp_path / "mean.snapshots" / "mean-00000006" / "rank-00000.safetensors")
    assert running["layer.weight"].dtype == torch.float32 and running["count"].dtype == torch.int64


def test_the_mean_can_take_the_modules_place_at_the_end(fit, tmp_path):
    model, states = fit(CheckpointAveraging(tmp_path / "mean", every_n_steps=1, last=3, load_at_end=True))
    torch.testing.assert_close(model.layer.weight.detach(), plain(states, [4, 5, 6])["layer.weight"])


def test_a_prefix_chooses_the_keys(fit, tmp_path):
    fit(CheckpointAveraging(tmp_path / "mean", every_n_steps=1, last=2, prefix="layer."))
    assert load_file(tmp_path / "mean" / "model.safetensors").keys() == {"weight", "bias"}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable:UserWarning")  # all its batches are one
@pytest.mark.parametrize("last", [2, None])
@pytest.mark.parametrize("killed_at", [4, 5])
def test_a_killed_run_that_goes_on_ends_with_the_same_mean(last, killed_at, fit, tmp_path):
    """Killed at step 5, snapshots of step 4 and 5 are ahead of the checkpoint of step 3."""
    whole = CheckpointAveraging(tmp_path / "whole", every_n_steps=1, last=last)
    _, states = fit(whole)
    out = tmp_path / "mean"
    saver = ModelCheckpoint(tmp_path / "run", filename="c", every_n_train_steps=3, save_on_train_epoch_end=False)
    with pytest.raises(KeyError, match="killed"):
        fit(CheckpointAveraging(out, every_n_steps=1, last=last), Stop(killed_at), saver=saver)
    saver = ModelCheckpoint(tmp_path / "run", filename="c", every_n_train_steps=3, save_on_train_epoch_end=False)
    checkpoint = tmp_path / "run" / "c.ckpt"
    _, again = fit(CheckpointAveraging(out, every_n_steps=1, last=last), ckpt_path=checkpoint, saver=saver)
    assert torch.equal(again[6]["layer.weight"], states[6]["layer.weight"])
    check(out, states, [5, 6] if last else [1, 2, 3, 4, 5, 6])


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(fit, tmp_path):
    with pytest.raises(KeyError, match="killed"):
        fit(CheckpointAveraging(tmp_path / "mean", every_n_steps=1), Stop(3))
    _, states = fit(CheckpointAveraging(tmp_path / "mean", every_n_steps=1))
    check(tmp_path / "mean", states, [1, 2, 3, 4, 5, 6])


def test_another_runs_result_is_not_overwritten(fit, tmp_path):
    fit(CheckpointAveraging(tmp_path / "mean", every_n_steps=1))
    with pytest.raises(ValueError, match="mean exists and is no earlier result of this run"):
        fit(CheckpointAveraging(tmp_path / "mean", every_n_steps=1))


def test_the_checkpoints_of_modelcheckpoint_are_averaged(fit, tmp_path):
    when = {"every_n_train_steps": 2, "save_on_train_epoch_end": False}
    saver = ModelCheckpoint(tmp_path / "kept", monitor="step", mode="max", save_top_k=2, **when)
    _, states = fit(CheckpointAveraging(tmp_path / "mean", from_checkpoints=True), saver=saver)
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    torch.testing.assert_close(mean["layer.weight"], plain(states, [4, 6])["layer.weight"])
    sources = json.loads((tmp_path / "mean" / "averaging.json").read_text())["sources"]
    assert sorted(source["step"] for source in sources) == [4, 6]


def test_weights_that_are_not_finite_are_never_averaged(fit, tmp_path):
    class Poison(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 3:
                pl_module.layer.bias.data[1] = float("nan")

    with pytest.raises(ValueError, match=r"step 3, rank 0: layer\.bias holds a value that is not finite"):
        fit(Poison(), CheckpointAveraging(tmp_path / "mean", every_n_steps=1))
    assert [path.name for path in (tmp_path / "mean.snapshots").iterdir() if path.name[0] != "."] == ["mean-00000002"]


def test_too_few_snapshots_are_told_at_the_end(fit, tmp_path):
    with pytest.warns(UserWarning, match="mean is not written: 1 checkpoint was kept, an average needs at least 2"):
        fit(CheckpointAveraging(tmp_path / "mean", every_n_steps=6))
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of `every_n_steps`, `at_steps` and `from_checkpoints`"),
        ({"every_n_steps": 1, "at_steps": [2]}, "give one of"),
        ({"every_n_steps": 0}, "every_n_steps is 0, it must be at least 1"),
        ({"every_n_steps": 1, "last": 1}, "last is 1, an average needs at least 2"),
        ({"from_checkpoints": True, "load_at_end": True}, "go with snapshots"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        CheckpointAveraging(tmp_path / "mean", **arguments)


def test_flattened_parameters_are_refused(fit, tmp_path):
    model = Model()
    model.layer.weight.ds_id = 1
    with pytest.raises(ValueError, match="DeepSpeed's third stage empties parameters"):
        fit(CheckpointAveraging(tmp_path / "mean", every_n_steps=1), model=model)


AVERAGING_RANKS = Path(__file__).with_name("averaging_ranks.py")


def test_a_rank_that_fails_ends_the_others_too(tmp_path, run_ranks):
    first, second = run_ranks(AVERAGING_RANKS, tmp_path, "poison", may_fail=True)
    assert "RuntimeError: averaging failed on another rank, which says why" in first
    assert "ValueError: step 2, rank 1: layer.1.weight holds a value that is not finite" in second


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # what dcp.load says
@pytest.mark.parametrize("how", ["ddp", "sharded", "tensor"])
def test_on_two_ranks_the_mean_of_shards_is_the_mean(how, tmp_path, run_ranks):
    """With DDP, FSDP 2 and tensor parallelism; in the last two each rank averages its own shards."""
    run_ranks(AVERAGING_RANKS, tmp_path, how)
    result = torch.load(tmp_path / "result.pt")
    states = dict(enumerate(result["states"], start=1))
    for name, steps in {"last": [3, 4, 5], "all": [1, 3, 4]}.items():
        expected = plain(states, steps)
        mean = open_checkpoint(tmp_path / name)
        assert mean.tensors.keys() == expected.keys() | {"count"}
        for key, value in expected.items():
            read = BlockReader(mean, key).read(0, value.numel()).values.view(value.shape)
            torch.testing.assert_close(read, value)
        assert BlockReader(mean, "count").read(0, 1).values.item() == steps[-1]
    for key, value in plain(states, [1, 3, 4]).items():
        torch.testing.assert_close(result["loaded"][key], value)
    if how != "ddp":
        assert len(list((tmp_path / "last").glob("*.distcp"))) == 2
        loaded = {key: torch.empty_like(value) for key, value in plain(states, [3, 4, 5]).items()}
        dcp.load(loaded, checkpoint_id=tmp_path / "last", no_dist=True)
        for key, value in plain(states, [3, 4, 5]).items():
            torch.testing.assert_close(loaded[key], value)
    assert not list(tmp_path.glob(".*"))
