import pytest
import torch
from mindvl_callbacks import average_state_dicts


def state(weight=1.0, *, step=7, dtype=torch.float32):
    return {"layer.weight": torch.full((2, 3), weight, dtype=dtype), "step": torch.tensor(step)}


def average(weights=None, **states):
    return average_state_dicts(list(states), states.__getitem__, weights=weights)


def test_equal_weights_give_the_plain_mean():
    first, second, third = (torch.randn(4, 5) for _ in range(3))
    mean = average(a={"w": first}, b={"w": second}, c={"w": third})
    torch.testing.assert_close(mean["w"], (first + second + third) / 3)


def test_weights_are_shares_of_their_sum():
    mean = average([1, 3], a=state(0.0), b=state(8.0))
    assert mean["layer.weight"].tolist() == [[6.0] * 3] * 2


def test_bf16_is_summed_in_fp32_and_comes_back_as_bf16():
    values = [256.0, 1.0, 1.0, 2.0]  # in bf16, 64 + 1/4 is 64 again: a running sum would end at 64.5
    mean = average(**{f"model_{number}": state(value, dtype=torch.bfloat16) for number, value in enumerate(values)})
    assert mean["layer.weight"].dtype == torch.bfloat16
    assert mean["layer.weight"][0, 0].item() == 65.0
    running = torch.tensor(0.0, dtype=torch.bfloat16)
    for value in values:
        running += torch.tensor(value, dtype=torch.bfloat16) / 4
    assert running.item() == 64.5


def test_integer_buffers_are_kept_where_they_agree():
    mean = average(a=state(1.0), b=state(3.0))
    assert mean["step"].item() == 7 and mean["step"].dtype == torch.int64


def test_the_inputs_are_left_as_they_were_and_one_is_held_at_a_time():
    states, loaded = {"a": state(1.0), "b": state(3.0)}, []

    def load(name):
        loaded.append(name)
        return states[name]

    mean = average_state_dicts(["a", "b"], load)
    mean["layer.weight"].zero_()
    mean["step"].zero_()
    assert loaded == ["a", "b"]
    assert states["a"]["layer.weight"][0, 0] == 1.0 and states["a"]["step"] == 7


def test_fewer_than_two_checkpoints_are_no_average():
    with pytest.raises(ValueError, match="1 checkpoint given, an average needs at least 2"):
        average(a=state())


def test_a_checkpoint_given_twice_is_refused_by_name():
    with pytest.raises(ValueError, match=r"given twice: \['a'\]"):
        average_state_dicts(["a", "b", "a"], lambda name: state())


OTHER_KEYS = {"layer.bias": torch.ones(3), "step": torch.tensor(7)}
OTHER_SHAPE = {"layer.weight": torch.ones(3, 3), "step": torch.tensor(7)}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            OTHER_KEYS,
            r"second and first hold different keys: only here \['layer.bias'\], only there \['layer.weight'\]",
        ),
        (OTHER_SHAPE, r"second: layer.weight is \(3, 3\) torch.float32, in first \(2, 3\) torch.float32"),
        (state(dtype=torch.bfloat16), r"second: layer.weight is \(2, 3\) torch.bfloat16, in first .* torch.float32"),
        (state(float("nan")), "second: layer.weight holds a value that is not finite"),
        (state(float("inf")), "second: layer.weight holds a value that is not finite"),
        (state(step=8), "second: integer buffer step differs from the one in first"),
    ],
    ids=["keys", "shape", "dtype", "nan", "infinity", "integer buffer"],
)
def test_a_refusal_names_the_checkpoint_and_the_tensor(second, message):
    with pytest.raises(ValueError, match=message):
        average(first=state(), second=second)


def test_a_nan_in_the_first_checkpoint_is_found_too():
    with pytest.raises(ValueError, match=r"first: layer\.weight holds a value that is not finite"):
        average(first=state(float("nan")), second=state())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "1 weights for 2 checkpoints"),
        ([0.0, 0.0], "the weights add up to 0.0, they must be positive in sum"),
        ([3.0, -1.0], "weight -1.0: a weight is a finite number that is not negative"),
        ([1.0, float("nan")], "weight nan: a weight is a finite number"),
        ([float("inf"), 1.0], "weight inf: a weight is a finite number"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        average(weights, a=state(), b=state())


def tied(value):
    weight = torch.full((2, 3), value)
    return {"embed.weight": weight, "head.weight": weight}


def test_tied_tensors_stay_tied():
    mean = average(a=tied(1.0), b=tied(3.0))
    assert mean["head.weight"] is mean["embed.weight"] and mean["head.weight"][0, 0] == 2.0


def test_a_tie_that_only_one_checkpoint_has_is_refused():
    loose = {"embed.weight": torch.ones(2, 3), "head.weight": torch.ones(2, 3)}
    with pytest.raises(ValueError, match=r"b: head\.weight is tied to None, in a to embed\.weight"):
        average(a=tied(1.0), b=loose)


def test_quantised_weights_have_no_mean():
    codes = {"w": torch.ones(4).to(torch.float8_e4m3fn)}
    with pytest.raises(ValueError, match=r"a: w is torch\.float8_e4m3fn; quantised weights have no mean"):
        average(a=codes, b=codes)


def test_fp64_is_summed_in_fp64():
    mean = average(a={"w": torch.tensor([1.0 + 2**-40], dtype=torch.float64)}, b={"w": torch.ones(1).double()})
    assert mean["w"].item() == 1.0 + 2**-41
