import pytest

from mindvl.cli.config_files import read_configs


@pytest.mark.parametrize(
    "arguments", [["fit", "-c", "{}"], ["fit", "--config", "{}", "--trainer.max_steps=3"], ["fit", "--config={}"]]
)
def test_the_config_files_of_a_command_line_are_read_with_their_names(arguments, tmp_path):
    file = tmp_path / "fit.yaml"
    file.write_text("trainer: {max_steps: 3}\n")
    assert read_configs([argument.format(file) for argument in arguments]) == [
        (str(file), {"trainer": {"max_steps": 3}})
    ]


def test_other_words_and_addresses_are_left_to_the_parser():
    assert read_configs(["fit", "-c", "s3://bucket/fit.yaml", "--model", "WarmUp", "--config"]) == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("fitt.yaml", None, "there is no config {folder}/fitt.yaml; did you mean {folder}/fit.yaml?"),
        ("other.yaml", None, "there is no config {folder}/other.yaml"),
        ("", None, "{folder} is a folder, not a config file"),
        (
            "bad.yaml",
            "a: [1\nb: 2\n",
            "config {folder}/bad.yaml is not YAML: line 2, column 2: expected ',' or ']', but got ':'",
        ),
        ("list.yaml", "- 1\n", "config {folder}/list.yaml holds a list, not keys and values"),
        (
            "chain.yaml",
            "stages: [{name: warmup}]\n",
            "{folder}/chain.yaml is a recipe, a chain of runs: mindvl recipe {folder}/chain.yaml",
        ),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(name, text, said, tmp_path):
    (tmp_path / "fit.yaml").touch()
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as refused:
        read_configs(["fit", "--config", str(tmp_path / name)])
    assert str(refused.value) == said.format(folder=tmp_path)
