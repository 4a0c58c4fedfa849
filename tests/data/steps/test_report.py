import pytest

from mindvl.data.steps.decide import UnitFates
from mindvl.data.steps.report import build_report, print_report, step_rows, to_markdown
from mindvl.data.steps.sources import Unit
from mindvl.data.steps.unit import READ, Fate


@pytest.fixture
def recipe(recipe, small_recipe):
    """The recipe without the source `stem`: every rendered source of a report has units."""
    return recipe(sources={name: source for name, source in small_recipe["sources"].items() if name != "stem"})


def made_up(recipe):
    """Seven samples of `ocr`, one rejected, two dropped as duplicates, and one of `text`."""
    fates = [Fate(f"s{n}", chars=10 * n, picture_sizes=[[28, 100 * n]], picture_bytes=1000) for n in range(1, 8)]
    for number in (2, 3):
        fates[number].dropped_at, fates[number].reason = 0, "looks like | one"
    fates[4].dropped_at, fates[4].reason = READ, "no file"
    fates[6].picture_sizes = [[56, 10], [84, 20]]
    done = [UnitFates(Unit(0, "ocr", "train"), fates), UnitFates(Unit(1, "text", "train"), [Fate("t", chars=5)])]
    return build_report(recipe, "f00d", done, [{"path": "train/ocr-000000.tar", "samples": 4}])


def test_counts_go_in_and_out_of_each_step(recipe):
    report = made_up(recipe)
    steps = report["sources"]["ocr"]["steps"]
    names = ["read", "duplicate_pictures", "duplicate_texts", "well_formed", "text_share"]
    assert [step["step"] for step in steps] == names
    assert [(step["in"], step["out"]) for step in steps] == [(7, 6), (6, 4), (4, 4), (4, 4), (4, 4)]
    assert steps[0]["dropped"] == {"no file": {"samples": 1, "examples": ["s5"]}}
    assert steps[1]["dropped"] == {"looks like | one": {"samples": 2, "examples": ["s3", "s4"]}}
    assert report["sources"]["absent"] == {"category": "absent", "absent": "nowhere.json", "steps": []}


def test_totals_agree_with_numbers_worked_by_hand(recipe):
    report = made_up(recipe)
    # Kept: s1, s2, s6 and s7 (10 + 20 + 60 + 70 characters, 5 pictures) and t (5 characters, none).
    expected = {"samples": 5, "pictures": 5, "picture_bytes": 4000, "mean_chars": 33.0, "text_only_ratio": 0.2}
    assert report["splits"]["train"] == expected and report["samples"] == 5
    assert report["splits"]["test"]["samples"] == 0
    assert report["train_categories"]["text"] == {
        "samples": 1, "pictures": 0, "picture_bytes": 0, "mean_chars": 5.0, "text_only_ratio": 1.0,
    }  # fmt: skip
    assert report["picture_pixels"]["width"] == {"min": 10, "10%": 10, "median": 100, "90%": 200, "max": 600}
    assert report["picture_pixels"]["height"]["max"] == 84


def test_only_a_few_examples_are_named(recipe):
    fates = [Fate(f"s{n}", 0, "same") for n in range(9)] + [Fate("kept")]
    text = UnitFates(Unit(1, "text", "train"), [Fate("t")])
    report = build_report(recipe, "f00d", [UnitFates(Unit(0, "ocr", "train"), fates), text], [])
    assert step_rows(report, only_drops=True) == [["ocr", "duplicate_pictures", "10", "1", "9 same (s0, s1, s2)"]]
    assert report["picture_pixels"] == {}


def test_the_report_can_be_read(recipe, capsys):
    report = made_up(recipe)
    text = to_markdown(report)
    assert "| ocr | duplicate_pictures | 6 | 4 | 2 looks like / one (s3, s4) |" in text
    assert "- absent: `nowhere.json`" in text and "| height | 28 | 28 | 28 | 56 | 84 |" in text
    widths = {line.count("|") for line in text.split("## What the steps did")[1].splitlines() if line}
    assert widths == {6}
    print_report(report)
    said = capsys.readouterr().out
    assert "left out: nowhere.json is not there" in said
    assert "duplicate_pictures         2 dropped: looks like | one, such as s3" in said
    assert "5 samples, 5 pictures of 0.0 MB, 33 characters a sample, 20.0 % text-only" in said
