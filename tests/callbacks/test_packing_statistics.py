import json
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from mindvl_callbacks import PackFacts, PackingStatistics
from torch.utils.data import DataLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable"),
]

ROOM = {"token_budget": 100, "patch_budget": 80}
LARGE = {"doc_lengths": [50, 30], "num_images": 2, "num_patches": 40, "num_supervised": 20, **ROOM}
SMALL = {"doc_lengths": [20, 10, 10], "num_images": 1, "num_patches": 8, "num_supervised": 10, **ROOM}
LARGE["wasted_tokens"], SMALL["wasted_tokens"] = {"failed": 8}, {"padding": 60}
BOTH = {
    "packing/fill_ratio": (80 + 40) / 200,
    "packing/waste_failed_ratio": 8 / 200,
    "packing/waste_padding_ratio": 60 / 200,
    "packing/waste_unfilled_ratio": 12 / 200,
    "packing/documents_per_pack": 5 / 2,
    "packing/images_per_pack": 3 / 2,
    "packing/patches_fill_ratio": 48 / 160,
    "packing/attention_area_ratio": (2500 + 900 + 400 + 100 + 100) / (6400 + 1600),
    "packing/longest_document_tokens": 50,
    "packing/supervised_ratio": 30 / 120,
    "packing/predicted_cost_max_over_mean": 1.0,
    "packing/observed_forward_max_over_mean": 1.0,
}
"""One large and one small pack, on one rank."""


class Packs(BoringModel):
    """Trains on packs of ones; validates on others."""

    def __init__(self, packs=(LARGE, SMALL) * 8):
        super().__init__()
        self.packs = packs

    def training_step(self, batch, batch_idx):
        return super().training_step(batch["x"], batch_idx)

    def validation_step(self, batch, batch_idx):
        return super().validation_step(batch["x"], batch_idx)

    def train_dataloader(self):
        batches = [{"x": torch.ones(1, 32), "facts": facts} for facts in self.packs]
        return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)

    def val_dataloader(self):
        return DataLoader([{"x": torch.ones(1, 32)}], batch_size=None)


def facts_of(batch):
    return PackFacts(**batch["facts"])


def statistics():
    return PackingStatistics(facts_of, cost=lambda batch: float(sum(batch["facts"]["doc_lengths"])))


