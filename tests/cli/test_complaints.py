"""Trees of jsonargparse as one line; texts are those that it writes."""

import pytest

from mindvl.cli.complaints import one_line

NESTED = """Parser key "data":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'mindvl.data.module.PackedShards'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'mindvl.data.module.PackedShards':
        Parser key "train":
          Problem with given class_path 'mindvl.data.mixture.Source':
            Option 'wieght' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: {type}
  Given value: {value}"""
ON_THE_COMMAND_LINE = NESTED.format(
    type="<class 'jsonargparse._util.NestedArg'>", value="NestedArg(key='train.mine.wieght', val='2')"
)
IN_A_FILE = NESTED.format(type="<class 'dict'>", value="{'class_path': 'mindvl.data.module.PackedShards'}")


def test_an_unknown_key_of_the_command_line_is_told_as_it_was_written_with_the_near_one():
    assert one_line(ON_THE_COMMAND_LINE) == "there is no key data.train.mine.wieght; did you mean weight?"


def test_an_unknown_key_of_a_config_file_is_told_with_its_place_and_the_file():
    configs = [("a.yaml", {"data": {"init_args": {"train": {"ocr": {"weight": 1}}}}})]
    configs += [("b.yaml", {"data": {"init_args": {"train": {"ocr": {"wieght": 2}}}}})]
    said = one_line(IN_A_FILE, configs=configs)
    assert said == "there is no key data.train.ocr.wieght (b.yaml); did you mean weight?"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "Subcommand 'fit' does not accept option 'trainer.max_stepz'",
            "trainer.max_stepz; did you mean trainer.max_steps?",
        ),
        ("unrecognized arguments: --trainer.max_step=3", "trainer.max_step; did you mean trainer.max_steps?"),
        ("unrecognized arguments: --trainr.precision 16", "trainr.precision; did you mean trainer.precision?"),
        ("unrecognized arguments: --nothing=3", "nothing"),
    ],
)
def test_an_unknown_key_of_the_verb_is_told_with_the_near_one(message, said):
    known = ["trainer.max_steps", "trainer.precision", "model"]
    assert one_line(message, known=known) == f"there is no key {said}"


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        ([], "trainer.precision: bf32 is none of int, '16-mixed', 'bf16'"),
        (
            [("fit.yaml", {"trainer": {"precision": "32-true"}})],
            "trainer.precision: bf32 is none of int, '16-mixed', 'bf16'",
        ),
        (
            [("fit.yaml", {"trainer": {"precision": "bf32"}})],
            "trainer.precision (fit.yaml): bf32 is none of int, '16-mixed', 'bf16'",
        ),
    ],
    ids=["on the command line", "in place of the file's", "in the file"],
)
def test_a_wrong_value_is_told_with_what_would_be_right_and_the_file_that_holds_it(configs, said):
    message = """Parser key "trainer.precision":
  Does not validate against any of the Union subtypes
  Subtypes: [typing.Literal[32], typing.Literal['16-mixed', 'bf16'], <class 'NoneType'>]
  Errors:
    - Expected a <class 'int'>
    - Expected a typing.Literal['16-mixed', 'bf16']
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: bf32"""
    assert one_line(message, configs=configs) == said


def test_a_class_that_is_not_there_is_told_with_the_near_one():
    message = """Parser key "model":

  - Expected a path but WarmUpp either not accessible or invalid
  - Does not validate against any of the Union subtypes
  Subtypes: [<class 'mindvl.phases.base.Phase'>, <class 'NoneType'>]
  Errors:
    - Expected a dot import path string: WarmUpp
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: WarmUpp"""
    assert one_line(message) == "model: there is neither a class nor a file WarmUpp; did you mean WarmUp?"


def test_a_key_below_a_bare_word_is_told_with_that_word():
    message = """Parser key "trainer.strategy":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'str'>, <class 'lightning.pytorch.strategies.strategy.Strategy'>]
  Errors:
    - Expected a <class 'str'>
    - Expected a dot import path string: auto
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='shard', val='3')"""
    assert one_line(message) == "trainer.strategy is auto, which has no shard: name a class there first"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "the following arguments are required: fit.data, fit.model",
            "data and model are missing: give a config with -c CONFIG",
        ),
        (
            "unrecognized arguments: here",
            "here is no option; one is written --KEY=VALUE, such as --trainer.max_steps=100",
        ),
        ("argument --ckpt_path: expected one argument", "argument --ckpt_path: expected one argument"),
        ("something new\n  in two lines", "something new; in two lines"),
    ],
)
def test_what_has_no_tree_stays_readable(message, said):
    assert one_line(message) == said
