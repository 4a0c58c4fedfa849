"""Origins of tower and language model in a config file, and how dotted keys change them."""

import pytest
import yaml


@pytest.fixture
def printed(mindvl, tiny_config, tmp_path):
    """The `model` of a run's config with some vision and language, as `--print_config` shows it."""

    def show(vision, language, *arguments: str) -> dict:
        config = tiny_config(tmp_path / "run")
        config["model"]["init_args"]["model"].update(vision=vision, language=language, tokenizer="auto")
        (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
        said = mindvl("fit", "-c", tmp_path / "fit.yaml", *arguments, "--print_config")
        assert said.status == 0, said.err
        return yaml.safe_load(said.out)["model"]["init_args"]["model"]

    return show


def test_an_origin_may_be_a_string_or_a_field_among_others(printed):
    model = printed("Qwen/Qwen2.5-VL-7B-Instruct", {"pretrained": "some/folder", "num_hidden_layers": 2})
    assert model["vision"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert model["language"] == {"pretrained": "some/folder", "num_hidden_layers": 2}


def test_a_dotted_key_changes_one_field_and_keeps_the_origin(printed):
    key = "--model.init_args.model.language.num_hidden_layers=3"
    model = printed({"depth": 2}, {"pretrained": "some/folder", "num_hidden_layers": 2}, key)
    assert model["language"] == {"pretrained": "some/folder", "num_hidden_layers": 3} and model["vision"] == {
        "depth": 2
    }


def test_a_key_may_name_an_origin_or_take_it_away(printed):
    keys = ("--model.init_args.model.language=Qwen/Qwen3-8B", "--model.init_args.model.vision=random")
    model = printed("some/folder", {"num_hidden_layers": 2}, *keys)
    assert (model["vision"], model["language"]) == ("random", "Qwen/Qwen3-8B")
