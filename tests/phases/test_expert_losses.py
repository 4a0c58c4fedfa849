"""The auxiliary losses of a mixture of experts are their definition, whatever way a step is split."""

from pathlib import Path

import pytest
import torch

from mindvl.model.moe import routers_of
from mindvl.phases import Rates

FAMILIES = ("qwen3_moe", "deepseek_v3")
SPLITS = {"4x1": (1, 1, 1, 1), "2x2": (2, 2), "1x4": (4,), "3+1": (3, 1), "1+2+1": (1, 2, 1)}


def packs_of(samples, pack, split):
    order = iter(samples)
    return [pack(*(next(order) for _ in range(size))) for size in split]


def shares_of(module, logits):
    if module.__class__.__name__ == "SoftmaxRouter":
        return logits.softmax(-1)
    scores = logits.sigmoid()
    return scores / scores.sum(-1, keepdim=True)


def plain_losses(heard, model, documents, frequencies):
    """Cross-entropy and the three auxiliary losses by their definition, one document at a time, over all supervised.

    `frequencies` (layers, experts) are those of the global loss.
    """
    sums = dict.fromkeys(("cross_entropy", "sequence_loss", "global_loss", "z_loss"), 0.0)
    for batch in documents:
        loss, records = heard(model, batch)
        sums["cross_entropy"] = sums["cross_entropy"] + loss
        for layer, (module, logits, chosen) in enumerate(records):
            mean_shares = shares_of(module, logits).mean(0)
            frequency = torch.bincount(chosen.flatten(), minlength=8).to(logits.dtype) * 8 / chosen.numel()
            means = {
                "sequence_loss": (frequency * mean_shares).sum(),
                "global_loss": (frequencies[layer] * mean_shares).sum(),
                "z_loss": logits.exp().sum(-1).log().square().mean(),
            }
            for name, mean in means.items():
                sums[name] = sums[name] + batch.num_supervised * mean
    supervised = sum(batch.num_supervised for batch in documents)
    return {name: value / supervised for name, value in sums.items()}


def frequencies_of(loads):
    """E / k times the share of tokens that chose each expert (layers, experts)."""
    return loads * 8 / loads.sum(1, keepdim=True)


def assert_same_gradients(ours, theirs, *, ratio):
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() <= ratio * theirs[name].norm(), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", SPLITS)
def test_any_split_gives_the_gradient_of_the_losses_definition_to_1e_9(
    split, family, start_experts, samples, pack, fit_packs, make_model, heard, mixtures
):
    eager = {"experts_implementation": "eager"}  # grouped products have no fp64
    model = make_model(language={**mixtures[family], **eager}).double()
    losses = plain_losses(heard, model, [pack(sample) for sample in samples], torch.zeros(2, 8))
    (losses["cross_entropy"] + 0.3 * losses["sequence_loss"] + 0.2 * losses["z_loss"]).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    phase = start_experts(family=family, experts="eager", sequence_loss=0.3, z_loss=0.2)
    record = fit_packs(phase, packs_of(samples, pack, SPLITS[split]), precision="64-true", log_every_n_steps=1)
    assert_same_gradients(record.gradients, expected, ratio=1e-9)
    logged = phase.trainer.callback_metrics
    assert record.losses == pytest.approx([losses["cross_entropy"].item()]), "train/loss is the cross-entropy alone"
    for name in ("sequence_loss", "z_loss"):
        assert logged[f"experts/{name}"].item() == pytest.approx(losses[name].item() / 2, rel=1e-5)  # layers


@pytest.mark.parametrize("family", FAMILIES)
def test_without_accumulation_the_global_loss_has_the_loads_of_the_whole_step(
    family, start_experts, samples, pack, fit_packs, make_model, heard, loads_of, mixtures
):
    model = make_model(language=mixtures[family])
    frequencies = frequencies_of(loads_of(heard(model, pack(*samples))[1]))
    losses = plain_losses(heard, model, [pack(sample) for sample in samples], frequencies)
    (losses["cross_entropy"] + 0.3 * losses["global_loss"]).backward()
    record = fit_packs(start_experts(family=family, global_loss=0.3), [pack(*samples)])
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_same_gradients(record.gradients, expected, ratio=2e-5)


