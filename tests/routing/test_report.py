"""The page: whole, in one file, with every number that it was given; and the same in a terminal."""

import base64
import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from mindvl.routing import figures
from mindvl.routing.deployment import Machine
from mindvl.routing.drawing import svg
from mindvl.routing.headline import headline_text
from mindvl.routing.measure import Measured, measure
from mindvl.routing.published import PUBLISHED
from mindvl.routing.report import deployment_text, write_report
from mindvl.routing.sample import Recording, RoutingSample, TraceMeta

MACHINE = Machine(1e6, 25e9, resident_tokens_per_s=90.0)
VOID = {"meta", "img", "br"}


def drifting(name, *, num_experts=8, layers=2, seed=0):
    """Two domains of two samples, with a picture in one of them."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(4):
        drift = np.cumsum(rng.normal(size=(64, layers, num_experts)), axis=0)
        kinds = np.zeros(64, np.uint8)
        kinds[8:40] = number == 0
        ids = np.argsort(-drift, axis=-1)[..., :2]
        samples.append(RoutingSample(ids, kinds, str(number), ("code", "Wäsche & <Web>")[number % 2]))
    return Recording(TraceMeta(name, num_experts, tuple(map(str, range(layers))), 2), samples)


@pytest.fixture(scope="module")
def measured() -> Measured:
    return measure(drifting("toy/one"))


@pytest.fixture(scope="module")
def other() -> Measured:
    return measure(drifting("toy/two", num_experts=12, layers=3, seed=1))


class Page(HTMLParser):
    """Checks that tags close in order, and collects tables, picture sources and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.pictures, self.links, self.words, self.rows = [], [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.pictures += [given["src"]] if tag == "img" else []
        self.links += [given[name] for name in ("href", "src") if name in given and tag != "img"]
        self.rows += [[]] if tag == "tr" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open) and data.strip():
            self.rows[-1].append(data.strip())

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def page_of(path):
    return Page(path.read_text(encoding="utf-8"))


def test_a_page_is_one_file_with_its_pictures_inside(measured, tmp_path):
    page = page_of(write_report([measured], out=tmp_path / "deep" / "report.html", machines=[MACHINE]))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.html"]
    assert page.links == [] and len(page.pictures) == 7
    for picture in page.pictures:
        head, _, data = picture.partition(",")
        assert head == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_the_page_holds_the_headline_the_domains_the_kinds_and_the_machine(measured, tmp_path):
    page = page_of(write_report([measured], out=tmp_path / "r.html", machines=[MACHINE], settings={"trace": "here"}))
    srp = f"{100 * float(measured.srp[16].estimate):.1f}"
    assert f"SRP {srp} %" in page.text.replace("\xa0", " ")
    rows = {row[0]: row[1:] for row in page.rows if row}
    assert rows["SRP, 16 tokens, %"][0] == srp
    assert rows["code"][0] == "2" and "Wäsche & <Web>" in rows
    assert rows["picture"][0] == "32" and rows["text"][0] == "224"
    assert "tokens/s, no overlap" in page.text and "Advised:" in page.text and "here" in page.text


def test_published_values_are_marked_and_the_trace_stands_among_them_by_srp(measured, tmp_path):
    page = page_of(write_report([measured], out=tmp_path / "r.html"))
    rows = [row for row in page.rows if row and row[-1] in ("published", "measured here")]
    assert len(rows) == len(PUBLISHED) + 1
    assert [row[0] for row in rows if row[-1] == "measured here"] == ["toy/one"]
    values = [float(row[5]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert "arXiv 2505.16056" in page.text and "On a machine" not in page.text


def test_a_comparison_sets_traces_side_by_side_without_their_sections(measured, other, tmp_path):
    page = page_of(write_report([measured, other], out=tmp_path / "c.html", compare=True))
    row = next(row for row in page.rows if row and row[0] == "SRP, 16 tokens, %")
    for place, trace in ((1, measured), (3, other)):
        interval = trace.srp[16]
        assert float(row[place]) == pytest.approx(100 * float(interval.estimate), abs=0.06)
        low, high = map(float, row[place + 1].split(" to "))
        assert (low, high) == pytest.approx((100 * float(interval.low), 100 * float(interval.high)), abs=0.06)
    assert len(page.pictures) == 4 and "Domains" not in page.text


def test_traces_that_cannot_be_told_apart_or_compared_are_refused(measured, tmp_path):
    with pytest.raises(ValueError, match="two traces are called 'toy/one'"):
        write_report([measured, measured], out=tmp_path / "r.html")
    with pytest.raises(ValueError, match="at least 2 traces, there is 1"):
        write_report([measured], out=tmp_path / "r.html", compare=True)
    with pytest.raises(ValueError, match="there is no trace"):
        write_report([], out=tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_regret_is_the_share_of_the_best_hits_that_lru_misses(measured):
    lru, best = (float(measured.hit_rate[name][3]) for name in ("lru", "belady"))
    line = next(line for line in headline_text([measured]).splitlines() if "regret" in line)
    assert line.split()[-1] == f"{100 * (1 - lru / best):.1f}" and 0 < 1 - lru / best < 1


def test_a_terminal_gets_a_column_per_trace_and_the_published_value_of_a_known_model(measured, other):
    olmoe = dataclasses.replace(other, meta=dataclasses.replace(other.meta, model="allenai/OLMoE-1B-7B-0125"))
    lines = headline_text([measured, olmoe]).splitlines()
    assert lines[0].split() == ["toy/one", "toy/two"]
    assert lines[-1].split()[-2:] == ["-", "50.91"]
    assert "published" not in headline_text([measured])


def test_the_table_of_a_terminal_marks_what_it_advises(measured):
    text = deployment_text(measured, MACHINE)
    (marked,) = (line for line in text.splitlines() if line.endswith("<- advised"))
    assert f"advised: {marked.split()[0]} experts per layer" in text


@pytest.mark.parametrize("draw", ["draw_srp", "draw_published", "draw_compared_caches", "draw_compared_layers"])
def test_figures_of_several_traces_have_labelled_axes_and_name_every_trace(draw, measured, other):
    drawn = svg(getattr(figures, draw)([measured, other]))
    assert drawn == svg(getattr(figures, draw)([measured, other])), "the same numbers give other bytes"
    (axes, *_) = getattr(figures, draw)([measured, other]).axes
    names = {
        text.get_text() for text in [*(axes.get_legend().texts if axes.get_legend() else []), *axes.get_yticklabels()]
    }
    assert axes.get_xlabel() and all(any(name in text for text in names) for name in ("toy/one", "toy/two"))


def test_sizes_stand_on_the_upper_axis_in_gigabytes_where_an_expert_has_one(measured):
    for expert_bytes, unit in ((1e6, "GB"), (None, "%")):
        (axes,) = figures.draw_caches(measured, expert_bytes=expert_bytes).axes
        (upper,) = axes.child_axes
        assert unit in upper.get_xlabel()
        assert axes.get_xlabel() == "cache size, experts per layer" and axes.get_ylabel() == "requests that hit, %"
        labels = [text.get_text() for text in axes.get_legend().texts]
        assert len(labels) == len(set(labels)) == 7


def test_an_expert_that_was_never_used_is_white_in_the_heat_map(measured):
    unused = measured.srp_experts.copy()
    unused[0, 3] = np.nan
    heat = figures.draw_layers(dataclasses.replace(measured, srp_experts=unused)).axes[0]
    shown = heat.images[0].get_array()
    assert np.isnan(np.asarray(shown)[0, -1]) and np.isfinite(np.asarray(shown)[1]).all()
