import base64
import copy
import io
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mindvl.recipe.curves import StageCurves, draw_loss, draw_throughput, read_metrics
from mindvl.recipe.report import SampleCard, budget_rows, duration, write_report

FAMILIES = ("caption", "counting", "ocr_line", "receipt", "table", "chart_bar", "grounding", "stem")
STAGES = ("language", "warmup", "multitask", "multitask_512", "multitask_1024", "multitask_2048", "instruction")
HOSTILE = "<script>alert('1 & 2')</script>"
VOID_TAGS = {"meta", "img", "br", "link"}


def fake_curves(name, *, steps=300, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(steps):
        loss = 0.3 + 3 * math.exp(-step / 60) * (1 + 0.1 * rng.standard_normal())
        rows.append({"step": step, "train/loss": loss, "train/pack_fill_ratio": rng.uniform(0.93, 1.0)})
        if step % 20 == 19:
            speed = rng.uniform(8000, 9000) * (1 + seed / 4)
            rows.append({"step": step, "throughput/tokens_per_s": speed, "throughput/model_flops_ratio": speed / 4e4})
            rows.append({"step": step, "validation/loss": loss * 1.1})
    return StageCurves(name, rows)


def fake_picture(text, *, size=(168, 56), kind="PNG"):
    image = Image.new("RGB", size, "#f4efe2")
    ImageDraw.Draw(image).text((8, 12), text, fill="#222", font_size=26)
    with io.BytesIO() as stream:
        image.save(stream, kind)
        return stream.getvalue()


def fake_results():
    scores = {family: 0.5 + 0.053 * index for index, family in enumerate(FAMILIES)}
    blank = {family: 0.02 * index for index, family in enumerate(FAMILIES)}
    single = {family: score - 0.02 for family, score in scores.items()}
    grid = [
        {
            "min_pixels": 3136,
            "max_pixels": side * side,
            "selection_score": score,
            "mean_visual_tokens": side * side / 1200,
        }
        for side, score in ((112, 0.31), (168, 0.52), (224, 0.66), (280, 0.683), (336, 0.671), (448, 0.64))
    ]
    return {
        "scores": scores | {"mean": sum(scores.values()) / len(scores)},
        "blank_scores": blank | {"mean": sum(blank.values()) / len(blank)},
        "singles": {
            "512": single | {"mean": 0.611},
            "1024": single | {"mean": 0.622},
            "2048": single | {"mean": 0.604},
        },
        "average": scores | {"mean": 0.634},
        "resolution": {
            "selection_split": "validation",
            "grid": grid,
            "default": {"min_pixels": 3136, "max_pixels": 336 * 336, "test_score": 0.668},
            "chosen": grid[3] | {"test_score": 0.677},
        },
        "questions": dict.fromkeys(FAMILIES, 150),
        "metrics": dict.fromkeys(FAMILIES, "exact match"),
        "train_s": 412.0,
        "total_s": 650.0,
    }


def fake_settings():
    lengths = {"multitask_512": 512, "multitask_2048": 2048}
    stages = [
        {"name": name, "phase": name.split("_")[0], "sequence_length": lengths.get(name, 1024), "steps": 300}
        | {"seconds": 58.9, "start_from": "multitask" if "_" in name else None}
        for name in STAGES
    ]
    return {
        "device": "CPU, 2 cores",
        "precision": "32-true",
        "versions": {"torch": "2.13.0", "lightning": "2.6.6"},
        "seed": 0,
        "stages": stages,
        "skipped": {"no answer fits 512 tokens": 3},
        "samples": {"ocr_line": 5000, "text_table": 3000},
    }


def fake_samples():
    cards = [SampleCard("ocr_line", fake_picture(HOSTILE[:9]), HOSTILE, HOSTILE, HOSTILE, 1.0)]
    cards += [
        SampleCard(family, fake_picture("velo tam", size=size), "read the text.", "velo tam", prediction, score)
        for family, size in (("ocr_line", (168, 56)), ("receipt", (140, 168)), ("caption", (112, 112)))
        for prediction, score in (("velo tam", 1.0), ("velo lam", 0.0), ("velo", 0.5), ("", 0.0))
    ]
    return [*cards, SampleCard("caption", fake_picture("jpeg", kind="JPEG"), "图中写了什么？", "jpeg", "jpeg", 1.0)]


def write(out, **changes):
    arguments = {
        "results": fake_results(),
        "stages": [fake_curves(name, steps=150 + 90 * seed, seed=seed) for seed, name in enumerate(STAGES)],
        "samples": fake_samples(),
        "settings": fake_settings(),
    } | changes
    return write_report(arguments.pop("results"), out=out, **arguments)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write(tmp_path_factory.mktemp("report"))


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open_tags, self.tags, self.sources, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name == "src"]
        if tag not in VOID_TAGS:
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(path):
    return Page(path.read_text(encoding="utf-8"))


def test_every_tag_is_closed_and_none_is_a_script_or_a_link_to_elsewhere(report):
    page = page_of(report)
    assert page.open_tags == [] and not {"script", "link", "iframe"} & set(page.tags)
    assert re.findall(r"https?://|src=\"(?!data:)|@import|url\(", report.read_text(encoding="utf-8")) == []


