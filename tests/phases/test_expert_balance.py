"""Experts are kept busy by what they really did; loads are logged, biases move, and a resumed run knows it."""

import lightning as L
import pytest
import torch

from mindvl.cli.quiet import quiet_lightning
from mindvl.data.module import PackedShards, Source
from mindvl.data.pack import pack_samples
from mindvl.model.moe import routers_of
from mindvl.phases import ExpertBalance, InstructionTuning, LanguageOnly, Multitask, Rates, WarmUp


def test_loads_are_of_real_tokens_and_the_bias_moves_by_their_sign(
    start_experts, samples, pack, fit_packs, heard, loads_of
):
    phase = start_experts(bias_update_speed=0.25)
    with torch.no_grad():
        _, records = heard(phase.model, pack(*samples))
    loads = loads_of(records)
    padded = [
        pack_samples(
            part, token_budget=4096, merge=2, window_tokens=2, fixed_shapes=True, hole_tokens=(33,), hole_token_id=5
        )
        for part in (samples[:3], samples[3:])
    ]
    assert len(padded[0].input_ids) == 4096 and loads[0].sum() == 2 * pack(*samples).num_tokens
    fit_packs(phase, padded, log_every_n_steps=1)
    for layer, router in routers_of(phase.model).items():
        mean = loads[layer].float().mean()
        assert torch.equal(router.e_score_correction_bias, 0.25 * torch.sign(mean - loads[layer]))
        logged = phase.trainer.callback_metrics[f"experts/layer_{layer:02d}/load_max_over_mean"]
        assert logged.item() == pytest.approx((loads[layer].max() / mean).item())


def test_what_is_logged_is_split_into_text_and_picture_tokens_and_averaged_over_layers(
    start_experts, samples, pack, fit_packs, heard, loads_of
):
    phase, batch = start_experts(bias_update_speed=0.001), pack(*samples)
    with torch.no_grad():
        _, records = heard(phase.model, batch)
    is_picture = torch.zeros(batch.num_tokens, dtype=torch.bool)
    is_picture[batch.image_index] = True
    fit_packs(phase, [batch], log_every_n_steps=1)
    logged = {name: value.item() for name, value in phase.trainer.callback_metrics.items()}
    for kind, tokens in (("", slice(None)), ("text/", ~is_picture), ("picture/", is_picture)):
        loads = loads_of(records, tokens).double()
        relative = loads / loads.mean(1, keepdim=True)
        share = loads / loads.sum(1, keepdim=True)
        expected = {
            "load_max_over_mean": relative.amax(1),
            "load_cv": relative.std(1, correction=0),
            "dead_ratio": (loads == 0).double().mean(1),
            "entropy_ratio": -torch.xlogy(share, share).sum(1) / torch.log(torch.tensor(8.0)),
        }
        for name, layers in expected.items():
            assert logged[f"experts/{kind}{name}"] == pytest.approx(layers.mean().item(), rel=1e-5)
            for layer in range(2):
                key = f"experts/layer_{layer:02d}/{kind}{name}"
                assert logged[key] == pytest.approx(layers[layer].item(), rel=1e-5), key
    worst = max(logged["experts/layer_00/load_max_over_mean"], logged["experts/layer_01/load_max_over_mean"])
    assert logged["experts/worst_layer/load_max_over_mean"] == worst
    assert logged["experts/layer_01/bias_range"] == pytest.approx(0.002)


def test_a_report_covers_all_tokens_since_the_last_and_kinds_that_were_not_there_are_left_out(
    start_experts, samples, pack, fit_packs, heard, loads_of
):
    phase = start_experts(family="qwen3_moe")
    text = pack(samples[1])
    with torch.no_grad():
        _, records = heard(phase.model, text)
    seen = []
    phase.log_dict = lambda found: seen.append(found) if any("experts" in name for name in found) else None
    phase.rates.language = phase.rates.vision = phase.rates.projector = 0.0  # nothing moves
    fit_packs(phase, [text] * 5, accumulate=1, max_steps=5, log_every_n_steps=2)
    assert len(seen) == 2, "after steps 2 and 4 of 5"
    loads = loads_of(records).float()
    for found in seen:
        assert not any("picture" in name for name in found) and "experts/layer_00/bias_range" not in found
        assert found["experts/text/load_cv"] == found["experts/load_cv"]
        assert found["experts/layer_01/load_max_over_mean"] == pytest.approx((loads[1].max() / loads[1].mean()).item())
    assert phase.balancer.state_dict()["counts"].sum() == 2 * loads.sum() / 2  # two layers of the fifth step


def test_biases_bring_a_router_that_favours_two_experts_toward_balance(
    start_experts, samples, pack, fit_packs, heard, loads_of
):
    batch = pack(*samples)
    worst = {}
    for name, speed in (("with", 0.02), ("without", None)):
        phase = start_experts(bias_update_speed=speed, rates=Rates(language=1e-5, vision=1e-5, projector=1e-5))
        for router in routers_of(phase.model).values():
            router.e_score_correction_bias[:2] = 0.4  # nearly all tokens go there
        before = loads_of(heard(phase.model, batch)[1]).float()
        fit_packs(phase, [batch] * 60, accumulate=1, max_steps=60)
        after = loads_of(heard(phase.model, batch)[1]).float()
        worst[name] = (before.amax(1) / before.mean(1)).max().item(), (after.amax(1) / after.mean(1)).max().item()
    assert worst["with"][0] > 3 and worst["with"][1] < 1.5
    assert worst["without"][1] > 3


