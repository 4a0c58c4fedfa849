"""What is exported opens whole, with a tokenizer that means the same tokens, or not at all."""

import json
import shutil

import pytest

from mindvl.cli.export_source import open_source


@pytest.fixture
def folder(make_model, tokenizer, tmp_path):
    path = tmp_path / "saved"
    make_model().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("name", ["image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"])
def test_placeholders_that_are_not_the_tokenizers_are_refused_with_both_numbers(name, folder):
    config = json.loads((folder / "config.json").read_text())
    assert open_source(folder).config.image_token_id == config["image_token_id"]
    (folder / "config.json").write_text(json.dumps({**config, name: 7}))
    with pytest.raises(
        ValueError, match=rf"the model's {name} is 7, but tokenizer .*saved has <\|.*\|> as {config[name]}"
    ):
        open_source(folder)


def test_a_copy_that_was_cut_short_is_refused(folder, tmp_path):
    config = shutil.copytree(folder, tmp_path / "config")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3000] + bytes(3000))
    for path, place in ((folder, None), (file, config)):
        with pytest.raises(ValueError, match=r"model.safetensors ends in zeros, .* fetch it again"):
            open_source(path, config=place)
