"""Toys in two steps: their sizes, that finished ones are kept, and what the table makes of the paper's order."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mindvl.routing import toy_text
from mindvl.routing.ablation import ablate
from mindvl.routing.ablation_table import rank_agreement, table_text
from mindvl.routing.expert_size import expert_parameters
from mindvl.routing.matchers import find_moe_layers
from mindvl.routing.texts import read_documents
from mindvl.routing.toy import ToyMoE, ToySettings, Windows, build_toy, read_toy

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*"),
]
SMALL = ToySettings("small", num_experts=4, k=2, expert_size=8, hidden_size=16, layers=2, heads=2)


def small(**changes):
    return build_toy(replace(SMALL, **changes), vocabulary=50, end_token_id=0)


def test_dense_and_shared_are_what_the_settings_say():
    names = {dense: [layer.name for layer in find_moe_layers(small(dense=dense, layers=4))] for dense in
             ("none", "first", "half")}  # fmt: skip
    numbers = {dense: [int(name.split(".")[2]) for name in found] for dense, found in names.items()}
    assert numbers == {"none": [0, 1, 2, 3], "first": [1, 2, 3], "half": [1, 3]}
    assert [find_moe_layers(small(shared_experts=shared))[0].shared_experts for shared in (0, 1, 2)] == [0, 1, 2]


def test_an_expert_has_three_matrices():
    assert expert_parameters(small()) == 3 * 16 * 8


def test_even_use_costs_k_and_uneven_use_costs_more():
    module = ToyMoE(SMALL, vocabulary=50, end_token_id=0)
    even = torch.tensor([[3.0, 3, 0, 0], [0, 0, 3, 3]]).repeat(8, 1)
    assert module._unevenness(even).item() == pytest.approx(2)
    assert module._unevenness(even[:1]).item() > 3


def test_balance_is_taken_layer_by_layer():
    """Layer 0 uses experts 0 and 1 alone, layer 1 the others: even when pooled, uneven in each."""
    module = ToyMoE(SMALL, vocabulary=50, end_token_id=0)
    layers = [torch.tensor([[3.0, 3, 0, 0]]), torch.tensor([[0, 0, 3.0, 3]])]
    assert torch.stack([module._unevenness(logits) for logits in layers]).mean() > 3
    assert module._unevenness(torch.cat(layers)).item() == pytest.approx(2)


def test_windows_are_the_same_for_a_seed_and_domains_take_turns():
    streams = [np.arange(100), np.arange(1000, 1100)]
    first, again = (Windows(streams, length=5, rows=4, seed=1) for _ in range(2))
    rows = [first[number].tolist() for number in range(4)]
    assert rows == [again[number].tolist() for number in range(4)]
    assert [row[0] >= 1000 for row in rows] == [False, True, False, True]
    assert rows != [Windows(streams, length=5, rows=4, seed=2)[number].tolist() for number in range(4)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("experts: 4", "unknown key 'experts'; known are num_experts"),
        ("k: four", "k is 'four', not int"),
        ("k: 40", "k is 40, a layer has 32 experts"),
        ("dense: some", "dense is 'some'"),
        ("[1, 2]", "holds a list"),
        ("k: [", "is not YAML"),
    ],
)
def test_configs_that_make_no_toy_are_refused(content, words, tmp_path):
    (tmp_path / "toy.yaml").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_toy(tmp_path / "toy.yaml")


def made(name):
    return lambda: ((f"{name} {number}", f"{name} {number} = {number * 7}\n" * 20) for number in range(60))


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Two configs of a tiny size, on texts of two made domains."""
    monkeypatch.setattr(toy_text, "DOMAINS", {name: made(name) for name in ("sums", "words")})
    monkeypatch.setattr("mindvl.routing.ablation.TRAIN_CHARS", 6000)
    monkeypatch.setattr("mindvl.routing.ablation.HELD_OUT_CHARS", 2000)
    monkeypatch.setattr("mindvl.routing.toy.VOCABULARY", 300)
    sizes = "num_experts: 4\nk: 2\nexpert_size: 8\nhidden_size: 16\nlayers: 2\nheads: 2\nlength_tokens: 32\nrows: 2\n"
    files = [tmp_path / "baseline.yaml", tmp_path / "strong_balance.yaml"]
    for file, balance in zip(files, (0.01, 1.0), strict=True):
        file.write_text(f"{sizes}balance: {balance}\nsteps: 3\n")
    return files


