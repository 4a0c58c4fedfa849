"""Random numbers of a killed run go on where its checkpoint left them."""

import random

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from mindvl.parallel.random_state import KeepRandomState, random_state, set_random_state

pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")


class Noisy(L.LightningModule):
    """Learns from noise of three generators, so that its weights tell which numbers were drawn."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def training_step(self, batch, batch_idx):
        noise = torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()])
        return (self.weight * noise).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.fixture
def fit(tmp_path):
    def start(*, callbacks, ckpt_path=None):
        L.seed_everything(5, verbose=False)
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=4,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        module = Noisy()
        trainer.fit(module, torch.utils.data.DataLoader(list(torch.ones(4, 1))), ckpt_path=ckpt_path)
        return module.weight.detach()

    return start


class SaveAt2(L.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)


def test_numbers_drawn_after_a_state_are_drawn_again_after_it_is_set():
    def draw():
        return [torch.rand(3).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1), random.gauss(0, 1)]

    np.random.randn()  # leaves the second number of its pair in the state
    random.gauss(0, 1)
    state = random_state("cpu")
    first = draw()
    set_random_state("cpu", state)
    assert draw() == first != draw()


def test_a_state_loads_without_running_code(tmp_path):
    torch.save(random_state("cpu"), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    numbers = np.random.rand(3)
    set_random_state("cpu", state)
    assert np.array_equal(np.random.rand(3), numbers)


def test_a_run_that_moves_to_another_type_of_device_keeps_the_numbers_of_the_host():
    state = {**random_state("cpu"), "device": ("xpu", torch.zeros(16, dtype=torch.uint8))}
    numbers = torch.rand(3)
    set_random_state("cpu", state)
    assert torch.equal(torch.rand(3), numbers)


def test_a_resumed_run_draws_what_the_uninterrupted_one_drew(fit, tmp_path):
    path = tmp_path / "2.ckpt"
    whole = fit(callbacks=[KeepRandomState(), SaveAt2(path)])
    assert torch.equal(fit(callbacks=[KeepRandomState()], ckpt_path=path), whole)
    assert not (fit(callbacks=[], ckpt_path=path) == whole).any()


def test_a_checkpoint_of_more_ranks_leaves_the_numbers_to_the_seed_and_says_so(fit, tmp_path, caplog):
    path = tmp_path / "2.ckpt"
    fit(callbacks=[KeepRandomState(), SaveAt2(path)])
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["random_state"] *= 2
    torch.save(checkpoint, path)
    from_seed = fit(callbacks=[], ckpt_path=path)
    assert torch.equal(fit(callbacks=[KeepRandomState()], ckpt_path=path), from_seed)
    assert "the checkpoint has those of 2 ranks, the run has 1" in caplog.text
