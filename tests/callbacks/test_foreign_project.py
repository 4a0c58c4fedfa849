import os
import subprocess
import sys

PROJECT = """
import sys
import warnings
from pathlib import Path
import lightning as L
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
import mindvl_callbacks
from mindvl_callbacks import (
    PackFacts, PackingStatistics, ResolutionSearch, ScoreCache, SearchSample, TokenThroughput, average_state_dicts,
    budget_grid, draw_resolution_curve,
)

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

# A sample's picture has an area of 9; the model is better the more of it is left.
everyone = [SearchSample(str(number), "squares", 9) for number in range(8)]
search = ResolutionSearch(
    lambda module, samples, budget: [module.layer.weight.new_tensor(budget[1] / 9).item() for _ in samples],
    grid_of=lambda sample, budget: ((min(sample.content, budget[1]), 1),),
    samples=lambda trainer: (everyone[:4], everyone[4:]),
    budgets=budget_grid([1], [4, 9]),
    cache_folder="scores",
)
L.Trainer(callbacks=[search], accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
          enable_model_summary=False, enable_checkpointing=False).validate(BoringModel(), verbose=False)
found = search.results["squares"]
assert (found.chosen.max_pixels, found.chosen.report.score, found.default.max_pixels) == (9, 1.0, 4), found
kept = [ScoreCache("scores", name.name).read() for name in Path("scores").iterdir()]
assert [len(scores) for scores in kept] == [16]
assert draw_resolution_curve(search.results) is not None

assert set(mindvl_callbacks.__all__) == {"BudgetScore", "CheckpointAveraging", "PackFacts", "PackingStatistics",
                                         "ResolutionResult", "ResolutionSearch", "RoutingConsistency", "ScoreCache",
                                         "SearchSample", "TokenThroughput", "average_checkpoints",
                                         "average_state_dicts", "budget_grid", "command_score",
                                         "draw_resolution_curve", "greedy_soup", "search_resolution"
}, "a new callback belongs in this script"
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
