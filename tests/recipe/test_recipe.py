import copy

import pytest
import yaml

from mindvl.recipe.recipe import load_recipe


@pytest.fixture
def written(mini_recipe, tmp_path):
    """Write the mini recipe after a change, and return its file."""

    def write(change=lambda recipe: None):
        recipe = copy.deepcopy(mini_recipe(tmp_path))
        change(recipe)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        return tmp_path / "recipe.yaml"

    return write


def test_a_recipe_becomes_stages_with_their_defaults(written):
    recipe = load_recipe(written())
    assert [stage.name for stage in recipe.stages] == ["language", "warmup", "short", "long", "mean", "instruct"]
    assert (recipe.stage("short").accumulate, recipe.stage("long").accumulate) == (1, 2)
    assert recipe.stage("mean").average == ["short", "long"] and recipe.stage("mean").phase is None
    assert recipe.report.final == "instruct"


def delete(where, key):
    return lambda recipe: where(recipe).pop(key)


def put(where, key, value):
    return lambda recipe: where(recipe).update({key: value})


def top(recipe):
    return recipe


def report(recipe):
    return recipe["report"]


def stage(number):
    return lambda recipe: recipe["stages"][number]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(top, "mixture", {}), "unknown key mixture; did you mean mixtures?"),
        (put(top, "colour", 1), "unknown key colour; known are out, model, data"),
        (put(report, "question", 3), r"unknown key report.question; did you mean questions\?"),
        (put(stage(1), "start_form", "language"), r"unknown key stages\[1\].start_form; did you mean start_from\?"),
        (delete(top, "out"), "key out is missing"),
        (delete(report, "average"), "key report.average is missing"),
        (delete(stage(2), "name"), r"key stages\[2\].name is missing"),
        (delete(stage(2), "steps"), "stage short lacks steps"),
        (delete(stage(2), "mixture"), "stage short lacks mixture"),
        (delete(stage(2), "phase"), "stage short needs either `phase` or `average`"),
        (put(stage(4), "phase", "mindvl.phases.WarmUp"), "stage mean needs either `phase` or `average`"),
        (put(stage(1), "start_from", "short"), "stage warmup builds on short, which is no earlier stage"),
        (put(stage(4), "average", ["short", "instruct"]), "stage mean builds on instruct, which is no earlier stage"),
        (put(stage(0), "start_from", "language"), "stage language builds on language, which is no earlier stage"),
        (put(stage(3), "name", "short"), "stage short is there twice"),
        (put(stage(0), "mixture", "texts"), "stage language names mixture texts; known are text, pictures"),
        (put(report, "final", "final"), "report names stage final; the recipe has language, warmup"),
        (put(report, "singles", {"1": "one"}), "report names stage one"),
        (put(report, "budgets", [[784, 3136], [9, 8]]), "report.budgets has min_pixels 9, more than its max_pixels 8"),
        (put(report, "budgets", []), "report.budgets is empty"),
        (put(top, "stages", ["language"]), r"stages\[0\]\. holds a str, not keys and values"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_with_its_file_and_key(written, change, message):
    file = written(change)
    with pytest.raises(ValueError, match=f"{file}: {message}"):
        load_recipe(file)


def test_a_file_that_is_missing_no_yaml_or_no_mapping_is_refused(tmp_path):
    file = tmp_path / "recipe.yaml"
    with pytest.raises(ValueError, match=f"recipe {file} is not a file"):
        load_recipe(file)
    file.write_text("out: [1, 2\n")
    with pytest.raises(ValueError, match=rf"(?s)recipe {file} is not YAML: .*line 2"):
        load_recipe(file)
    file.write_text("- one\n- two\n")
    with pytest.raises(ValueError, match=f"{file}: the file holds a list, not keys and values"):
        load_recipe(file)