def trainer_with(callback, logger, *, steps=4, log_every=2, **settings):
    defaults = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False}
    defaults |= {"enable_checkpointing": False, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    return L.Trainer(
        callbacks=[callback], logger=logger, max_steps=steps, log_every_n_steps=log_every, **(defaults | settings)
    )


def packing_rows(memory):
    rows = [
        (step, {key: value for key, value in row.items() if key.startswith("packing/")}) for step, row in memory.rows
    ]
    return [(step, row) for step, row in rows if row]


def test_each_documented_key_is_logged_with_its_value(memory):
    trainer_with(statistics(), memory).fit(Packs())
    rows = packing_rows(memory)
    assert [step for step, _ in rows] == [1, 3]
    for _, row in rows:
        assert row == pytest.approx(BOTH)
    documented = {key.replace("failed", "<cause>").replace("padding", "<cause>") for key in BOTH}
    assert all(f"| `{key}` |" in PackingStatistics.__doc__ for key in documented)


def test_fill_and_waste_are_the_whole_budget(memory):
    trainer_with(statistics(), memory).fit(Packs())
    _, row = packing_rows(memory)[0]
    waste = sum(value for key, value in row.items() if key.startswith("packing/waste_"))
    assert row["packing/fill_ratio"] + waste == pytest.approx(1.0)


def test_each_row_is_about_the_packs_since_the_last_one(memory):
    trainer_with(statistics(), memory).fit(Packs([LARGE, LARGE, SMALL, SMALL]))
    first, last = (row for _, row in packing_rows(memory))
    assert (first["packing/fill_ratio"], last["packing/fill_ratio"]) == pytest.approx((0.8, 0.4))
    assert (first["packing/longest_document_tokens"], last["packing/longest_document_tokens"]) == (50, 20)


def test_a_cause_that_has_gone_is_logged_as_zero(memory):
    trainer_with(statistics(), memory).fit(Packs([LARGE, LARGE, SMALL, SMALL]))
    assert [value for _, value in memory.series("packing/waste_failed_ratio")] == pytest.approx([0.08, 0.0])


def test_an_accumulated_step_counts_all_its_packs_once(memory):
    callback = statistics()
    trainer_with(callback, memory, accumulate_grad_batches=2, log_every=1, steps=3).fit(Packs())
    rows = packing_rows(memory)
    assert [step for step, _ in rows] == [0, 1, 2]
    assert all(row == pytest.approx(BOTH) for _, row in rows)
    assert callback.summary()["packs"] == 6


def test_what_a_reader_does_not_know_is_not_logged(memory):
    trainer_with(PackingStatistics(lambda batch: PackFacts([50, 30], 100)), memory).fit(Packs())
    unknown = {"patches_fill_ratio", "supervised_ratio", "predicted_cost_max_over_mean", "waste_failed_ratio"}
    unknown |= {"waste_padding_ratio"}
    _, row = packing_rows(memory)[0]
    assert set(row) == set(BOTH) - {f"packing/{name}" for name in unknown}


def test_a_pack_whose_samples_all_failed_is_counted(memory):
    callback = PackingStatistics(lambda batch: PackFacts([], 100, wasted_tokens={"failed": 90}))
    trainer_with(callback, memory).fit(Packs())
    _, row = packing_rows(memory)[0]
    assert (row["packing/fill_ratio"], row["packing/longest_document_tokens"]) == (0.0, 0.0)
    assert (row["packing/waste_failed_ratio"], row["packing/waste_unfilled_ratio"]) == pytest.approx((0.9, 0.1))
    assert "packing/attention_area_ratio" not in row


def test_validation_in_between_does_not_count(memory):
    callback = statistics()
    every_step = {"limit_val_batches": 1, "val_check_interval": 1, "num_sanity_val_steps": 1}
    trainer_with(callback, memory, **every_step).fit(Packs())
    assert [row for _, row in packing_rows(memory)] == [pytest.approx(BOTH)] * 2
    trainer_with(callback, memory, limit_val_batches=1).validate(Packs(), verbose=False)
    assert callback.summary()["packs"] == 4


def test_the_summary_is_about_the_whole_run_with_the_steps_that_no_row_was_logged_for(memory):
    callback = statistics()
    trainer_with(callback, memory, steps=3).fit(Packs())
    assert [step for step, _ in packing_rows(memory)] == [1]
    summary = callback.summary()
    counts = {name: summary[name] for name in ("packs", "tokens", "documents", "images")}
    assert counts == {"packs": 3, "tokens": 200, "documents": 7, "images": 5}
    assert summary["fill_ratio"] == pytest.approx(200 / 300)
    assert set(summary) - set(counts) == {key.removeprefix("packing/") for key in BOTH}


def test_one_callback_measures_two_runs_apart(memory):
    callback = statistics()
    summaries = []
    for steps in (3, 2):  # the first leaves a pack behind that no row was logged for
        trainer_with(callback, memory, steps=steps).fit(Packs())
        summaries.append(callback.summary()["packs"])
    assert summaries == [3, 2]
    assert [row for _, row in packing_rows(memory)] == [pytest.approx(BOTH)] * 2


def test_a_trainer_that_goes_on_goes_on_counting(memory):
    callback = statistics()
    trainer = trainer_with(callback, memory, steps=3)
    trainer.fit(Packs())
    trainer.fit_loop.epoch_loop.max_steps = 5
    trainer.fit(Packs())
    assert callback.summary()["packs"] == 5


def test_a_resumed_run_has_the_summary_of_one_that_was_never_stopped(memory, tmp_path):
    first = statistics()
    stopped = trainer_with(first, memory, steps=3)
    stopped.fit(Packs())
    stopped.save_checkpoint(tmp_path / "step_3.ckpt")
    memory.rows.clear()
    resumed, whole = statistics(), statistics()
    trainer_with(resumed, memory, steps=6).fit(Packs([SMALL, LARGE] * 8), ckpt_path=tmp_path / "step_3.ckpt")
    assert [step for step, _ in packing_rows(memory)] == [3, 5]
    trainer_with(whole, memory, steps=6).fit(Packs())
    assert resumed.summary() == pytest.approx(whole.summary())
    assert first.summary()["packs"] == 3


def test_a_checkpoint_saved_between_two_rows_knows_all_packs_of_a_single_process(memory, tmp_path):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "step_3.ckpt")

    trainer = trainer_with(statistics(), memory, steps=4)
    trainer.callbacks.append(Save())
    trainer.fit(Packs())
    state = torch.load(tmp_path / "step_3.ckpt", weights_only=True)["callbacks"]["PackingStatistics"]
    assert (state["sums"]["packs"], state["sums"]["tokens"]) == (3, 200)