def test_with_accumulation_the_global_loss_has_the_loads_of_the_step_so_far(
    start_experts, samples, pack, fit_packs, make_model, heard, loads_of, mixtures
):
    model, packs = make_model(language=mixtures["deepseek_v3"]), packs_of(samples, pack, (1, 2, 1))
    so_far = [frequencies_of(loads_of(heard(model, pack(*samples[:number]))[1])) for number in (1, 3, 4)]
    supervised = pack(*samples).num_supervised
    total = 0.0
    for batch, part, frequencies in zip(packs, (samples[:1], samples[1:3], samples[3:]), so_far, strict=True):
        losses = plain_losses(heard, model, [pack(sample) for sample in part], frequencies)
        total = total + batch.num_supervised * (losses["cross_entropy"] + 0.3 * losses["global_loss"])
    (total / supervised).backward()
    record = fit_packs(start_experts(global_loss=0.3), packs)
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_same_gradients(record.gradients, expected, ratio=2e-5)


def test_the_sequence_loss_brings_a_softmax_router_toward_balance(
    start_experts, samples, pack, fit_packs, heard, loads_of
):
    batch, worst = pack(*samples), {}
    for weight in (1.0, None):
        phase = start_experts(family="qwen3_moe", sequence_loss=weight, rates=Rates(warmup_steps=0, floor_ratio=1.0))
        fit_packs(phase, [batch] * 30, accumulate=1, max_steps=30)
        loads = loads_of(heard(phase.model, batch)[1]).float()
        worst[weight] = (loads.amax(1) / loads.mean(1)).max().item()
    assert worst[1.0] < 1.5 < worst[None]


def test_gradient_checkpointing_changes_neither_gradients_nor_counts(start_experts, samples, pack, fit_packs):
    records = []
    for checkpointing in (False, True):
        phase = start_experts(sequence_loss=0.3, global_loss=0.2, bias_update_speed=0.01)
        if checkpointing:
            phase.model.language_model.activation_checkpointing_enable()
        record = fit_packs(phase, packs_of(samples, pack, (2, 2)))
        biases = [router.e_score_correction_bias.clone() for router in routers_of(phase.model).values()]
        records.append((record.gradients, biases))
    (plain, biases), (recomputed, same) = records
    assert_same_gradients(recomputed, plain, ratio=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(biases, same, strict=True)) and biases[0].any()


def test_reentrant_checkpointing_which_would_lose_the_losses_gradient_is_refused(
    start_experts, samples, pack, fit_packs
):
    phase = start_experts(sequence_loss=0.3)
    phase.model.language_model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(RuntimeError, match="logits came without a gradient: checkpointing with use_reentrant=True"):
        fit_packs(phase, [pack(*samples)])


SETTINGS = {
    "biases": {"bias_update_speed": 0.125, "sequence_loss": 0.3, "z_loss": 0.2},
    "global": {"global_loss": 0.3, "bias_update_speed": 0.125},
}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, samples, pack, make_model, mixtures, run_ranks):
    """A folder with what each of two gloo processes kept of a step of one pack per rank, by settings."""
    folder = tmp_path_factory.mktemp("expert_ranks")
    make_model(language=mixtures["deepseek_v3"]).save_pretrained(folder / "model")
    torch.save([[pack(samples[0], samples[2], samples[3])], [pack(samples[1])]], folder / "packs")
    for name, settings in SETTINGS.items():
        torch.save(settings, folder / f"{name}.settings")
    run_ranks(Path(__file__).with_name("expert_ranks.py"), folder, *SETTINGS)
    return folder


@pytest.mark.parametrize("settings", SETTINGS)
def test_two_ranks_have_the_gradients_biases_and_loads_of_one(
    settings, two_ranks, start_experts, samples, pack, fit_packs
):
    phase = start_experts(**SETTINGS[settings])
    record = fit_packs(phase, [pack(*samples)], log_every_n_steps=1)
    biases = [router.e_score_correction_bias for router in routers_of(phase.model).values()]
    logged = {name: v.item() for name, v in phase.trainer.callback_metrics.items() if name.startswith("experts/")}
    for rank in range(2):
        kept = torch.load(two_ranks / f"{settings}.{rank}")
        assert_same_gradients(kept["gradients"], record.gradients, ratio=2e-5)
        assert all(torch.equal(ours, one) for ours, one in zip(kept["biases"], biases, strict=True))
        assert kept["logged"] == pytest.approx(logged, rel=1e-5)
    assert all(bias.any() for bias in biases)
