import pytest

from mindvl.model.parts import part_of, train_only
from mindvl.phases.schedule import Rates, parameter_groups, warmup_cosine


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 0.2), (1, 0.4), (3, 0.8), (4, 1.0), (8, 0.55), (12, 0.1), (13, 0.1), (100, 0.1)],
)
def test_the_rate_rises_to_its_peak_and_falls_along_a_cosine_to_its_floor(step, share):
    assert warmup_cosine(step, warmup_steps=4, total_steps=12, floor_ratio=0.1) == pytest.approx(share)


def test_a_quarter_of_the_cosine_is_where_the_formula_says():
    half = 2**-0.5
    assert warmup_cosine(1, warmup_steps=0, total_steps=4, floor_ratio=0.0) == pytest.approx((1 + half) / 2)


def test_without_warmup_the_first_step_has_the_peak_rate():
    assert warmup_cosine(0, warmup_steps=0, total_steps=10, floor_ratio=0.1) == 1.0


def test_no_step_has_a_rate_of_zero():
    assert all(warmup_cosine(step, warmup_steps=5, total_steps=5, floor_ratio=0.05) > 0 for step in range(20))


def test_every_trained_parameter_is_in_one_group_of_its_part_and_its_decay(make_model):
    model = make_model()
    groups = parameter_groups(model, Rates(vision=1.0, projector=2.0, language=3.0, weight_decay=0.5))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(names)
    for group in groups:
        part = group["name"].removesuffix("_no_decay")
        assert group["lr"] == {"vision": 1.0, "projector": 2.0, "language": 3.0}[part]
        for parameter in group["params"]:
            name = names[id(parameter)]
            decays = parameter.ndim >= 2 and "embed_tokens" not in name
            assert part_of(name) == part and group["weight_decay"] == (0.5 if decays else 0.0)
            assert group["name"].endswith("_no_decay") != decays


def test_norms_biases_and_embeddings_do_not_decay(make_model):
    model = make_model(language={"tie_word_embeddings": False})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {
        names[id(parameter)]
        for group in parameter_groups(model, Rates())
        for parameter in group["params"]
        if group["weight_decay"]
    }
    assert "language_model.lm_head.weight" in decaying and "vision.patch_embed.proj.weight" in decaying
    assert not any("norm" in name or name.endswith("bias") or "embed_tokens" in name for name in decaying)


def test_frozen_parameters_are_in_no_group(make_model):
    model = make_model()
    train_only(model, ["projector"])
    assert {group["name"] for group in parameter_groups(model, Rates())} == {"projector", "projector_no_decay"}


def test_a_phase_that_trains_nothing_is_refused(make_model):
    model = make_model()
    train_only(model, [])
    with pytest.raises(ValueError, match="no parameter is trained"):
        parameter_groups(model, Rates())
