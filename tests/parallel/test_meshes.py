"""On every mesh that fits 2 or 4 ranks, a fit is that of a single process: losses, gradient norms, weights.

Packs 1 and 3 of every step hold no picture, so that some ranks have none.
"""

import pytest
import torch

DENSE = {
    "dp2": {},
    "copies2": {"replicate": 2, "shard": 1},
    "tp2": {"tensor": 2},
    "copies2 x dp2": {"replicate": 2},
    "tp2 x dp2": {"tensor": 2, "recompute": "full"},
}
SPARSE = {
    "ep2": {"expert": 2},
    "dp2 x ep2": {"expert": 2, "recompute": "full"},
    "copies2 x ep2": {"expert": 2, "replicate": 2},
    "tp2 x dp2 x ep4": {"expert": 4, "tensor": 2, "recompute": "selective"},
}
WORLD_OF_2 = ("dp2", "copies2", "tp2", "ep2")
BALANCE = {"bias_update_speed": 0.001, "sequence_loss": 0.01, "z_loss": 0.001}
"""Without the global loss, which while packs accumulate knows of the earlier ones only."""


def case(name, model, mesh=None, **fields):
    """What harness.Case takes."""
    return {"name": name, "model": model, "mesh": mesh, **fields}


def cases():
    """By world size; the name of a mesh's case is "model mesh", that of a single process "model"."""
    found = {1: [], 2: [], 4: []}
    for model, meshes in {
        "qwen3": DENSE,
        "deepseek_v3": SPARSE,
        "qwen3_moe": {"dp2 x ep2": SPARSE["dp2 x ep2"]},
    }.items():
        experts = {**BALANCE, "bias_update_speed": None} if model == "qwen3_moe" else BALANCE
        settings = {} if model == "qwen3" else {"experts": experts}
        found[1].append(case(model, model, **settings))
        for name, mesh in meshes.items():
            world = 2 if name in WORLD_OF_2 else 4
            found[world].append(case(f"{model} {name}", model, mesh, **settings))
    bf16 = {"trainer": {"precision": "bf16-mixed"}, "experts": BALANCE}
    found[1] += [case("warm-up", "deepseek_v3", phase="warm-up"), case("adam", "deepseek_v3", adam=True)]
    found[1] += [case("bf16", "deepseek_v3", **bf16)]
    mixed = {"expert": 2, "tensor": 2}
    found[4] += [
        case("warm-up tp2 x dp2 x ep2", "deepseek_v3", mixed, phase="warm-up"),
        case("adam tp2 x dp2 x ep2", "deepseek_v3", mixed, adam=True),
        case("bf16 tp2 x dp2 x ep2", "deepseek_v3", mixed, **bf16),
    ]
    return found


CASES = cases()
SHARDED = [found["name"] for world in (2, 4) for found in CASES[world]]
EXACT = [name for name in SHARDED if not name.startswith("bf16")]


@pytest.fixture(scope="module")
def results(tmp_path_factory, specs, step_packs, run_script):
    folder = tmp_path_factory.mktemp("meshes")
    for name, spec in specs.items():
        torch.save(spec, folder / f"{name}.spec")
    torch.save(step_packs, folder / "packs")
    torch.save(CASES, folder / "cases")
    run = run_script("mesh_ranks.py", str(folder))
    assert run.returncode == 0, run.stderr[-6000:]
    return lambda name, rank=0: torch.load(folder / f"{name}.{rank}.result")


def alone(name):
    return name.split()[0]


@pytest.mark.parametrize("name", SHARDED)
def test_a_mesh_starts_with_the_weights_of_a_single_process(name, results):
    ours, theirs = results(name)["first"], results(alone(name))["first"]
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


@pytest.mark.parametrize("name", EXACT)
def test_losses_and_gradient_norms_of_every_step_are_those_of_a_single_process(name, results):
    ours, theirs = results(name), results(alone(name))
    assert len(ours["losses"]) == 2
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
    assert ours["norms"] == pytest.approx(theirs["norms"], rel=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_weights_after_two_steps_are_those_of_a_single_process(name, results):
    ours, theirs = results(name), results(alone(name))
    moved = 0
    for key, weight in ours["weights"].items():
        moved += not torch.equal(weight, ours["first"][key])
        assert (weight - theirs["weights"][key]).abs().max() <= 1e-5, key
    assert moved >= (5 if name.startswith("warm-up") else 0.9 * len(ours["weights"]))


def test_a_mesh_in_bf16_is_as_close_as_bf16_is(results):
    ours, theirs = results("bf16 tp2 x dp2 x ep2"), results("bf16")
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=2e-3)
    assert ours["norms"] == pytest.approx(theirs["norms"], rel=1e-2)


@pytest.mark.parametrize("name", SHARDED)
def test_all_ranks_report_the_same(name, results):
    ranks = 2 if name in [found["name"] for found in CASES[2]] else 4
    first = results(name)
    for rank in range(1, ranks):
        other = results(name, rank)
        assert (other["losses"], other["norms"]) == (first["losses"], first["norms"])
        assert all(torch.equal(weight, first["weights"][key]) for key, weight in other["weights"].items())


@pytest.mark.parametrize("name", [name for name in SHARDED if name.startswith(("deepseek_v3", "qwen3_moe"))])
def test_loads_of_experts_count_every_token_once(name, results):
    ours, theirs = results(name)["logged"], results(alone(name))["logged"]
    loads = [key for key in theirs if key.startswith("experts/")]
    assert len(loads) > 10
    assert [ours[key] for key in loads] == pytest.approx([theirs[key] for key in loads], rel=1e-4, abs=1e-7)
