"""`MindVL.from_pretrained` does what it is told, or says that it cannot."""

import pytest
import torch

from mindvl.model.settings import dtype_of, known_only, without_autos


@pytest.mark.parametrize("word", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_a_dtype_has_a_name_or_is_torchs(word):
    assert dtype_of(word) == dtype_of(None, word) == torch.bfloat16


def test_the_first_dtype_that_is_said_counts_and_auto_is_as_saved():
    assert dtype_of("float32", "bfloat16") == torch.float32
    assert dtype_of() is dtype_of(None, None) is dtype_of("auto") is dtype_of("auto", "bfloat16") is None


@pytest.mark.parametrize("word", ["bf8", "int8", torch.int64, "nn", ""])
def test_what_is_no_float_is_refused_by_its_name(word):
    with pytest.raises(ValueError, match=f"dtype is {word}; known are auto, float32"):
        dtype_of(word)


def test_names_that_nobody_reads_are_refused_together_with_all_that_somebody_does():
    assert known_only({"max_pixels": 784, "token": None}, ("max_pixels", "token"), "it") == {"max_pixels": 784}
    with pytest.raises(
        ValueError, match=r"from_pretrained knows no bar, foo for it; beside dtype it knows max_pixels, token$"
    ):
        known_only({"foo": None, "max_pixels": 784, "bar": 1}, ("max_pixels", "token"), "it")


def test_what_an_auto_class_adds_is_taken_off_and_a_wish_for_foreign_code_is_not():
    added = {"adapter_kwargs": {"revision": None}, "trust_remote_code": True}
    assert without_autos({"max_pixels": 784, **added}) == {"max_pixels": 784}
    assert without_autos({"trust_remote_code": False}) == {}
    assert without_autos({"trust_remote_code": True}) == {"trust_remote_code": True}
    with pytest.raises(ValueError, match=r"runs/adapter holds adapters: open the model, then peft"):
        without_autos({"_from_auto": True, "adapter_kwargs": {"_adapter_model_path": "runs/adapter"}})
