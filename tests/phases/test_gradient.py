"""One optimizer step over the same samples has the same gradient, however they are split."""

from pathlib import Path

import pytest
import torch

from mindvl.phases import Multitask, Rates

NO_CLIP = Rates(clip_norm=0.0)
SPLITS = {"4x1": (1, 1, 1, 1), "2x2": (2, 2), "1x4": (4,), "3+1": (3, 1), "1+2+1": (1, 2, 1)}


def packs_of(samples, pack, split):
    order = iter(samples)
    return [pack(*(next(order) for _ in range(size))) for size in split]


def assert_same_gradients(ours, theirs, *, ratio=5e-6):
    """Each tensor agrees to `ratio` in relative norm, by default to the rounding of fp32."""
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        difference = (gradient - theirs[name]).norm() / theirs[name].norm()
        assert difference <= ratio, f"{name}: {difference:.1e}"


@pytest.fixture
def reference(make_model, samples, pack):
    """The gradient by its definition: the mean over all supervised tokens, by plain autograd."""
    model, batch = make_model(), pack(*samples)
    (model(packed=batch).loss / batch.num_supervised).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("split", SPLITS)
def test_any_split_into_accumulated_packs_gives_the_gradient_of_the_mean_over_supervised_tokens(
    split, make_spec, with_weights, samples, pack, fit_packs, reference
):
    phase = with_weights(Multitask(make_spec(), rates=NO_CLIP))
    record = fit_packs(phase, packs_of(samples, pack, SPLITS[split]))
    assert_same_gradients(record.gradients, reference)


@pytest.mark.parametrize("split", SPLITS)
def test_beyond_the_rounding_of_fp32_any_split_gives_the_same_gradient_to_1e_9(
    split, make_spec, with_weights, samples, pack, fit_packs, make_model
):
    model, batch = make_model().double(), pack(*samples)
    (model(packed=batch).loss / batch.num_supervised).backward()
    exact = {name: parameter.grad for name, parameter in model.named_parameters()}
    phase = with_weights(Multitask(make_spec(), rates=NO_CLIP))
    record = fit_packs(phase, packs_of(samples, pack, SPLITS[split]), precision="64-true")
    assert_same_gradients(record.gradients, exact, ratio=1e-9)


def test_the_logged_loss_is_the_mean_over_the_supervised_tokens_of_the_step(
    make_spec, with_weights, make_model, samples, pack, fit_packs
):
    batch = pack(*samples)
    with torch.no_grad():
        mean = make_model()(packed=batch).loss.item() / batch.num_supervised
    for split in ((4,), (3, 1), (1, 1, 1, 1)):
        record = fit_packs(with_weights(Multitask(make_spec(), rates=NO_CLIP)), packs_of(samples, pack, split))
        assert record.losses == pytest.approx([mean], rel=1e-6)


def test_a_pack_without_targets_leaves_the_gradient_unchanged(
    make_spec, with_weights, samples, pack, make_sample, fit_packs, reference
):
    import dataclasses

    sample = make_sample("a", "b")
    silent = pack(dataclasses.replace(sample, targets=sample.targets * 0 - 1))
    phase = with_weights(Multitask(make_spec(), rates=NO_CLIP))
    assert_same_gradients(fit_packs(phase, [pack(*samples), silent]).gradients, reference)


def test_a_step_without_any_target_has_zero_gradients_and_loss(make_spec, with_weights, pack, make_sample, fit_packs):
    import dataclasses

    sample = make_sample("a", "b", ((28, 56),))
    silent = pack(dataclasses.replace(sample, targets=sample.targets * 0 - 1))
    record = fit_packs(with_weights(Multitask(make_spec())), [silent])
    assert record.losses == [0.0] and all(gradient.eq(0).all() for gradient in record.gradients.values())


def test_gradients_are_clipped_to_the_norm_of_the_rates_after_they_are_averaged(
    make_spec, with_weights, samples, pack, fit_packs, reference
):
    whole = torch.stack([gradient.norm() for gradient in reference.values()]).norm().item()
    phase = with_weights(Multitask(make_spec(), rates=Rates(clip_norm=whole / 2)))
    clipped = fit_packs(phase, packs_of(samples, pack, (2, 2))).gradients
    assert_same_gradients(clipped, {name: gradient / 2 for name, gradient in reference.items()}, ratio=1e-5)


def test_a_gradient_that_is_not_finite_stops_the_run_before_any_weight_changes(
    make_spec, with_weights, samples, pack, fit_packs
):
    phase = with_weights(Multitask(make_spec()))
    with torch.no_grad():
        phase.model.vision.merger.mlp[2].bias[0] = float("nan")
    before = {name: tensor.clone() for name, tensor in phase.model.state_dict().items()}
    with pytest.raises(FloatingPointError, match=r"gradient norm is nan at step 0 \(rank 0\).*samples: key read it"):
        fit_packs(phase, [pack(*samples)])
    for name, tensor in phase.model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7.0), before[name].nan_to_num(7.0)), name


RANKS = {
    "2 ranks": [[(0, 1)], [(2, 3)]],
    "2 ranks x 2 packs": [[(0,), (1,)], [(2,), (3,)]],
    "2 ranks, one without pictures": [[(0, 2, 3)], [(1,)]],
}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, samples, pack, make_model, run_ranks):
    """A folder with the gradients that each of two gloo processes had in each of the splits."""
    folder = tmp_path_factory.mktemp("two_ranks")
    make_model().save_pretrained(folder / "model")
    for name, ranks in RANKS.items():
        packs = [[pack(*(samples[number] for number in chosen)) for chosen in rank] for rank in ranks]
        torch.save(packs, folder / f"{name}.packs")
    run_ranks(Path(__file__).with_name("two_ranks.py"), folder, *RANKS)
    return folder


@pytest.mark.parametrize("split", RANKS)
def test_two_ranks_have_the_gradient_of_one(split, two_ranks, reference):
    for rank in range(2):
        assert_same_gradients(torch.load(two_ranks / f"{split}.{rank}"), reference, ratio=1e-5)