def test_a_run_is_trained_recorded_and_measured_and_not_run_again(toys, tmp_path):
    out, said = tmp_path / "out", []
    table = ablate(toys, out, steps=2, say=said.append)
    assert (out / "table.md").read_text() == table + "\n"
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        "texts", "tokenizer", "baseline-seed0", "strong_balance-seed0", "table.md", "table.json",
    }  # fmt: skip
    result = json.loads((out / "baseline-seed0" / "result.json").read_text())
    assert result["settings"]["steps"] == 2 and 0 < result["srp"][1] <= result["srp"][0] <= result["srp"][2] <= 1
    assert "strong_balance" in table and "OverLB" in table and "1 pairs as in the paper" in table

    result["srp"] = [0.9, 0.9, 0.9]
    (out / "baseline-seed0" / "result.json").write_text(json.dumps(result))
    said.clear()
    assert "90.0 (90.0 to 90.0)" in ablate(toys, out, steps=2, say=said.append)
    assert said == ["baseline, seed 0: finished before", "strong_balance, seed 0: finished before"]
    shutil.rmtree(out / "baseline-seed0")
    assert "90.0 (90.0 to 90.0)" not in ablate(toys, out, steps=2)
    with pytest.raises(ValueError, match="was made with steps=2, now it is 3"):
        ablate(toys, out)


def test_runs_side_by_side_come_to_the_same_numbers(toys, tmp_path):
    ablate(toys, tmp_path / "one", steps=2)
    for name in ("texts", "tokenizer"):
        shutil.copytree(tmp_path / "one" / name, tmp_path / "two" / name)
    ablate(toys, tmp_path / "two", steps=2, jobs=2)
    for name in ("baseline", "strong_balance"):
        one, two = (
            json.loads((tmp_path / folder / f"{name}-seed0" / "result.json").read_text()) for folder in ("one", "two")
        )
        assert one["srp"] == two["srp"] and one["held_out_loss"] == pytest.approx(two["held_out_loss"])


def test_texts_are_split_by_document(toys, tmp_path):
    toy_text.make_texts(tmp_path / "texts", train_chars=5000, held_out_chars=1000)
    seen = {
        split: {text[:8] for text in read_documents([tmp_path / "texts" / split / "sums.jsonl"])}
        for split in toy_text.SPLITS
    }
    assert seen["train"] and seen["held_out"] and not seen["train"] & seen["held_out"]
    with pytest.raises(ValueError, match="characters of train text are here, 10000000 were asked for"):
        toy_text.make_texts(tmp_path / "more", train_chars=10_000_000, held_out_chars=1000)


def test_made_domains_are_the_same_every_time_and_sums_are_right():
    for name in ("arithmetic", "json", "chinese"):
        first, again = (next(iter(toy_text.DOMAINS[name]())) for _ in range(2))
        assert first == again
    for line in next(iter(toy_text.DOMAINS["arithmetic"]()))[1].splitlines():
        left, _, right = line.partition(" = ")
        a, sign, b = left.split()
        assert int(right) == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]


def row(name, srp, balance, paper_srp, paper_balance, *, reach=0.005):
    paper = {"name": name, "srp": paper_srp, "balance": paper_balance, "lru": None}
    srps = [srp, srp - reach, srp + reach]
    return {"name": name, "seeds": 1, "srp": srps, "floor": 0.2, "balance": balance, "lru": [srps] * 3,
            "domain_specialization": 0.5, "held_out_loss": 3.0, "paper": paper}  # fmt: skip


def test_order_is_compared_by_pairs_and_those_that_overlap_are_counted_apart():
    rows = [row("a", 0.6, 5, 0.5, 9), row("baseline", 0.5, 4, 0.45, 4), row("c", 0.497, 3, 0.46, 2)]
    assert rank_agreement(rows, "srp") == {
        "pairs": 3, "agreeing": 2, "kendall_tau": pytest.approx(1 / 3), "apart": 2, "apart_agreeing": 2,
    }  # fmt: skip
    assert rank_agreement(rows, "balance") == {"pairs": 3, "agreeing": 3, "kendall_tau": 1.0}
    text = table_text(rows, {name: rank_agreement(rows, name) for name in ("srp", "balance")})
    assert "- a: +10.0 points against the baseline, in the paper +5.0: agrees" in text
    assert "- c: -0.3 points against the baseline, in the paper +1.0: disagrees" in text


def test_a_toy_that_the_paper_does_not_have_is_listed_without_a_place_in_its_order():
    rows = [row("a", 0.6, 5, 0.5, 9), row("mine", 0.5, 4, 0, 0) | {"paper": None}]
    assert rank_agreement(rows, "srp")["pairs"] == 0
    assert "| mine |" in table_text(rows, {name: rank_agreement(rows, name) for name in ("srp", "balance")})