def test_the_headline_and_every_family_show_their_scores(report):
    results, text = fake_results(), page_of(report).text
    for name in ("scores", "blank_scores"):
        for family in (*FAMILIES, "mean"):
            assert f"{100 * results[name][family]:.1f}" in text
    headline = text[text.index("After") : text.index("Stages")]
    for words in ("6 min 52 s", "60.6 % of text-line questions", "68.5 %", "7.0 %", "10 min 50 s on CPU, 2 cores"):
        assert words in headline


def test_texts_of_the_data_are_escaped_and_still_readable(report):
    assert "<script" not in report.read_text(encoding="utf-8")
    assert page_of(report).text.count(HOSTILE) == 3
    assert "图中写了什么？" in page_of(report).text


def test_every_picture_is_inside_the_page_and_decodes(report):
    sources = page_of(report).sources
    kinds = [re.match(r"data:image/(png|jpeg);base64,", source)[1] for source in sources]
    assert kinds.count("jpeg") == 1 and len(sources) == 5 + len(fake_samples())
    for source in sources:
        Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1], validate=True))).load()


def test_the_curves_beside_the_page_are_real_pictures_and_the_same_as_inside(report):
    files = {path.stem: path.read_bytes() for path in (report.parent / "curves").glob("*.png")}
    assert files.keys() == {"loss", "fill", "throughput", "averaging", "resolution"}
    sources = page_of(report).sources
    for png in files.values():
        assert len(png) > 10_000
        assert "data:image/png;base64," + base64.b64encode(png).decode() in sources


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ([], "blank_scores"),
        ([], "train_s"),
        (["scores"], "mean"),
        (["blank_scores"], "ocr_line"),
        (["questions"], "stem"),
        (["resolution"], "selection_split"),
        (["resolution", "chosen"], "test_score"),
        (["resolution", "grid", 2], "mean_visual_tokens"),
    ],
)
def test_a_missing_number_is_named_before_anything_is_written(tmp_path, path, key):
    results = copy.deepcopy(fake_results())
    inner = results
    for step in path:
        inner = inner[step]
    del inner[key]
    with pytest.raises(ValueError, match=re.escape(f"lacks '{key}'; it has '")):
        write(tmp_path, results=results)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", [None, *fake_settings()])
def test_any_setting_may_be_missing(tmp_path, key):
    settings = {} if key is None else {name: value for name, value in fake_settings().items() if name != key}
    assert page_of(write(tmp_path, settings=settings, stages=[], samples=[])).open_tags == []
    assert {path.stem for path in (tmp_path / "curves").iterdir()} == {"averaging", "resolution"}


def test_singles_may_be_mean_scores_alone_and_the_verdict_says_which_is_better(tmp_path):
    results = fake_results() | {"singles": {"512": 0.61, "1024": 0.62, "2048": 0.60}}
    for average, verdict in ((0.63, "1.0 points above"), (0.58, "4.0 points below"), (0.6201, "the same as")):
        text = page_of(write(tmp_path, results=results | {"average": average}, stages=[])).text
        assert f"{verdict} the best single length (1024 tokens, 62.0 %)." in text


def test_default_and_chosen_budgets_are_marked_also_when_the_default_was_not_searched():
    resolution = fake_results()["resolution"]
    picks = {row["max_pixels"]: row["picks"] for row in budget_rows(resolution)}
    assert picks[336 * 336] == ["default"] and picks[280 * 280] == ["chosen"] and picks[112 * 112] == []
    resolution["default"]["max_pixels"] = 999_999
    assert budget_rows(resolution)[-1]["picks"] == ["default"]


def test_metrics_are_read_without_their_empty_cells(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,step,train/loss,validation/loss\n0,9,2.5,\n0,9,,2.75\n", encoding="utf-8")
    rows = read_metrics(file)
    assert rows == [{"epoch": 0, "step": 9, "train/loss": 2.5}, {"epoch": 0, "step": 9, "validation/loss": 2.75}]
    assert StageCurves("one", rows).series("validation/loss") == ([9.0], [2.75])


def test_stages_that_diverged_or_logged_nothing_are_drawn_all_the_same():
    broken = StageCurves("broken", [{"step": 0, "train/loss": math.nan}, {"step": 1, "train/loss": math.inf}])
    zero = StageCurves("zero", [{"step": 0, "train/loss": 0.0}])
    assert draw_throughput([broken, StageCurves("empty", [])]) is None
    for stages in ([broken], [zero], [broken, zero, StageCurves("empty", []), fake_curves("fine")]):
        Image.open(io.BytesIO(draw_loss(stages))).load()


def test_a_budget_with_several_floors_is_drawn(tmp_path):
    results = fake_results()
    results["resolution"]["grid"] += [point | {"min_pixels": 12544} for point in results["resolution"]["grid"]]
    write(tmp_path, results=results, stages=[])
    assert "12,544" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "curves" / "resolution.png").stat().st_size > 10_000


def test_a_sample_that_is_no_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"b'GIF8'.*neither PNG nor JPEG"):
        write(tmp_path, stages=[], samples=[SampleCard("ocr_line", b"GIF89a", "q", "a", "a", 1.0)])


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (412, "6 min 52 s"), (59.96, "1 min 0 s"), (3720, "1 h 2 min")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_importing_the_report_costs_neither_matplotlib_nor_jinja():
    program = "import sys, mindvl.recipe.report; print({'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
