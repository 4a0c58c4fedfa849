"""Complaints on one line of stderr, and the strategy's name on the command line."""

from pathlib import Path

import pytest
import yaml

from mindvl.cli.parser import spelled_out


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--trainer.precision=fp8", "trainer.precision: fp8 is none of int, 'transformer-engine', "),
        ("--trainer.max_steps=abc", "trainer.max_steps: abc is no int"),
        ("--model.supervise=all", "model.supervise: all is none of 'answers', 'text'"),
        ("--trainer.nonsense=2", "there is no key trainer.nonsense"),
        ("--trainer.max_step=3", "there is no key trainer.max_step; did you mean trainer.max_steps?"),
        ("--trainer.strategy.shrad=3", "trainer.strategy is auto, which has no shrad: name a class there first"),
        ("--data.train.mine.wieght=2", "there is no key data.train.mine.wieght; did you mean weight?"),
        ("--model.rates.langauge=1", "there is no key model.rates.langauge; did you mean language?"),
        ("--model.model.visoin.depth=1", "there is no key model.model.visoin.depth; did you mean vision?"),
        ("--model=WarmUpp", "model: there is neither a class nor a file WarmUpp; did you mean WarmUp?"),
        ("-c=nope.yaml", "there is no config nope.yaml"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_what_would_be_right(
    argument, complaint, mindvl, tiny_config, tmp_path
):
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(tiny_config(tmp_path / "run")))
    called = mindvl("fit", "-c", tmp_path / "fit.yaml", argument)
    assert called.status == 2
    assert called.err.strip().count("\n") == 0 and called.err.startswith(f"mindvl fit: {complaint}")


def test_the_strategys_name_becomes_its_class_where_its_arguments_follow():
    context = "--trainer.strategy.context=2"
    spelled = ["--trainer.strategy=mindvl.parallel.MindVLStrategy", context]
    assert spelled_out(["--trainer.strategy=mindvl", context]) == spelled
    assert spelled_out(["--trainer.strategy", "mindvl", context]) == [
        "--trainer.strategy",
        spelled[0].split("=")[1],
        context,
    ]
    for others in (["--trainer.strategy=mindvl"], ["--trainer.strategy=ddp", context], ["--seed_everything=1"]):
        assert spelled_out(others) == others


def test_a_run_can_be_cut_on_the_command_line_alone(mindvl, tiny_config, tmp_path):
    """A plan reads the command line as a fit does."""
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(tiny_config(tmp_path / "run")))
    called = mindvl(
        "plan", "-c", tmp_path / "fit.yaml", "--devices", 2, "trainer.strategy=mindvl", "trainer.strategy.context=2"
    )
    assert called.status == 0, called.err
    assert "all-to-all of dense layers" in called.out


@pytest.mark.parametrize("verb", ["fit", "plan"])
def test_a_key_of_a_config_is_refused_by_each_verb_that_reads_it_with_the_file(verb, mindvl, tiny_config, tmp_path):
    config = tiny_config(tmp_path / "run")
    config["data"]["init_args"]["train"]["ocr"]["wieght"] = 2
    file = tmp_path / "fit.yaml"
    file.write_text(yaml.safe_dump(config))
    called = mindvl(verb, "-c", file)
    assert called.status == 2
    assert called.err == f"mindvl {verb}: there is no key data.train.ocr.wieght ({file}); did you mean weight?\n"


@pytest.mark.parametrize("verb", ["fit", "plan"])
def test_a_recipe_given_to_a_verb_of_one_run_names_the_verb_it_is_for(verb, mindvl):
    recipe = Path(__file__).parents[2] / "configs" / "quickstart" / "recipe.yaml"
    called = mindvl(verb, "-c", recipe)
    assert called.status == 2
    assert called.err == f"mindvl {verb}: {recipe} is a recipe, a chain of runs: mindvl recipe {recipe}\n"
