"""Ranks that share the tokens and patches of a pack leave what a single process leaves: losses, norms, weights.

Packs 1 and 3 of every step hold no picture; those of the step have between 8 and 50 tokens.
"""

from dataclasses import replace

import pytest
import torch

MESHES = {
    "qwen3": {
        "cp2": {"context": 2},
        "cp2 x dp2": {"context": 2, "recompute": "selective"},
        "cp2 x tp2": {"context": 2, "tensor": 2},
        "cp4": {"context": 4},
    },
    "deepseek_v3": {
        "cp2": {"context": 2, "recompute": "full"},
        "cp2 x dp2 x ep2": {"context": 2, "expert": 2, "recompute": "selective"},
    },
}
BALANCE = {"bias_update_speed": 0.001, "sequence_loss": 0.01, "z_loss": 0.001}


def case(name, model, mesh=None, **fields):
    """What harness.Case takes."""
    settings = {"experts": BALANCE} if model == "deepseek_v3" else {}
    return {"name": name, "model": model, "mesh": mesh, **settings, **fields}


def cases():
    """By world size; the name of a mesh's case is "model mesh", that of a single process "model"."""
    found = {1: [], 2: [], 4: []}
    for model, meshes in MESHES.items():
        found[1].append(case(model, model))
        for name, mesh in meshes.items():
            found[2 if name == "cp2" else 4].append(case(f"{model} {name}", model, mesh))
    found[1].append(case("warm-up", "qwen3", phase="warm-up"))
    found[2].append(case("warm-up cp2", "qwen3", {"context": 2}, phase="warm-up"))
    return found


CASES = cases()
SHARED = [found["name"] for world in (2, 4) for found in CASES[world]]


@pytest.fixture(scope="module")
def results(tmp_path_factory, specs, step_packs, run_script):
    folder = tmp_path_factory.mktemp("context")
    for name in MESHES:
        spec = replace(specs[name], vision={**specs[name].vision, "num_heads": 4})
        if name == "qwen3":  # key-value heads that are fewer than the ranks
            spec.language = {**spec.language, "num_key_value_heads": 2}
        torch.save(spec, folder / f"{name}.spec")
    torch.save(step_packs, folder / "packs")
    torch.save(CASES, folder / "cases")
    run = run_script("mesh_ranks.py", str(folder))
    assert run.returncode == 0, run.stderr[-6000:]
    return lambda name, rank=0: torch.load(folder / f"{name}.{rank}.result")


@pytest.mark.parametrize("name", SHARED)
def test_losses_norms_and_weights_are_those_of_a_single_process(name, results):
    ours, theirs = results(name), results(name.split()[0])
    assert len(ours["losses"]) == 2
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
    assert ours["norms"] == pytest.approx(theirs["norms"], rel=1e-5)
    moved = 0
    for key, weight in ours["weights"].items():
        moved += not torch.equal(weight, ours["first"][key])
        assert (weight - theirs["weights"][key]).abs().max() <= 1e-5, key
    assert moved >= (5 if name.startswith("warm-up") else 0.9 * len(ours["weights"]))


@pytest.mark.parametrize("name", SHARED)
def test_all_ranks_report_the_same(name, results):
    first = results(name)
    for rank in range(1, 2 if name.endswith(" cp2") else 4):
        other = results(name, rank)
        assert (other["losses"], other["norms"]) == (first["losses"], first["norms"])
        assert all(torch.equal(weight, first["weights"][key]) for key, weight in other["weights"].items())


@pytest.mark.parametrize("name", [name for name in SHARED if name.startswith("deepseek_v3")])
def test_loads_and_losses_of_experts_count_every_token_once(name, results):
    ours, theirs = results(name)["logged"], results("deepseek_v3")["logged"]
    logged = [key for key in theirs if key.startswith("experts/")]
    assert len(logged) > 10
    assert [ours[key] for key in logged] == pytest.approx([theirs[key] for key in logged], rel=1e-4, abs=1e-7)
