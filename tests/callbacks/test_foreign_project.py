import os
import subprocess
import sys

PROJECT = """
import sys
import warnings
from dataclasses import astuple
import lightning as L
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
import mindvl_callbacks
from mindvl_callbacks import PackFacts, PackingStatistics, TokenThroughput, average_state_dicts, search_resolution

warnings.filterwarnings("ignore")
class Seen(L.Callback):
    keys = set()
    def on_train_batch_end(self, trainer, *_):
        self.keys |= set(trainer.callback_metrics)

throughput = TokenThroughput(lambda batch: {"samples": len(batch)}, flops=lambda module, batch: 1e6, peak_flops=1e12)
packing = PackingStatistics(lambda batch: PackFacts([12, 4], 32), cost=lambda batch: float(len(batch)))
seen = Seen()
models = {}
for seed in (1, 2):
    L.seed_everything(seed)
    model = BoringModel()
    L.Trainer(max_steps=4, log_every_n_steps=2, callbacks=[throughput, packing, seen], accelerator="cpu", devices=1,
              logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
              limit_val_batches=0).fit(model)
    models[str(seed)] = model.state_dict()
assert {"throughput/samples_per_s", "throughput/step_s", "throughput/data_wait_ratio",
        "throughput/model_flops_ratio", "packing/fill_ratio", "packing/waste_unfilled_ratio",
        "packing/predicted_cost_max_over_mean"} <= seen.keys, seen.keys
summary = packing.summary()
assert (summary["packs"], summary["fill_ratio"], summary["attention_area_ratio"]) == (4, 0.5, 0.625), summary

mean = average_state_dicts(["1", "2"], models.get)
BoringModel().load_state_dict(mean)
torch.testing.assert_close(mean["layer.weight"], (models["1"]["layer.weight"] + models["2"]["layer.weight"]) / 2)

found = search_resolution([(1, 4), (1, 9)], lambda low, high: (high / 9, high), lambda low, high: (0.5, high))
assert astuple(found.chosen) == (1, 9, 1.0, 9, 0.5)

assert set(mindvl_callbacks.__all__) == {"BudgetScore", "PackFacts", "PackingStatistics", "ResolutionResult",
                                         "TokenThroughput", "average_state_dicts",
                                         "search_resolution"}, "a new callback belongs in this script"
ours = sorted(name for name in sys.modules if name.split(".")[0] == "mindvl")
assert not ours, ours
print("done")
"""


def test_every_callback_works_in_a_project_that_knows_nothing_of_mindvl(tmp_path):
    script = tmp_path / "project.py"
    script.write_text(PROJECT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
