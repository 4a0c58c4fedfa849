"""The callbacks in a project that knows nothing of MindVL: the README's code, the wheel, no checkout in sight."""

import ast
import importlib
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import lightning as L
import mindvl_callbacks
import pytest

ROOT = Path(__file__).parents[2]
(BLOCK,) = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "callbacks" / "README.md").read_text(encoding="utf-8"), flags=re.M | re.S
)
SCREEN_LINES = 70
"""As many as a screen shows of the README's code."""

PRELUDE = """
import sys
import warnings
site, libraries = sys.argv[1:]
sys.path[:0] = [site]
sys.path.append(libraries)
warnings.filterwarnings("ignore")
"""
CHECKS = """
import csv
import json
from pathlib import Path

throughput, packing, routing, search, averaging = callbacks[:5]  # Lightning has put its own behind them
(log,) = Path("logs").glob("*/*/metrics.csv")
with log.open() as file:
    logged = {name for row in csv.DictReader(file) for name, value in row.items() if value}
assert {"throughput/rows_per_s", "throughput/step_s", "packing/fill_ratio", "packing/waste_unfilled_ratio",
        "packing/predicted_cost_max_over_mean", "routing/same_again",
        "resolution/brightest/difference"} <= logged, logged
summary = packing.summary()
assert (summary["packs"], summary["fill_ratio"], summary["attention_area_ratio"]) == (160, 0.75, 0.53125), summary
assert 0 < trainer.callback_metrics["routing/same_again"] < 1
assert 0 < forward_s < 60

found = search.results["brightest"]
assert (found.default.max_pixels, found.chosen.max_pixels) == (16, 64), found
assert found.difference.low > 0.3 and found.cost.num_scored == 40, found

record = json.loads(Path("mean/averaging.json").read_text())
assert record["steps"] == [112, 128, 144, 160], record

# The tools that the callbacks share, on the run's own snapshots.
from safetensors.torch import load_file

snapshots = sorted(Path("mean.snapshots").glob("step-*/rank-00000.safetensors"))
states = [load_file(path) for path in snapshots]
mean = load_file("mean/model.safetensors")
by_hand = {key: torch.stack([state[key] for state in states]).mean(0) for key in mean}
for again in (mc.average_state_dicts([str(path) for path in snapshots], load_file), mean):
    for key, value in by_hand.items():
        torch.testing.assert_close(again[key], value)
mc.average_checkpoints(snapshots, "again")
assert all(torch.equal(tensor, mean[key]) for key, tensor in load_file("again/model.safetensors").items())
Path("steps.py").write_text("import sys; print(sum(f'step-00000{n}' in sys.argv[1] for n in (112, 128)))")
soup = mc.greedy_soup(snapshots, "soup", score=mc.command_score(f"{sys.executable} steps.py {{model}}"))
assert soup["method"] == "greedy soup" and "step-00000112" in soup["trials"][0]["path"], soup

cache = mc.ScoreCache("scores", "as-trained")
result = mc.search_resolution(
    pictures[:20], pictures[20:], budgets=mc.budget_grid([1], [16, 64, 256]), grid_of=search.grid_of, cache=cache,
    score=lambda samples, budget: score(module, samples, budget),
)["brightest"]
assert isinstance(result, mc.ResolutionResult) and isinstance(result.chosen, mc.BudgetScore)
assert result.chosen == found.chosen and len(mc.ScoreCache("scores", "as-trained").read()) == 80
assert mc.draw_resolution_curve({"brightest": result}).axes

ours = sorted(name for name in sys.modules if name.partition(".")[0] == "mindvl")
assert not ours, ours
from_elsewhere = [name for name, module in sys.modules.items()
                  if name.startswith("mindvl_callbacks") and not module.__file__.startswith(site)]
assert not from_elsewhere, from_elsewhere
print("done")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder that the wheel was installed into: what pip does with a wheel of plain Python is to unpack it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, ROOT / "tests" / "build_wheel.py", folder]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_python(code: str, site: Path, folder: Path) -> subprocess.CompletedProcess:
    """Run in `folder` with the wheel and the installed libraries; -I and -S leave out all that leads to a checkout."""
    script = folder / "project.py"
    script.write_text(PRELUDE + code)
    command = [sys.executable, "-I", "-S", script, site, sysconfig.get_paths()["purelib"]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_code_of_the_readme_runs_in_a_project_that_knows_nothing_of_mindvl(site, tmp_path):
    done = run_python(BLOCK + CHECKS, site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")


def test_all_that_the_package_offers_is_used_by_this_project_and_every_callback_by_the_readme():
    used = set(re.findall(r"\bmc\.(\w+)", BLOCK + CHECKS))
    assert used == set(mindvl_callbacks.__all__), "what is new belongs into the README's code or the checks above"
    offered = {name: getattr(mindvl_callbacks, name) for name in mindvl_callbacks.__all__}
    callbacks = {name for name, it in offered.items() if isinstance(it, type) and issubclass(it, L.Callback)}
    assert callbacks == set(re.findall(r"\bmc\.(\w+)\(", BLOCK)) & callbacks and len(callbacks) == 5


def test_the_code_of_the_readme_fits_on_a_screen():
    lines = BLOCK.splitlines()
    assert len(lines) <= SCREEN_LINES and max(map(len, lines)) <= 120


def test_importing_the_package_or_a_tool_for_files_does_not_import_lightning(site, tmp_path):
    look = "import mindvl_callbacks; mindvl_callbacks.average_checkpoints; print('lightning' in sys.modules)"
    done = run_python(look, site, tmp_path)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_type_checkers_are_shown_the_names_that_the_package_loads():
    tree = ast.parse((ROOT / "callbacks" / "__init__.py").read_text(encoding="utf-8"))
    (shown,) = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {it.asname: (node.module, it.name) for node in shown.body for it in node.names}
    assert homes == {name: (mindvl_callbacks._HOME[name], name) for name in mindvl_callbacks.__all__}


def test_every_name_is_listed_and_an_unknown_one_is_an_attribute_error():
    assert set(mindvl_callbacks.__all__) <= set(dir(mindvl_callbacks))
    with pytest.raises(AttributeError, match="'mindvl_callbacks' has no attribute 'Throughput'"):
        _ = mindvl_callbacks.Throughput
    for name, home in mindvl_callbacks._HOME.items():
        assert getattr(importlib.import_module(f"mindvl_callbacks.{home}"), name) is getattr(mindvl_callbacks, name)
