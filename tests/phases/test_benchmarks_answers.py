"""Files of answers: what a killed run leaves, and what is not to be mixed."""

import json

import pytest
import torch

from mindvl.eval.metrics.mme import CATEGORIES
from mindvl.phases.benchmarks_answers import AnswerWriter, OtherSettingsError, as_json, read_answers
from mindvl.phases.benchmarks_identity import config_hash, differences, weights_hash
from mindvl.phases.benchmarks_summary import lacking, paper_overall, score_table

SETTINGS = {"model": "m", "decoding": {"seed": 0}}


@pytest.fixture
def write(tmp_path):
    """Lines with these ids by one rank; returns the file."""

    def lines(*ids, rank=0, settings=SETTINGS):
        writer = AnswerWriter(tmp_path, "docvqa", rank, settings)
        for id in ids:
            writer.write({"id": id})
        writer.close()
        return tmp_path / f"docvqa.rank-{rank:05d}.jsonl"

    return lines


def test_every_byte_at_which_a_run_may_be_killed_leaves_whole_lines_alone(write, tmp_path):
    content = write("a", "\u00fc", "c").read_bytes()
    for end in range(len(content) + 1):
        file = tmp_path / "docvqa.rank-00000.jsonl"
        file.write_bytes(content[:end])
        whole = max(content[:end].count(b"\n") - 1, 0)
        assert list(read_answers(tmp_path, "docvqa", SETTINGS)) == ["a", "\u00fc", "c"][:whole]
        left = [id for id in ("a", "\u00fc", "c") if id not in read_answers(tmp_path, "docvqa", SETTINGS)]
        write(*left)
        assert file.read_bytes() == content


def test_files_of_all_ranks_are_read_and_those_of_other_benchmarks_are_not(write, tmp_path):
    write("a"), write("b", "c", rank=1)
    (tmp_path / "docvqa_small.rank-00000.jsonl").write_text("no JSON\n")
    assert set(read_answers(tmp_path, "docvqa", SETTINGS)) == {"a", "b", "c"}
    assert read_answers(tmp_path / "none", "docvqa", SETTINGS) == {}


def test_an_id_that_has_two_answers_is_refused_with_file_and_line(write, tmp_path):
    write("a"), write("b", "a", rank=1)
    with pytest.raises(ValueError, match=r"docvqa.rank-00001.jsonl, line 3: question a has an answer in this folder"):
        read_answers(tmp_path, "docvqa", SETTINGS)


@pytest.mark.parametrize(
    ("line", "said"), [("{no", "is no JSON"), ("[]", "has no 'id'"), ('{"settings": {}}', "has no 'id'")]
)
def test_a_line_that_was_not_written_here_is_refused_with_file_and_line(line, said, write, tmp_path):
    file = write("a")
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ValueError, match=f"docvqa.rank-00000.jsonl, line 3 {said}"):
        read_answers(tmp_path, "docvqa", SETTINGS)


def test_other_settings_are_refused_with_both_values(write, tmp_path):
    write("a")
    with pytest.raises(OtherSettingsError, match=r"\(model: m, now n; decoding.seed: 0, now 1\)"):
        read_answers(tmp_path, "docvqa", {"model": "n", "decoding": {"seed": 1}})
    assert differences({"a": 1}, {"b": 2}) == ["b: None, now 2", "a: 1, now None"]


def test_a_line_of_json_has_one_end_for_every_reader():
    text = "a\u0085b\u2028c\u2029d\x0be\n"
    assert len(as_json({"raw": text}).splitlines()) == 1 and json.loads(as_json({"raw": text}))["raw"] == text


def test_the_hash_of_weights_changes_with_any_of_them_and_not_with_where_they_lie(make_model):
    model = make_model()
    before = weights_hash(model)
    assert weights_hash(make_model()) == before and weights_hash(make_model(seed=1)) != before
    assert weights_hash(make_model().to(torch.bfloat16)) != before
    with torch.no_grad():
        model.vision.merger.mlp[2].bias[-1] += 1e-6
    assert weights_hash(model) != before


def test_the_hash_of_a_configuration_is_of_what_is_computed(make_model, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    saved = type(model).from_pretrained(tmp_path)
    assert config_hash(saved.config) == config_hash(model.config)
    assert config_hash(make_model(language={"rms_norm_eps": 1e-3}).config) != config_hash(model.config)


SIX = {"mme": 80.0, "mmbench": 60.0, "ocrbench": 70.0, "docvqa": 90.0, "chartqa": 85.0, "infovqa": 65.0}


@pytest.fixture
def summaries():
    """The paper's six, of which MME has all of its categories."""
    points = dict.fromkeys(CATEGORIES, 160.0)
    return {
        f"my_{name}": {"benchmark": name, "score": score, "by_category": points if name == "mme" else {}}
        for name, score in SIX.items()
    }


def test_overall_is_the_mean_of_the_six_whatever_their_labels_and_absent_unless_each_is_there_once(summaries):
    assert paper_overall(summaries) == pytest.approx(75.0)
    assert paper_overall({**summaries, "ai2d": {"benchmark": "ai2d", "score": 1.0}}) == pytest.approx(75.0)
    assert paper_overall({**summaries, "again": {"benchmark": "mme", "score": 1.0}}) is None
    assert paper_overall({**summaries, "my_mme": {"benchmark": "mme", "score": None}}) is None
    assert paper_overall({label: one for label, one in summaries.items() if label != "my_mme"}) is None


def test_there_is_no_overall_of_a_part_of_mme_and_what_is_lacking_is_said(summaries):
    part = {name: 160.0 for name in CATEGORIES if name not in ("count", "OCR")}
    partial = {**summaries, "my_mme": {**summaries["my_mme"], "by_category": part}}
    assert lacking(summaries) == [] and paper_overall(partial) is None
    assert lacking(partial) == ["mme (12 of 14 categories; it lacks count, OCR)"]
    del partial["my_docvqa"]
    partial["my_infovqa"]["score"] = None
    assert lacking(partial)[1:] == ["docvqa", "infovqa (its answers are not public)"]
    again = {**summaries, "again": summaries["my_mmbench"]}
    assert lacking(again)[0] == "mmbench (asked 2 times)"


def test_the_table_has_a_line_per_benchmark_also_for_one_whose_answers_are_not_public():
    rest = {
        "benchmark": "docvqa",
        "n": 3,
        "failed": [["1", "torn"]],
        "unjudged": [],
        "mean_visual_tokens": 4.5,
        "seconds": 2.0,
    }
    known = {"score": 50.0, "interval": {"low": 40.0, "high": 60.0}, "parts": ["DocVQA_VAL"], **rest}
    kept = {"score": None, "interval": None, "parts": ["DocVQA test"], **rest}
    table = score_table({"docvqa": known, "docvqa_test": kept}, 75.0).splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["docvqa", "50.0"], ["docvqa_test", "-"], ["overall", "75.0"]]
    assert "40.0 to  60.0" in table[1] and table[1].endswith("DocVQA_VAL")
    (line,) = score_table({"docvqa": known}, None).splitlines()[2:]
    assert line == "overall        -  without mme, mmbench, ocrbench, chartqa, infovqa"
    assert len(score_table({"ai2d": {**known, "benchmark": "ai2d"}}, None).splitlines()) == 2
