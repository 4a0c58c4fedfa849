import argparse

import pytest
from PIL import Image

from mindvl.data.render.command import add_arguments, build_config, default_config, run
from mindvl.data.render.families import FAMILIES
from mindvl.data.render.paper import photo_paths


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def test_without_a_config_all_families_are_drawn_in_free_layouts():
    config = default_config()
    assert config["cell_pixels"] == 0 and list(config["sources"]) == list(FAMILIES)


def test_a_preview_shows_the_pictures_with_their_questions(tmp_path):
    arguments = ("--samples", 2, "--families", "stem,chart_pie", "--preview", 4, "--workers", 1, "--seed", 5)
    assert run(parsed(tmp_path, *arguments)) == 0
    with Image.open(tmp_path / "preview.png") as sheet:
        assert sheet.width == 4 * 340
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["chart_pie-000000.tar", "stem-000000.tar"]


def test_a_config_file_keeps_its_empty_splits_when_samples_are_set(tmp_path):
    file = tmp_path / "data.yaml"
    file.write_text("cell_pixels: 28\nsources: {a: {family: stem, train: 9, validation: 4}}\n")
    config = build_config(parsed(tmp_path, "--config", file, "--samples", 60, "--seed", 7))
    assert config["seed"] == 7
    assert config["sources"]["a"] == {"family": "stem", "train": 60, "validation": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--families", "stem,poem"), "unknown family 'poem'; known families are caption"),
        (("--config", "/nowhere.yaml"), "config /nowhere.yaml is not a file"),
        (("--samples", "0"), "--samples is 0"),
        (("--workers", "0"), "--workers is 0"),
    ],
)
def test_human_errors_are_said_in_words(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(parsed(tmp_path / "out", *arguments))
    assert not (tmp_path / "out").exists()


def test_a_config_that_is_no_mapping_is_refused(tmp_path):
    file = tmp_path / "data.yaml"
    file.write_text("- a\n- b\n")
    with pytest.raises(ValueError, match="holds a list, not keys and values"):
        build_config(parsed(tmp_path, "--config", file))


@pytest.mark.skipif(not photo_paths(), reason="needs scikit-image's photographs: pip install mindvl[photos]")
def test_photographs_lie_under_free_layouts_when_asked_for():
    from mindvl.data.render.config import check_config
    from mindvl.data.render.sample import draw_document

    config = {"noise_levels": 0.0, "photo_ratio": 1.0, "sources": {"a": {"family": "ocr_line", "train": 1}}}
    document = draw_document(check_config(config).sources["a"], seed=0, split="train", index=0)
    assert len(document.image.getcolors(1 << 24)) > 1000
