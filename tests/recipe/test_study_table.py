import pytest
from mindvl_callbacks.resolution_bootstrap import Estimate

from mindvl.recipe.study_figure import draw_study
from mindvl.recipe.study_scores import FamilyScores, Row
from mindvl.recipe.study_table import COMPARISONS, as_json, best_member, compare, markdown, verdict


def family(default, searched, *, selection=(0.5, 0.5)):
    return FamilyScores((784, 3136), default != searched, *selection, default, searched, 20.0, 16.0)


def row(name, *, members=(), **families):
    return Row(name, list(members), list(members), families)


ZERO, ONE = [0.0] * 8, [1.0] * 8
HALF = [0.0, 1.0] * 4


@pytest.fixture
def rows():
    """Two runs and their mean over two families; `a` leads on validation at the default, `b` at the searched."""
    a = row("a", ocr=family(ZERO, HALF, selection=(0.9, 0.1)), table=family(HALF, HALF, selection=(0.9, 0.1)))
    b = row("b", ocr=family(HALF, ONE, selection=(0.2, 0.8)), table=family(HALF, HALF, selection=(0.2, 0.8)))
    mean = row("mean", members=["a", "b"], ocr=family(ONE, ONE), table=family(HALF, ONE))
    return [a, b, mean]


def test_scores_weigh_families_alike_and_differences_are_of_the_same_questions(rows):
    compared = compare(rows, ["ocr", "table"])
    assert [compared[name]["default"].score for name in ("a", "b", "mean")] == [0.25, 0.5, 0.75]
    assert [compared[name]["searched"].score for name in ("a", "b", "mean")] == [0.5, 0.75, 1.0]
    assert [compared[name]["difference"].score for name in ("a", "b", "mean")] == [0.25, 0.25, 0.25]
    assert [compared[name]["moved_families"] for name in ("a", "b", "mean")] == [1, 1, 1]


def test_an_average_is_compared_with_its_members_mean_and_with_the_member_that_led_on_validation(rows):
    facts = compare(rows, ["ocr", "table"])["mean"]
    assert facts["best_members"] == {"default": "a", "searched": "b"}
    assert facts["members_default"].score == pytest.approx(0.75 - 0.375)
    assert facts["best_default"].score == pytest.approx(0.75 - 0.25)
    assert facts["members_searched"].score == pytest.approx(1 - 0.625)
    assert facts["best_searched"].score == pytest.approx(1 - 0.75)
    assert facts["both"].score == pytest.approx(1 - 0.375)
    assert facts["more_together"].score == pytest.approx(0.25 - 0.25)


def test_the_interval_of_a_difference_is_paired(rows):
    compared = compare(rows, ["table"])
    # Both are right on the same half of the questions: the scores vary, their difference does not.
    assert compared["a"]["default"].high - compared["a"]["default"].low > 0.3
    assert compared["mean"]["best_default"] == Estimate(0.0, 0.0, 0.0, 8)


def test_a_difference_helps_or_hurts_only_when_its_interval_leaves_out_nothing_changed():
    assert verdict(Estimate(0.1, 0.01, 0.2, 9)) == "helps"
    assert verdict(Estimate(-0.1, -0.2, -0.01, 9)) == "hurts"
    assert {verdict(Estimate(0.1, 0.0, 0.2, 9)), verdict(Estimate(-0.1, -0.2, 0.1, 9))} == {"within noise"}


def test_of_equal_members_the_first_is_the_best():
    same = [row(name, ocr=family(ZERO, ONE)) for name in ("a", "b")]
    assert best_member(same, ["ocr"], "default").stage == "a"


def test_the_tables_say_each_difference_with_its_interval_and_its_word(rows):
    compared = compare(rows, ["ocr"])
    text = markdown("trained", compared, num_families=1)
    assert text.startswith("## trained: 1 families, 8 test questions")
    assert "| `b` | 50.0 (" in text and "| 1 of 1 |" in text
    assert "| average | over its members' mean, default resolution | over its best member, default |" in text
    assert "| `mean` | +75.0 (" in text and "), helps | +100.0 (+100.0 to +100.0), helps |" in text
    assert "| `mean` | 100.0 (100.0 to 100.0) | 100.0 (100.0 to 100.0) | +0.0 (+0.0 to +0.0), within noise |" in text
    assert "- `mean` averages `a`, `b`; its best member on validation is `a` at the default resolution, `b` at" in text
    record = as_json(compared)["mean"]
    assert record["both"]["verdict"] == "helps" and "verdict" not in record["default"]
    assert set(COMPARISONS) <= set(record)


def test_the_figure_has_a_panel_for_each_group(rows):
    from io import BytesIO

    from PIL import Image

    groups = {"trained": compare(rows, ["ocr"]), "held out": compare(rows, ["table"])}
    picture = Image.open(BytesIO(draw_study(groups)))
    colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert {(0x3B, 0x5B, 0xDB), (0xD9, 0x48, 0x0F)} <= colours
    assert picture.width > picture.height > 300
