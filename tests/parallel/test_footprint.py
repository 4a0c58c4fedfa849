"""What a plan says that a rank holds is what a rank of a real world holds, to the byte."""

import pytest
import torch

from mindvl.parallel.precision import ShardedPrecision
from mindvl.parallel.pretend import join_pretended, pretend_world
from mindvl.parallel.strategy import MindVLStrategy
from mindvl.phases.activations import Course
from mindvl.phases.footprint import footprint, sharded
from mindvl.phases.miniature import full_pack, miniature, on_meta, sizes_of

TOWER = {"depth": 5, "hidden_size": 64, "num_heads": 2, "intermediate_size": 96, "fullatt_block_indexes": [2, 4]}
SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 5, "num_attention_heads": 4, "head_dim": 16}
FAMILIES = {
    "dense": {"model_type": "qwen3", **SIZES, "num_key_value_heads": 2},
    "experts": {
        "model_type": "deepseek_v3",
        **SIZES,
        "head_dim": 8,
        "num_key_value_heads": 4,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 2,
    },
}
EVERYTHING = ("vision", "projector", "language")
CASES = {
    2: [
        ("dp2", "qwen3", {}, "32-true", EVERYTHING),
        ("odd", "qwen3-odd", {}, "bf16-mixed", EVERYTHING),
        ("tp2", "qwen3", {"tensor": 2}, "32-true", EVERYTHING),
        ("ep2", "deepseek_v3", {"expert": 2}, "bf16-mixed", EVERYTHING),
        ("projector", "deepseek_v3", {"expert": 2}, "32-true", ("projector",)),
    ],
    4: [
        ("copies2 x dp2", "qwen3", {"replicate": 2}, "32-true", EVERYTHING),
        ("dp2 x tp2 x ep2", "deepseek_v3", {"expert": 2, "tensor": 2}, "bf16-true", EVERYTHING),
        ("dp4 x ep2", "qwen3_moe", {"expert": 2}, "bf16-mixed", EVERYTHING),
        ("dp2 x cp2 x ep4", "deepseek_v3", {"expert": 4, "context": 2}, "bf16-mixed", EVERYTHING),
    ],
}
STEPS = {
    1: [
        (f"step {model} {how}", model, {"recompute": how})
        for model in FAMILIES
        for how in ("none", "selective", "full")
    ],
    2: [
        ("step tp2", "qwen3", {"tensor": 2}),
        ("step cp2", "qwen3", {"context": 2, "recompute": "full"}),
        ("step ep2", "deepseek_v3", {"expert": 2}),
    ],
    4: [("step tp2 x ep4", "deepseek_v3", {"tensor": 2, "expert": 4, "recompute": "selective"})],
}
EVERY = [(ranks, case) for ranks, cases in CASES.items() for case in cases]


@pytest.fixture(scope="module")
def every_spec(specs, make_spec):
    deep = {name: make_spec(tokenizer="bytes", language=fields, vision=TOWER) for name, fields in FAMILIES.items()}
    return {**specs, **deep}


@pytest.fixture(scope="module")
def held(tmp_path_factory, every_spec, run_script):
    folder = tmp_path_factory.mktemp("footprint")
    for name, spec in every_spec.items():
        torch.save(spec, folder / f"{name}.spec")
    torch.save(CASES, folder / "cases")
    torch.save(STEPS, folder / "steps")
    done = run_script("footprint_ranks.py", str(folder))
    assert done.returncode == 0, done.stderr[-6000:]
    return lambda name, rank, ending="result": torch.load(folder / f"{name}.{rank}.{ending}", weights_only=False)


def planned(spec, ranks, mesh, precision, trains, *, tokens=64):
    config = sizes_of(spec)
    strategy = MindVLStrategy(**mesh)
    strategy.precision_plugin = ShardedPrecision(precision)
    pack = full_pack(config, tokens=tokens, patch_budget=4 * tokens, visual_ratio=0.5, supervised_ratio=0.25)
    with pretend_world(ranks):
        join_pretended(strategy)
        return footprint(on_meta(config, trains), pack, strategy, packs_per_rank=1, on_accelerator=False)


