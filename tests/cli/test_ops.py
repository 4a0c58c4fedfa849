"""`mindvl ops` says what would run here and why not something else, and `compare` whether two backends agree."""

import argparse

import pytest
import torch
import yaml

from mindvl.cli import ops
from mindvl.ops.table import TABLE


@pytest.fixture
def call(capsys):
    """Status and output of the verb, as the front door calls it."""

    def start(*arguments):
        parser = argparse.ArgumentParser(prog="mindvl ops")
        ops.add_arguments(parser)
        status = ops.run(parser.parse_args([str(argument) for argument in arguments]))
        return status, capsys.readouterr().out

    return start


def test_every_entry_of_every_operator_is_chosen_there_or_explained(call):
    status, out = call("--device", "cpu", "--dtype", "float32")
    assert status == 0 and "float32" in out.splitlines()[0]
    blocks = dict(zip(TABLE, out.split("\n\n", 1)[1].replace("\n    ", " ").splitlines(), strict=True))
    for operator, block in blocks.items():
        assert block.startswith(operator)
        assert all(entry.name in block for entry in TABLE[operator])
    assert blocks["packed_attention"].split()[1] == "segments"
    assert "not varlen" in blocks["packed_attention"] and "it takes cuda tensors, not cpu" in blocks["packed_attention"]


def test_the_table_can_be_asked_about_a_device_that_is_not_here(call):
    _, out = call("--device", "npu", "--dtype", "bfloat16")
    assert out.startswith("npu, bfloat16")


def test_backends_that_agree_have_status_0(call):
    status, out = call("compare", "auto", "reference")
    assert status == 0
    assert out.splitlines()[-2:] == ["forward: all layers agree", "backward: all layers agree"]
    assert "language_model.model.layers.2.mlp" in out and "vision.blocks.0.attn" in out


def test_beyond_the_tolerance_the_status_is_1_and_the_first_layer_has_a_name(call):
    status, out = call("compare", "auto", "reference", "--tolerance", "1e-12")
    assert status == 1
    assert "forward: vision.patch_embed is the first to differ" in out
    assert "backward: language_model.lm_head is the first to differ" in out and "*" in out


def test_a_saved_model_and_a_picture_of_your_own_are_compared(call, make_model, picture, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    (tmp_path / "page.png").write_bytes(picture(112, 140))
    status, out = call(
        "compare", "packed_attention=segments", "packed_attention=per_segment",
        "--model", tmp_path / "model", "--picture", tmp_path / "page.png",
    )  # fmt: skip
    assert status == 0 and "language_model.model.layers.1.self_attn" in out


def test_the_model_of_a_config_is_drawn_from_the_seed(call, make_spec, tmp_path):
    from dataclasses import asdict

    spec = {name: value for name, value in asdict(make_spec()).items() if value is not None}
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"model": spec}}}))
    losses = []
    for seed in (0, 0, 1):
        status, out = call("compare", "auto", "reference", "--model", tmp_path / "fit.yaml", "--seed", seed)
        assert status == 0
        losses.append(next(line for line in out.splitlines() if line.startswith("loss ")))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["rms_norm=fast", "auto"], "operator rms_norm has no entry 'fast'"),
        (
            ["auto", "reference", "--model", "/nope"],
            "--model is /nope, where there is neither a folder of a model nor a",
        ),
        (["auto", "reference", "--tolerance", "-1"], "--tolerance is -1; a relative difference is 0 or more"),
        (["auto", "reference", "--tolerance", "nan"], "--tolerance is nan"),
        (["auto", "reference", "--picture", "nowhere.png"], "picture nowhere.png is not a file"),
        (["auto@martian", "reference"], "auto@martian: there is no martian device here"),
    ],
)
def test_what_is_not_there_is_refused_by_name(arguments, complaint, call):
    with pytest.raises(ValueError, match=complaint):
        call("compare", *arguments)


def test_a_device_that_no_operator_knows_is_refused_with_the_known_ones(call):
    with pytest.raises(ValueError, match=r"--device is tpu; operators have entries for cpu, cuda, npu"):
        call("--device", "tpu")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here")
def test_a_backend_that_is_not_there_is_refused_with_the_reason(call):
    with pytest.raises(ValueError, match=r"packed_attention: varlen was asked for, but it takes cuda tensors, not cpu"):
        call("compare", "packed_attention=varlen", "auto")


def test_a_folder_and_a_file_that_hold_no_model_are_refused(call, tmp_path):
    with pytest.raises(ValueError, match=r"is no saved model: it has no config\.json"):
        call("compare", "auto", "auto", "--model", tmp_path)
    (tmp_path / "other.yaml").write_text("data: {}\n")
    with pytest.raises(ValueError, match=r"is no config of `mindvl fit`: it has no model\.init_args\.model"):
        call("compare", "auto", "auto", "--model", tmp_path / "other.yaml")


def test_bf16_is_compared_under_autocast(call):
    status, out = call("compare", "swiglu=recomputing", "swiglu=reference", "--precision", "bf16-mixed")
    assert status == 0 and "0.2" in out
