import pytest

from mindvl.data.steps.loading import load_data_recipe

STEM = "{render: {family: stem, train: 2}}"


@pytest.fixture
def load(tmp_path):
    def write(text, **arguments):
        file = tmp_path / "recipe.yaml"
        file.write_text(text)
        return load_data_recipe(file, **arguments)

    return write


def test_a_recipe_has_its_defaults_and_its_changes(load):
    recipe = load(f"out: a\nsources: {{a: {STEM}}}\nsteps: [resolution: {{}}]\n", changes={"out": "b", "seed": "7"})
    assert (str(recipe.out), recipe.seed, recipe.samples_per_shard, recipe.samples) == ("b", 7, 1000, None)
    assert recipe.steps[0].arguments == {"min_side_pixels": 28, "max_pixels": 50_000_000}
    assert recipe.sources[0].category == "a" and recipe.steps_of(recipe.sources[0]) == recipe.steps


def test_the_fingerprint_is_of_the_samples_and_not_of_the_place(load):
    text = f"out: a\nsources: {{a: {STEM}}}\nsteps: [resolution: {{%s}}]\n"
    plain = load(text % "").fingerprint()
    assert plain == load(text % "min_side_pixels: 28", changes={"out": "elsewhere"}).fingerprint()
    others = [load(text % "min_side_pixels: 29"), load(text % "", samples=3), load(text % "", changes={"seed": "1"})]
    assert len({plain, *(other.fingerprint() for other in others)}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "holds a list, not keys and values"),
        ("out: [a\n", "is not YAML"),
        (f"sources: {{a: {STEM}}}", "key out is missing"),
        (f"out: 3\nsources: {{a: {STEM}}}", "out is 3; it must be of type str"),
        (f"out: a\nsource: {{a: {STEM}}}", "unknown key source; did you mean sources?"),
        ("out: a\nsources: {}", "sources is empty"),
        (f"out: a\nsources:\n  a: {STEM}\n  b: {STEM}\n  a: {STEM}", "line 3: the key 'a' is there twice"),
        (f"out: a\nsources: {{a-b: {STEM}}}", "source name 'a-b' becomes a file name"),
        ("out: a\nsources: {a: 3}", "sources.a holds a int, not keys and values"),
        ("out: a\nsources: {a: {rendr: {}}}", "unknown key sources.a.rendr; did you mean render?"),
        ("out: a\nsources: {a: {optional: true}}", "sources.a needs one of render, import, shards; it has none"),
        ("out: a\nsources: {a: {shards: x, render: {}}}", "it has render and shards"),
        ("out: a\nsources: {a: {render: {family: poem}}}", "source a: unknown family 'poem'"),
        ("out: a\nsources: {a: {render: {family: stem, train: 1}, split: test}}", "sources.a is rendered"),
        ("out: a\nsources: {a: {shards: x, split: dev}}", "sources.a.split is 'dev'"),
        ("out: a\nsources: {a: {shards: x, limit: 0}}", "sources.a.limit is 0"),
        ("out: a\nsources: {a: {shards: nowhere/x.tar}}", "sources.a.shards.path nowhere/x.tar is not there"),
        ("out: a\nsources: {a: {import: {format: lava, path: x}}}", "format is 'lava'; did you mean llava?"),
        ("out: a\nsources: {a: {import: {format: llava}}}", "key sources.a.import.path is missing"),
        ("out: a\nsources: {a: {import: {format: llava, path: x, prompt: y}}}", "unknown key sources.a.import.prompt"),
        ("out: a\nsources: {a: {import: {format: llava, path: 3}}}", "sources.a.import.path is 3; it must be text"),
        (
            f"out: a\nsources: {{a: {STEM}}}\nsteps: [resolutoin: {{}}]",
            r"steps\[0\]: unknown step 'resolutoin'; did you",
        ),
        (f"out: a\nsources: {{a: {STEM}}}\nsteps: [decodes]", r"steps\[0\] is 'decodes'; it must be one step"),
        (f"out: a\nimage_format: bmp\nsources: {{a: {STEM}}}", "image_format is 'bmp'"),
        (f"out: a\nsamples_per_shard: 0\nsources: {{a: {STEM}}}", "samples_per_shard is 0"),
        (f"out: a\nstyle: {{cell_pixel: 3}}\nsources: {{a: {STEM}}}", "unknown key 'cell_pixel'"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_with_file_and_key(load, text, message):
    with pytest.raises(ValueError, match=message) as error:
        load(text)
    assert "recipe.yaml" in str(error.value)


def test_steps_of_one_source_are_checked_too(load):
    with pytest.raises(ValueError, match=r"sources.a.steps\[0\]: step decodes has no argument 'x'"):
        load("out: a\nsources: {a: {render: {family: stem, train: 1}, steps: [decodes: {x: 1}]}}")


def test_a_trial_needs_at_least_one_sample_and_a_recipe_a_file(load, tmp_path):
    with pytest.raises(ValueError, match="samples is 0; it must be at least 1"):
        load(f"out: a\nsources: {{a: {STEM}}}", samples=0)
    with pytest.raises(ValueError, match="is not a file"):
        load_data_recipe(tmp_path / "none.yaml")
