"""The operator table: what is chosen, what is refused, and that entries can take each other's place."""

import inspect
from importlib import import_module

import pytest
import torch

from mindvl.ops import table
from mindvl.ops.rms_norm import rms_norm, rms_norm_by_hand, rms_norm_reference
from mindvl.ops.table import TABLE, choose, entry_for, force, parse_choices, reasons, using

DEVICES, DTYPES = ("cpu", "cuda", "npu", "meta"), (torch.float32, torch.bfloat16)
ENTRIES = [(operator, entry) for operator, entries in TABLE.items() for entry in entries]


@pytest.fixture(autouse=True)
def nothing_forced():
    before = dict(table._forced())
    force({})
    yield
    force(before)


def function_of(entry):
    module, name = entry.function.split(":")
    return getattr(import_module(f"mindvl.ops.{module}"), name)


@pytest.mark.parametrize("operator", TABLE)
def test_every_operator_ends_with_its_reference_which_runs_anywhere(operator):
    assert [entry.name for entry in TABLE[operator]].count("reference") == 1
    assert TABLE[operator][-1].name == "reference" and TABLE[operator][-1].why_not is None


@pytest.mark.parametrize(("operator", "entry"), ENTRIES, ids=lambda value: getattr(value, "name", value))
def test_entries_take_the_arguments_of_their_reference(operator, entry):
    def arguments(each):
        return [(p.name, p.kind) for p in inspect.signature(function_of(each)).parameters.values()]

    assert arguments(entry) == arguments(TABLE[operator][-1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operator", TABLE)
def test_the_first_entry_without_a_reason_against_it_is_chosen(operator, device, dtype):
    found = reasons(operator, device, dtype)
    usable = [entry for entry, why in found if why is None]
    assert entry_for(operator, device, dtype) == usable[0]
    assert all(isinstance(why, str) and why for entry, why in found if entry not in usable)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here")
@pytest.mark.parametrize("device", ["cuda", "npu"])
def test_entries_of_a_device_that_is_not_here_say_what_is_missing(device):
    for operator in TABLE:
        for entry, why in reasons(operator, device, torch.bfloat16):
            if entry.why_not is not None and entry.why_not.startswith("backends."):
                assert why is not None, (operator, entry.name)
    assert "torch_npu cannot be imported" in dict(_named("rms_norm", "npu"))["npu_rms_norm"]
    assert dict(_named("packed_attention", "cuda"))["varlen"] == "no CUDA device can be used"


def _named(operator, device):
    return [(entry.name, why) for entry, why in reasons(operator, device, torch.bfloat16)]


def test_flash_attention_is_no_choice_for_fp32():
    why = {entry.name: why for entry, why in reasons("packed_attention", "cuda", torch.float32)}
    assert why["varlen"] == "flash attention multiplies bfloat16 or float16, not float32"


def test_a_forced_choice_is_used_inside_its_block_and_forgotten_after_it():
    x = torch.randn(2, 4)
    assert choose("rms_norm", x) is rms_norm_by_hand
    with using({"rms_norm": "reference"}):
        assert choose("rms_norm", x) is rms_norm_reference
        with using({"swiglu": "reference"}):
            assert choose("rms_norm", x) is rms_norm_reference
        with pytest.raises(ZeroDivisionError), using({"rms_norm": "by_hand"}):
            assert choose("rms_norm", x) is rms_norm_by_hand
            raise ZeroDivisionError
        assert choose("rms_norm", x) is rms_norm_reference
    assert choose("rms_norm", x) is rms_norm_by_hand


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator is here")
def test_a_forced_entry_that_is_not_there_is_refused_by_name_with_the_reason_and_what_there_is():
    with using({"rms_norm": "npu_rms_norm"}), pytest.raises(ValueError) as refusal:
        rms_norm(torch.randn(2, 4), torch.ones(4), 1e-6)
    assert str(refusal.value) == (
        "operator rms_norm: npu_rms_norm was asked for, but it takes npu tensors, not cpu; here there are by_hand, "
        "reference"
    )


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("", {}),
        ("auto", {}),
        ("rms_norm=reference", {"rms_norm": "reference"}),
        ("packed_attention = segments, swiglu=reference", {"packed_attention": "segments", "swiglu": "reference"}),
        ("reference", dict.fromkeys(TABLE, "reference")),
        ("reference,swiglu=liger", {**dict.fromkeys(TABLE, "reference"), "swiglu": "liger"}),
    ],
)
def test_choices_are_read_from_text(text, choices):
    assert parse_choices(text) == choices


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rms_norn=reference", r"there is no operator 'rms_norn'; the table has packed_attention, "),
        ("rms_norm=fast", r"operator rms_norm has no entry 'fast'; it has npu_rms_norm, liger, by_hand, reference"),
        ("fast", r"'fast' is neither operator=entry nor reference nor auto"),
    ],
)
def test_choices_that_the_table_does_not_have_are_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_choices(text)


def test_the_environment_forces_choices_for_the_whole_process(monkeypatch):
    monkeypatch.setenv("MINDVL_OPS", "rms_norm=reference")
    monkeypatch.setattr(table, "_choices", None)
    table._chosen.cache_clear()
    assert choose("rms_norm", torch.randn(2, 4)) is rms_norm_reference


def test_a_choice_is_worked_out_once(monkeypatch):
    x = torch.randn(2, 4)
    choose("rms_norm", x)
    monkeypatch.setattr(table, "_load", lambda where: pytest.fail(f"{where} was looked up again"))
    assert choose("rms_norm", x) is rms_norm_by_hand
