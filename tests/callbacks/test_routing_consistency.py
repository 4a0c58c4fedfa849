"""The callback on a project that knows nothing of ours: its recorder and its metrics are made up here."""

from contextlib import contextmanager
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import Logger
from mindvl_callbacks import RoutingConsistency
from torch.utils.data import DataLoader
from torchmetrics import Metric

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*"),
    pytest.mark.filterwarnings("ignore:.*does not have any optimizer"),
]


class Share(Metric):
    """Share of choices that are expert 0, with the counts of four experts."""

    def __init__(self):
        super().__init__()
        self.add_state("counts", torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, recorded):
        self.counts += torch.bincount(torch.tensor(recorded), minlength=4)

    def compute(self):
        share = self.counts[0] / self.counts.sum()
        return {"first": share, "counts": self.counts, "missing": torch.tensor(torch.nan)}


class Router(BoringModel):
    """Chooses the experts that a batch lists; a batch that lists "boom" fails."""

    def __init__(self, batches):
        super().__init__()
        self.batches, self.listeners = batches, []

    def validation_step(self, batch, batch_idx):
        for listener in self.listeners:
            listener += batch
        if "boom" in batch:
            raise RuntimeError("boom")

    def val_dataloader(self):
        return DataLoader(self.batches, batch_size=None, collate_fn=lambda batch: batch)

    def train_dataloader(self):
        return DataLoader(torch.ones(2, 32), batch_size=1)


@contextmanager
def listen(module):
    heard = []
    module.listeners.append(heard)
    try:
        yield heard
    finally:
        module.listeners.remove(heard)


def same(recorded):
    return recorded


def trainer(callback, logger=False, **settings):
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[callback],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def validate(batches, **settings):
    callback = RoutingConsistency(listen, {"share": Share()}, read=same, **settings)
    module = Router(batches)
    found = trainer(callback).validate(module, verbose=False)[0]
    assert module.listeners == []
    return found


def test_numbers_of_all_batches_are_logged_and_what_has_axes_or_no_value_is_not():
    assert validate([[0, 1], [0, 0], [3, 2]]) == {"routing/share/first": 0.5}


def test_batches_beyond_the_limit_are_not_recorded():
    assert validate([[0, 1], [1, 1], [0, 0]], max_batches=2) == {"routing/share/first": 0.25}


def test_tokens_are_counted_and_an_empty_recording_adds_nothing():
    found = validate([[0, 1], [], [0]], count_tokens=len)
    assert found["routing/tokens"] == 3 and found["routing/share/first"] == pytest.approx(2 / 3)


def test_each_validation_of_a_fit_starts_from_nothing_and_the_sanity_check_is_no_validation():
    module = Router([[0, 1]])
    made = []

    def metrics(of):
        made.append(of)
        return {"share": Share()}

    callback = RoutingConsistency(listen, metrics, read=same, count_tokens=len)
    run = trainer(callback, max_epochs=2, num_sanity_val_steps=1, limit_train_batches=1)
    run.fit(module)
    assert made == [module]
    assert run.callback_metrics["routing/tokens"] == 2


def test_after_a_failed_step_nothing_listens_any_more():
    module = Router([[0], ["boom"]])
    with pytest.raises(RuntimeError, match="boom"):
        trainer(RoutingConsistency(listen, {"share": Share()}, read=same)).validate(module, verbose=False)
    assert module.listeners == []


class Pictures(Logger):
    """A logger that shows pictures, as W&B's does."""

    name, version = "pictures", 0

    def __init__(self):
        super().__init__()
        self.shown, self.numbers = [], {}

    def log_metrics(self, metrics, step=None):
        self.numbers |= metrics

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_image(self, key, images, step=None):
        self.shown.append((key, images, step))


class Board(Pictures):
    """One that takes figures through its experiment, as TensorBoard's does."""

    log_image = property()  # no such attribute

    @property
    def experiment(self):
        return self

    def add_figure(self, tag, figure, step):
        self.shown.append((tag, figure, step))


def test_figures_go_to_the_loggers_that_show_them_and_to_no_others(memory):
    pictures, board = Pictures(), Board()

    def plots(results):
        return {"counts": results["share"]["counts"].tolist()}

    callback = RoutingConsistency(listen, {"share": Share()}, read=same, plots=plots)
    trainer(callback, logger=[pictures, memory, board]).validate(Router([[0, 3]]), verbose=False)
    assert pictures.shown == [("routing/counts", [[1, 0, 0, 1]], 0)]
    assert board.shown == [("routing/counts", [1, 0, 0, 1], 0)]
    assert memory.series("routing/share/first") == [(0, 0.5)]


def test_settings_that_measure_nothing_are_refused():
    with pytest.raises(ValueError, match="max_batches is 0"):
        RoutingConsistency(listen, {"share": Share()}, max_batches=0)
    with pytest.raises(ValueError, match="metrics is empty"):
        RoutingConsistency(listen, {})


def test_two_ranks_log_what_both_have_seen_though_one_recorded_nothing(tmp_path, run_ranks):
    run_ranks(Path(__file__).with_name("routing_ranks.py"), tmp_path)
    for rank in range(2):
        assert (tmp_path / f"logged.{rank}").read_text() == "{'routing/share': 0.75, 'routing/tokens': 4.0}"