@pytest.mark.parametrize(("ranks", "case"), EVERY, ids=[case[0] for _, case in EVERY])
def test_a_plan_knows_the_slices_of_every_rank(ranks, case, held, specs):
    name, model, mesh, precision, trains = case
    for rank in (0, ranks - 1):
        strategy = MindVLStrategy(**mesh)
        strategy.precision_plugin = ShardedPrecision(precision)
        with pretend_world(ranks, rank=rank):
            join_pretended(strategy)
            small = miniature(on_meta(sizes_of(specs[model]), trains))
            found = sharded(small, strategy, Course(), packs_per_rank=1)
        for column, bytes_by_owner in held(name, rank).items():
            assert +getattr(found, column) == +bytes_by_owner, column


@pytest.mark.parametrize(("ranks", "case"), [(ranks, case) for ranks, cases in STEPS.items() for case in cases])
def test_activations_are_those_of_a_tracked_step(ranks, case, held, every_spec):
    """Routers send a rank a few rows more or less than its even share, which is what is planned."""
    name, model, mesh = case
    found = planned(every_spec[model], ranks, mesh, "32-true", EVERYTHING, tokens=256).activations.total()
    mean_bytes = sum(held(name, rank, "step") for rank in range(ranks)) / ranks
    assert found == pytest.approx(mean_bytes, rel=0.1)


def test_ranks_that_share_more_hold_less_and_send_more(specs):
    fewer, more = (planned(specs["qwen3"], ranks, {}, "32-true", EVERYTHING) for ranks in (2, 4))
    assert more.parameters.total() < 0.6 * fewer.parameters.total()
    assert more.sent.total() > fewer.sent.total()


def test_every_kind_of_mesh_sends_what_is_its_own(specs):
    mesh = {"expert": 4, "context": 2, "tensor": 2, "replicate": 2}
    sent = planned(specs["deepseek_v3"], 16, mesh, "bf16-mixed", EVERYTHING).sent
    kinds = {kind: size for kind, size, _ in sent}
    assert kinds["all-gather of parameters"] == 2 or kinds["all-gather of parameters"] == 4
    assert kinds["all-to-all of experts"] == 4
    assert kinds["all-to-all of tower"] == kinds["all-to-all of dense layers"] == 2
    assert kinds["all-reduce of gradients"] == 2
    assert kinds["all-reduce of dense layers"] == 2


def test_an_exchange_of_experts_is_worked_out_by_hand(specs):
    """64 tokens choose 2 of 8 experts; half of 128 rows of 32 numbers goes to the other rank, and comes back."""
    found = planned(specs["deepseek_v3"], 2, {"expert": 2}, "32-true", EVERYTHING)
    rows_bytes = 128 * 32 * 4
    layers, ways, passes = 1, 2, 2
    sent = {kind: size for (kind, _, _), size in found.sent.items()}
    assert sent["all-to-all of experts"] == layers * ways * passes * rows_bytes // 2


def test_a_frozen_language_model_costs_no_gradients_and_a_frozen_tower_no_activations(specs):
    warm_up = planned(specs["qwen3"], 2, {}, "32-true", ("projector",))
    assert set(+warm_up.gradients) == set(+warm_up.optimizer) == {"projector"}
    everything = planned(specs["qwen3"], 2, {}, "32-true", EVERYTHING)
    assert warm_up.activations["tower"] < 0.2 * everything.activations["tower"]
    assert warm_up.rank_flops < everything.rank_flops


def test_recomputing_costs_arithmetic_and_packs_add_up(specs):
    none, full = (planned(specs["qwen3"], 2, {"recompute": how}, "32-true", EVERYTHING) for how in ("none", "full"))
    assert none.rank_flops == none.model_flops / 2
    assert 1.2 * none.rank_flops < full.rank_flops < 4 / 3 * none.rank_flops
    assert (full.model_flops, full.tokens) == (none.model_flops, none.tokens) == (none.model_flops, 2 * 64)


@pytest.mark.parametrize(
    ("model", "ranks", "mesh", "complaint"),
    [
        ("qwen3", 4, {"shard": 3}, "shard 3 x context 1 x tensor 1 is 3, but there are 4 ranks"),
        ("qwen3", 4, {"expert": 2}, "strategy.expert is 2, but the language model has no experts"),
        ("deepseek_v3", 6, {"expert": 3}, "strategy.expert is 3, but the language model has 8 experts per layer"),
        ("qwen3-odd", 4, {"tensor": 2}, "strategy.tensor is 2, which does not divide 3 attention heads"),
        ("qwen3-odd", 4, {"context": 2}, "2 ranks do not divide 3 attention heads"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(model, ranks, mesh, complaint, specs):
    with pytest.raises(ValueError, match=complaint):
        planned(specs[model], ranks, mesh, "32-true", EVERYTHING)