def test_a_frozen_router_keeps_its_gate_and_bias_while_the_experts_learn(start_experts, samples, pack, fit_packs):
    phase = start_experts(freeze_router=True, sequence_loss=0.1, rates=Rates(warmup_steps=0))
    before = {name: tensor.clone() for name, tensor in phase.model.state_dict().items()}
    record = fit_packs(phase, [pack(*samples)])
    assert not any("mlp.gate.weight" in name for name in record.gradients)
    after = phase.model.state_dict()
    gates = [name for name in after if ".mlp.gate." in name]
    assert len(gates) == 4 and all(torch.equal(after[name], before[name]) for name in gates)
    experts = [name for name in after if name.endswith("experts.gate_up_proj")]
    assert len(experts) == 2 and not any(torch.equal(after[name], before[name]) for name in experts)


def test_biases_stay_when_a_gradient_is_not_finite(start_experts, samples, pack, fit_packs):
    phase = start_experts(bias_update_speed=0.01)
    with torch.no_grad():
        phase.model.vision.merger.mlp[2].bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="gradient norm is nan"):
        fit_packs(phase, [pack(*samples)])
    assert not any(router.e_score_correction_bias.any() for router in routers_of(phase.model).values())


def test_experts_change_nothing_when_all_is_off(start_experts, samples, pack, fit_packs):
    watched = fit_packs(start_experts(), [pack(*samples)])
    phase = start_experts()
    phase.experts = None
    alone = fit_packs(phase, [pack(*samples)])
    assert watched.losses == alone.losses
    assert all(torch.equal(gradient, alone.gradients[name]) for name, gradient in watched.gradients.items())


@pytest.mark.parametrize(
    ("kind", "family", "settings", "message"),
    [
        (
            Multitask,
            "qwen3_moe",
            {"bias_update_speed": 0.001},
            r"speed is 0.001, but the router of qwen3_moe has no e_score",
        ),
        (
            WarmUp,
            "deepseek_v3",
            {"bias_update_speed": 0.001},
            r"is 0.001, but this phase does not train the language model",
        ),
        (Multitask, "qwen3", {"z_loss": 0.001}, r"language.model_type qwen3 has no router that we know"),
    ],
)
def test_what_cannot_be_balanced_is_refused_by_name(kind, family, settings, message, make_spec, mixtures):
    phase = kind(make_spec(language=mixtures.get(family, {})), experts=ExpertBalance(**settings))
    with pytest.raises(ValueError, match=message):
        phase.configure_model()


def test_a_frozen_router_with_moving_biases_and_negative_weights_are_refused():
    with pytest.raises(ValueError, match=r"freeze_router is true, but experts.bias_update_speed is 0.001"):
        ExpertBalance(freeze_router=True, bias_update_speed=0.001)
    with pytest.raises(ValueError, match=r"experts.z_loss is -0.1"):
        ExpertBalance(z_loss=-0.1)


@pytest.mark.parametrize("kind", [Multitask, InstructionTuning, LanguageOnly, WarmUp], ids=lambda kind: kind.__name__)
def test_every_phase_takes_experts(kind, start_experts, samples, pack, fit_packs):
    phase = start_experts(kind, sequence_loss=1e-4)
    fit_packs(phase, [pack(*samples)], log_every_n_steps=1)
    assert 0 < phase.trainer.callback_metrics["experts/entropy_ratio"] <= 1


class Watch(L.Callback):
    """Losses and reports of every step; stops after step `stop`, leaving a checkpoint."""

    def __init__(self, file, stop=None):
        self.file, self.stop, self.seen = file, stop, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.fit_loop._should_accumulate():
            return
        metrics = trainer.callback_metrics
        names = ("train/loss", *(("experts/load_cv", "experts/z_loss") if trainer.global_step % 2 == 0 else ()))
        self.seen.append([metrics[name].item() for name in names])
        if trainer.global_step == self.stop:
            trainer.save_checkpoint(self.file)
            trainer.should_stop = True


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_has_bit_equal_losses_loads_and_biases(stop, start_experts, corpus, make_trainer, tmp_path):
    quiet_lightning()
    file = tmp_path / "stopped.ckpt"

    def run(*, stop=None, seed=0, resume=False):
        sources = {name: Source(str(corpus / "train" / f"{name}-*.tar")) for name in ("ocr", "text")}
        shards = PackedShards(sources, sequence_length=256, workers=0)
        settings = {"sequence_loss": 0.01, "global_loss": 0.01, "z_loss": 0.01, "bias_update_speed": 0.01}
        phase, watch = start_experts(seed=seed, **settings), Watch(file, stop)
        trainer = make_trainer(
            max_steps=4, accumulate_grad_batches=2, callbacks=(watch,), limit_val_batches=0, log_every_n_steps=2
        )
        trainer.fit(phase, shards, ckpt_path=str(file) if resume else None)
        return watch.seen, phase.model.state_dict()

    whole, weights = run()
    before, _ = run(stop=stop)
    after, resumed = run(seed=1, resume=True)
    assert before + after == whole and len(whole) == 4
    for name, tensor in weights.items():
        assert torch.equal(tensor, resumed[name]), name
    biases = [tensor for name, tensor in weights.items() if name.endswith("e_score_correction_bias")]
    assert len(biases) == 2 and all(bias.any() for bias in biases)
