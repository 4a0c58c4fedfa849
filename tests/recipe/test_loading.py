import copy

import pytest
import yaml

from mindvl.recipe.loading import load_recipe
from mindvl.recipe.stages import fit_config, prepare


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


def study(**changes):
    asked = {"rows": ["short"], "families": {"all": ["ocr"]}, "budgets": [[784, 3136]]}
    return lambda recipe: recipe.update(study={**asked, **changes})


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
        (put(top, "train_samples_ratio", 0), "train_samples_ratio is 0, not above 0"),
        (delete(top, "report"), "key report or study is missing: nothing would be scored"),
        (put(stage(2), "pixels", [9, 8]), "stage short.pixels has min_pixels 9, more than its max_pixels 8"),
        (put(stage(4), "greedy", True), "stage mean is greedy, which needs `average` and a `study`"),
        (study(rows=["shrt"]), "study names stage shrt; the recipe has language"),
        (study(rows=["short", "mean"]), "study.rows has mean but not its member long, which it is compared with"),
        (study(families={"all": []}), "study.families is empty; it needs a group of sources"),
        (study(families={"one": ["ocr"], "two": ["ocr"]}), "study.families names ocr 2 times"),
        (study(budgets=[[784]]), r"study.budgets has \[784\], which is not \[min_pixels, max_pixels\]"),
        (study(row=["short"]), r"unknown key study.row; did you mean rows\?"),
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
    with pytest.raises(ValueError, match=f"recipe {file} holds a list, not keys and values"):
        load_recipe(file)


def test_a_variant_changes_stages_by_name_merges_mappings_and_replaces_the_rest(written):
    changes = {
        "out": "elsewhere",
        "trainer": {"log_every_n_steps": 9},
        "stages": {"short": {"steps": 60, "phase_args": {"max_skipped_ratio": 0.5}}},
        "report": {"budgets": [[784, 6272]]},
    }
    file = written(lambda recipe: recipe.update(variants={"larger": changes}))
    plain, larger = load_recipe(file), load_recipe(file, variant="larger")
    assert (plain.stage("short").steps, larger.stage("short").steps, larger.stage("long").steps) == (6, 60, 6)
    assert larger.stage("short").phase_args == {"supervise": "answers", "max_skipped_ratio": 0.5}
    assert larger.trainer == {**plain.trainer, "log_every_n_steps": 9}
    assert larger.out == "elsewhere" and larger.report.budgets == [[784, 6272]]
    assert larger.report.final == plain.report.final


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("large", "there is no variant large; known are larger"),
        ("larger", "variants.larger.stages names shrt; the recipe has language, warmup"),
    ],
)
def test_an_unknown_variant_or_stage_of_a_variant_is_refused(written, variant, message):
    file = written(lambda recipe: recipe.update(variants={"larger": {"stages": {"shrt": {"steps": 9}}}}))
    with pytest.raises(ValueError, match=f"{file}: {message}"):
        load_recipe(file, variant=variant)


def test_the_seed_and_pixels_of_a_stage_replace_those_of_the_recipe(written):
    recipe = load_recipe(written(lambda recipe: recipe["stages"][2].update(seed=7, pixels=[1568, 3136])))
    short, long = (fit_config(recipe, recipe.stage(name)) for name in ("short", "long"))
    assert (short["seed_everything"], short["data"]["init_args"]["seed"]) == (7, 7)
    assert (long["seed_everything"], long["data"]["init_args"]["seed"]) == (3, 3)
    sizes = [config["model"]["init_args"]["model"] for config in (short, long)]
    assert (sizes[0]["min_pixels"], sizes[0]["max_pixels"]) == (1568, 3136)
    assert sizes[1]["max_pixels"] == recipe.model["max_pixels"]


def test_a_ratio_multiplies_the_training_samples_of_every_source_alone(written, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("mindvl.data.render.writer.render", lambda config, folder: drawn.update(config["sources"]))
    recipe = load_recipe(written(lambda recipe: recipe.update(train_samples_ratio=2.5)))
    (tmp_path / "out" / "data").mkdir(parents=True)
    prepare(recipe)
    assert {name: source["train"] for name, source in drawn.items()} == {"ocr": 60, "counting": 30, "text_ocr": 30}
    assert drawn["ocr"]["validation"] == drawn["ocr"]["test"] == 4
