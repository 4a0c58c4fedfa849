import pytest

from mindvl.cli.known_names import arguments_of, did_you_mean, near_key, subclass_names


@pytest.mark.parametrize(
    ("key", "near"),
    [("max_step", "max_steps"), ("trainr.devices", "trainer.devices"), ("zzz", None), ("trainer.zzz", None)],
)
def test_the_near_name_is_found_and_a_far_one_is_not(key, near):
    assert near_key(key, ["max_steps", "trainer.devices", "trainer.precision"]) == near


@pytest.mark.parametrize(
    ("key", "meant"), [("supervize", "supervise"), ("model.visoin.depth", "vision"), ("mdel.vision.depth", "model")]
)
def test_a_key_is_followed_into_the_classes_that_arguments_take(key, meant):
    assert arguments_of("mindvl.phases.Multitask", key)[0] == meant


def test_names_are_told_where_none_is_near():
    assert arguments_of("mindvl.data.mixture.Source", "x") == (None, ["shards", "weight", "max_samples", "max_epochs"])


def test_a_class_that_cannot_be_imported_knows_nothing():
    assert arguments_of("no.such.Class", "x") == (None, [])


def test_subclasses_are_those_of_the_types_that_a_message_names():
    names = set(subclass_names("Subtypes: [<class 'mindvl.phases.base.Phase'>, <class 'NoneType'>]"))
    assert {"WarmUp", "Multitask", "InstructionTuning"} <= names


def test_nothing_near_asks_nothing():
    assert (did_you_mean(None), did_you_mean("weight")) == ("", "; did you mean weight?")