@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_a_step_without_a_backward_pass_is_timed_to_its_end(memory):
    class Skips(Packs):
        def training_step(self, batch, batch_idx):
            return None

    callback = statistics()
    trainer_with(callback, memory).fit(Skips())
    assert callback.summary()["packs"] == 4
    assert callback.summary()["observed_forward_max_over_mean"] == 1.0


def test_a_foreign_batch_is_read_from_its_bounds(memory):
    class Foreign(BoringModel):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["inputs"], batch_idx)

        def train_dataloader(self):
            batch = {"inputs": torch.ones(1, 32), "cu_seqlens": torch.tensor([0, 3, 7], dtype=torch.int32)}
            return DataLoader([batch] * 4, batch_size=None)

    callback = PackingStatistics(lambda batch: PackFacts(batch["cu_seqlens"].diff().tolist(), 10))
    trainer_with(callback, memory).fit(Foreign())
    _, row = packing_rows(memory)[-1]
    assert row["packing/fill_ratio"] == pytest.approx(0.7)
    assert row["packing/attention_area_ratio"] == pytest.approx((9 + 16) / 49)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"doc_lengths": [60, 30], "wasted_tokens": {"failed": 11}},
            r"documents of 90 tokens and 11 wasted ones are 101, more than token_budget=100",
        ),
        ({"doc_lengths": [101]}, r"documents of 101 tokens .* more than token_budget=100"),
        ({"doc_lengths": [60, -1]}, r"document 1 is -1, less than 0"),
        ({"doc_lengths": [60], "wasted_tokens": {"failed": -2}}, r"failed is -2, less than 0"),
        ({"doc_lengths": [60], "num_patches": 9, "patch_budget": 8}, r"num_patches=9 is more than patch_budget=8"),
        ({"doc_lengths": [60], "num_supervised": 61}, r"num_supervised=61 of documents of 60 tokens"),
        ({"doc_lengths": [60], "wasted_tokens": {"unfilled": 40}}, r"names 'unfilled'"),
    ],
)
def test_facts_that_cannot_be_are_refused_with_the_numbers_that_disagree(facts, message):
    with pytest.raises(ValueError, match=message):
        PackFacts(token_budget=100, **facts)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, run_ranks):
    """What each of two gloo processes logged, knew and summed up; unequal_ranks.py has the numbers."""
    folder = tmp_path_factory.mktemp("unequal_ranks")
    run_ranks(Path(__file__).with_name("unequal_ranks.py"), folder)
    return [json.loads((folder / f"result.{rank}").read_text()) for rank in range(2)]


def test_imbalance_is_that_of_each_micro_batch_and_not_that_of_the_sums(two_ranks):
    logged = two_ranks[0]["logged"]
    assert logged["packing/predicted_cost_max_over_mean"] == pytest.approx((3 / 2 + 3 / 2 + 1 + 6 / 4) / 4)
    assert logged["packing/observed_forward_max_over_mean"] == pytest.approx((1 + 3 / 2 + 1 + 3 / 2) / 4)


def test_a_row_is_about_the_packs_of_all_ranks_and_has_a_cause_that_only_the_second_knows(two_ranks):
    logged = two_ranks[0]["logged"]
    assert logged["packing/fill_ratio"] == pytest.approx((4 * 60 + 4 * 40) / 800)
    assert logged["packing/waste_failed_ratio"] == pytest.approx(10 / 800)
    assert logged["packing/documents_per_pack"] == pytest.approx(1.5)
    assert logged["packing/attention_area_ratio"] == pytest.approx((3600 + 800) / (3600 + 1600))
    assert logged["packing/longest_document_tokens"] == 60


def test_every_rank_has_the_same_summary_of_all_packs(two_ranks):
    summary = two_ranks[0]["summary"]
    assert two_ranks[1]["summary"] == summary
    assert (summary["packs"], summary["tokens"]) == (12, 600)
    assert summary["predicted_cost_max_over_mean"] == pytest.approx((5.5 + 1 + 3 / 2) / 6)
    assert summary["observed_forward_max_over_mean"] == pytest.approx((5 + 1 + 1) / 6)


def test_a_checkpoint_of_several_ranks_knows_the_packs_up_to_the_last_row(two_ranks):
    assert [rank["packs"] for rank in two_ranks] == [[0, 0, 0, 8, 8, 8]] * 2
