import pytest

from mindvl.data.render import fonts
from mindvl.data.render.config import check_config
from mindvl.data.render.families import FAMILIES, TEXT_FAMILIES
from mindvl.data.render.sample import draw_document


def chinese_documents(family, count, *, cell_pixels, ratio=1.0):
    grounding = {
        "width_pixels": [112, 168],
        "height_pixels": [112, 168],
        "object_pixels": [28, 56],
        "box_snap_pixels": 28,
    }
    settings = {"family": family, "train": 1, **(grounding if family == "grounding" else {})}
    source = check_config({"cell_pixels": cell_pixels, "chinese_ratio": ratio, "sources": {"it": settings}}).sources[
        "it"
    ]
    return [draw_document(source, seed=0, split="train", index=index) for index in range(count)]


def has_chinese(text):
    return any(ord(char) >= 0x2E80 for char in text)


@pytest.fixture
def font():
    try:
        return fonts.chinese_font("")
    except ValueError:
        pytest.skip("no font with Chinese glyphs: pip install mindvl[cjk]")


@pytest.mark.parametrize("family", FAMILIES)
def test_chinese_documents_ask_in_chinese_and_print_only_glyphs_that_exist(family, font):
    printed = ""
    for document in chinese_documents(family, 10, cell_pixels=28):
        assert all(has_chinese(asked.question) for asked in document.questions)
        printed += "".join(document.transcript or [])
    assert fonts.covers(font, printed)
    assert has_chinese(printed) == (family in TEXT_FAMILIES - {"stem"})
    chinese_documents(family, 2, cell_pixels=0)


def test_the_ratio_is_the_share_of_chinese_documents(font):
    documents = chinese_documents("caption", 200, cell_pixels=28, ratio=0.3)
    assert 0.2 < sum(has_chinese(document.questions[0].question) for document in documents) / 200 < 0.4


def test_without_a_font_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(fonts, "package_folder", lambda package: None)
    monkeypatch.setattr(fonts, "SYSTEM_CJK", ())
    fonts.chinese_font.cache_clear()
    with pytest.raises(ValueError, match=r"pip install mindvl\[cjk\]"):
        fonts.chinese_font("")
    fonts.chinese_font.cache_clear()


def test_a_configured_font_that_is_missing_is_not_replaced(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        fonts.chinese_font(str(tmp_path / "gone.ttf"))
