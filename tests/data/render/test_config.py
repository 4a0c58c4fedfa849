from pathlib import Path

import pytest
import yaml

from mindvl.data.render.config import check_config
from mindvl.data.render.sample import draw_document
from mindvl.data.render.split import SPLITS

QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart" / "data.yaml"


def with_source(**settings):
    return {"sources": {"it": {"family": "ocr_line", "train": 1, **settings}}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sed": 1, **with_source()}, "unknown key 'sed'; allowed are .*seed"),
        (
            with_source(word_length=[1, 2]),
            "source it has the unknown key 'word_length'; allowed are .*word_length_chars",
        ),
        (with_source(family="ocr"), "unknown family 'ocr'; known families are caption, counting"),
        (with_source(line_words=[3, 1]), r"it.line_words is \[3, 1\]"),
        (with_source(line_words=[0, 1]), r"it.line_words is \[0, 1\]; it must be \[low, high\] from 1 up"),
        (with_source(charset=3), "it.charset is 3; it must be of type str"),
        (with_source(train=0), "at least one must be above 0"),
        (with_source(train=-1), "train is -1; it must not be negative"),
        (with_source(cell_pixels=4), "cell_pixels is 4"),
        (with_source(jitter_pixels=20, cell_pixels=28), "jitter_pixels 20 .* 28"),
        (with_source(fonts=["Arial"]), r"\['Arial'\]; known fonts are DejaVuSans"),
        (with_source(chinese_ratio=2), "chinese_ratio is 2.0"),
        ({"image_format": "gif", **with_source()}, "image_format is 'gif'; it must be png or jpg"),
        ({"seed": 0}, "needs `sources`"),
        ({"sources": {"a/b": {"family": "stem", "train": 1}}}, "'a/b' becomes a file name"),
        ({"sources": {"it": {"family": "caption", "text_only": True, "train": 1}}}, "caption has no transcript"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        check_config(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"charset": "ab", "word_length_chars": [2, 2], "cell_pixels": 28}, "source it: none of .* falls to the"),
        (
            {"family": "chart_bar", "value": [1, 3], "points": [4, 4]},
            "source it: 4 different numbers are asked but only 3",
        ),
        ({"family": "grounding", "object_pixels": [9000, 9000]}, "an object of 9000 pixels does not fit"),
        ({"family": "stem", "kinds": ["algebra"]}, "stem does not know 'algebra'"),
        ({"family": "caption", "shapes": ["blob"]}, "'blob' cannot be drawn; known are circle"),
        ({"family": "key_value", "keys": [9, 9], "key_length_chars": [3, 3]}, "9 keys are asked"),
    ],
)
def test_settings_that_cannot_be_drawn_name_their_source_and_the_numbers(settings, message):
    source = check_config(with_source(**settings)).sources["it"]
    with pytest.raises(ValueError, match=message):
        for split in SPLITS:
            draw_document(source, seed=0, split=split, index=0)


def test_a_source_overrides_the_look_that_all_share():
    plan = check_config({"cell_pixels": 28, "noise_levels": 1, **with_source(noise_levels=2)})
    assert plan.sources["it"].style.cell_pixels == 28
    assert plan.sources["it"].style.noise_levels == 2.0


def test_the_fingerprint_follows_what_is_drawn_and_not_how_it_is_written():
    first = check_config(with_source(line_words=[1, 5])).fingerprint()
    assert check_config(with_source(line_words=(1, 5), cell_pixels=0)).fingerprint() == first
    assert check_config(with_source(line_words=[1, 4])).fingerprint() != first


def test_the_quickstart_config_draws_small_pictures_of_all_families():
    plan = check_config(yaml.safe_load(QUICKSTART.read_text(encoding="utf-8")))
    assert len({source.family for source in plan.sources.values()}) == 12
    cells = []
    for source in plan.sources.values():
        for split in (split for split, samples in source.samples.items() if samples):
            for index in range(4):
                document = draw_document(source, seed=plan.seed, split=split, index=index)
                assert (document.image is None) == source.text_only
                if document.image:
                    width, height = document.image.width // 28, document.image.height // 28
                    assert width <= 12 and height <= 8
                    cells.append(width * height)
    assert sorted(cells)[len(cells) // 2] <= 40
