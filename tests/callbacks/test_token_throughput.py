import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from mindvl_callbacks import TokenThroughput
from torch.utils.data import DataLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable"),
]

FETCH_S, STEP_S, VALIDATION_S = 1.0, 3.0, 100.0
BATCH_TOKENS = 32


class Timed(BoringModel):
    """A batch takes a second to come and three to learn from; a validation step takes a hundred."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock.pass_s(STEP_S)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.clock.pass_s(VALIDATION_S)
        return super().validation_step(batch, batch_idx)

    def train_dataloader(self):
        def collate(rows):
            self.clock.pass_s(FETCH_S)
            return torch.stack(rows)

        return DataLoader(RandomDataset(BATCH_TOKENS, 64), collate_fn=collate)

    def val_dataloader(self):
        return DataLoader(RandomDataset(BATCH_TOKENS, 1))


def count(batch):
    return {"tokens": batch.numel(), "rows": len(batch)}


def trainer_with(callback, logger, *, steps=4, log_every=2, **settings):
    defaults = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False}
    defaults |= {"enable_checkpointing": False, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    return L.Trainer(
        callbacks=[callback], logger=logger, max_steps=steps, log_every_n_steps=log_every, **(defaults | settings)
    )


def test_each_documented_key_is_logged_with_its_value(clock, memory):
    callback = TokenThroughput(count, flops=lambda module, batch: 40.0, peak_flops=100.0)
    trainer_with(callback, memory).fit(Timed(clock))
    rows = [(step, row) for step, row in memory.rows if any(key.startswith("throughput/") for key in row)]
    assert [step for step, _ in rows] == [1, 3]
    for _, row in rows:
        measured = {key: value for key, value in row.items() if key.startswith("throughput/")}
        assert measured == pytest.approx(
            {
                "throughput/tokens_per_s": BATCH_TOKENS / (FETCH_S + STEP_S),
                "throughput/rows_per_s": 1 / (FETCH_S + STEP_S),
                "throughput/step_s": FETCH_S + STEP_S,
                "throughput/data_wait_ratio": FETCH_S / (FETCH_S + STEP_S),
                "throughput/model_flops_ratio": 40 / (FETCH_S + STEP_S) / 100,
            }
        )


def test_without_flops_there_is_no_utilisation(clock, memory):
    trainer_with(TokenThroughput(count), memory).fit(Timed(clock))
    assert memory.series("throughput/tokens_per_s")
    assert not memory.series("throughput/model_flops_ratio")


def test_an_accumulated_step_counts_all_its_batches_once(clock, memory):
    trainer_with(TokenThroughput(count), memory, accumulate_grad_batches=3).fit(Timed(clock))
    assert [step for step, _ in memory.series("throughput/step_s")] == [1, 3]
    assert memory.series("throughput/step_s")[-1][1] == pytest.approx(3 * (FETCH_S + STEP_S))
    assert memory.series("throughput/tokens_per_s")[-1][1] == pytest.approx(BATCH_TOKENS / (FETCH_S + STEP_S))


def test_the_clock_stands_still_during_validation(clock, memory):
    every_step = {"limit_val_batches": 1, "val_check_interval": 1, "num_sanity_val_steps": 1}
    trainer_with(TokenThroughput(count), memory, **every_step).fit(Timed(clock))
    assert clock.now_s > 1000 + 4 * VALIDATION_S
    assert [value for _, value in memory.series("throughput/step_s")] == pytest.approx([FETCH_S + STEP_S] * 2)
    waits = [value for _, value in memory.series("throughput/data_wait_ratio")]
    assert waits == pytest.approx([FETCH_S / (FETCH_S + STEP_S)] * 2)


def test_one_callback_measures_two_runs_and_the_peak_once(clock, memory):
    measured = []

    def peak(trainer):
        measured.append(trainer)
        return 100.0

    callback = TokenThroughput(count, flops=lambda module, batch: 40.0, peak_flops=peak)
    for _ in range(2):
        trainer_with(callback, memory).fit(Timed(clock))
        clock.pass_s(5000.0)
    assert [value for _, value in memory.series("throughput/model_flops_ratio")] == pytest.approx([0.1] * 4)
    assert len(measured) == 1


def test_a_run_resumed_between_two_rows_of_the_log_keeps_logging(clock, memory, tmp_path):
    first = trainer_with(TokenThroughput(count), memory, steps=3)
    first.fit(Timed(clock))
    first.save_checkpoint(tmp_path / "step_3.ckpt")
    memory.rows.clear()
    trainer_with(TokenThroughput(count), memory, steps=8).fit(Timed(clock), ckpt_path=tmp_path / "step_3.ckpt")
    assert [step for step, _ in memory.series("throughput/step_s")] == [5, 7]
    assert [value for _, value in memory.series("throughput/step_s")] == pytest.approx([FETCH_S + STEP_S] * 2)


def test_validating_alone_measures_nothing_and_fails_in_nothing(clock, memory):
    trainer_with(TokenThroughput(count), memory, limit_val_batches=1).validate(Timed(clock), verbose=False)
    assert not memory.series("throughput/step_s")


@pytest.mark.parametrize("given", [{"flops": lambda module, batch: 1.0}, {"peak_flops": 1.0}])
def test_flops_without_a_peak_or_a_peak_without_flops_is_refused(given):
    with pytest.raises(ValueError, match="both `flops` and `peak_flops`, or neither"):
        TokenThroughput(count, **given)
