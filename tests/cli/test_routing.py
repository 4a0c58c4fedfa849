"""`mindvl routing`: from a model and texts to a trace to a page, the callback on a MindVL, and what is refused."""

import json

import lightning as L
import pytest
import torch
from mindvl_callbacks import RoutingConsistency
from transformers import AutoConfig, AutoModelForCausalLM

from mindvl.cli.main import VERBS
from mindvl.routing.recorder import RoutingRecorder
from mindvl.routing.trace import Trace

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*"),
    pytest.mark.filterwarnings("ignore:.*does not have any optimizer"),
]
MOE = {
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(VERBS, "routing", ("mindvl.cli.routing", "how a mixture of experts routes"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "code-1.txt").write_text("for number in range(10): print(number)\n" * 40)
    lines = [
        json.dumps({"text": f"It was the best of times{'!' * (number % 5)} And the worst"}) for number in range(99)
    ]
    (folder / "prose.jsonl").write_text("\n".join(lines))
    return folder


def saved(folder, tokenizer, kind="qwen3_moe", **sizes):
    given = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2}
    given |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given | sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    sizes = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    return saved(tmp_path_factory.mktemp("model") / "tiny-moe", tokenizer, **sizes)


@pytest.fixture
def trace(mindvl, model, texts, tmp_path):
    done = mindvl(
        "routing", "record", model, "-o", tmp_path / "trace", "--texts", texts, "--max-tokens", 2000, "--length", 64
    )
    assert done.status == 0, done.err
    return tmp_path / "trace"


def test_texts_are_cut_labelled_and_recorded_as_the_model_routes_them(trace, model, texts, tokenizer):
    recorded = Trace(trace)
    assert sorted(set(recorded.domains)) == ["code", "prose"]
    assert {len(ids) for ids in recorded} == {64} and recorded.num_tokens == 2 * 15 * 64
    settings = json.loads((trace / "record.json").read_text())
    assert settings["expert_parameters"] == 3 * 24 * 32
    assert settings["domains"]["code"] == {"samples": 15, "tokens": 960}

    ids = tokenizer((texts / "code-1.txt").read_text(), add_special_tokens=False)["input_ids"][64:128]
    loaded = AutoModelForCausalLM.from_pretrained(model).eval()
    with RoutingRecorder(loaded) as recorder, torch.no_grad():
        loaded(input_ids=torch.tensor([ids]))
    assert recorded.sample(1).key == "code/1"
    assert recorded.sample(1).ids.tolist() == recorder.recording().sample(0).ids.tolist()


def test_documents_are_kept_whole_and_named_domains_take_any_path(mindvl, model, texts, tmp_path):
    out = tmp_path / "trace"
    done = mindvl("routing", "record", model, "-o", out, "--domain", f"stories={texts}/prose.jsonl", "--documents",
                  "--max-tokens", 600, "--length", 60)  # fmt: skip
    assert done.status == 0, done.err
    assert set(Trace(out).domains) == {"stories"} and len({len(ids) for ids in Trace(out)}) > 1


def test_a_report_prints_the_headline_and_the_table_and_writes_a_page(mindvl, trace, tmp_path):
    page = tmp_path / "report.html"
    done = mindvl("routing", "report", trace, "-o", page, "--link-gb-s", 10, "--memory-gb", 1)
    assert done.status == 0, done.err
    assert "SRP, 16 tokens, %" in done.out and "experts of 0.00461 MB over 10 GB/s" in done.out
    assert "all experts fit into 1 GB" in done.out and done.out.rstrip().endswith(str(page))
    assert "data:image/svg+xml" in page.read_text(encoding="utf-8")


def test_two_traces_are_compared_under_names_of_their_own(mindvl, trace, tmp_path):
    page = tmp_path / "compare.html"
    done = mindvl("routing", "compare", f"before={trace}", f"after={trace}", "-o", page, "--only-domain", "code")
    assert done.status == 0, done.err
    assert done.out.splitlines()[0].split() == ["before,", "code", "after,", "code"] and page.is_file()


def test_a_dense_model_is_refused(mindvl, texts, tmp_path, tokenizer):
    dense = saved(tmp_path / "dense", tokenizer, "qwen3")
    done = mindvl("routing", "record", dense, "-o", tmp_path / "trace", "--texts", texts)
    assert done.status == 2 and "has no MoE layer of a known family" in done.complaint


def test_human_errors_of_record_are_one_line(mindvl, model, texts, trace, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    read = ["routing", "record", model, "-o", tmp_path / "new"]
    for arguments, words in (
        ([*read], "nothing to read"),
        (
            [*read, "--texts", tmp_path / "empty.txt"],
            "domain empty: 1 files with 0 tokens, less than one sample of 512",
        ),
        ([*read, "--texts", tmp_path / "none.txt"], "names no text file"),
        ([*read, "--texts", texts, "--length", 9999, "--max-tokens", 99999], "less than one sample of 9999"),
        ([*read, "--texts", texts, "--max-tokens", 5], "--max-tokens is 5, less than one sample of --length 512"),
        ([*read, "--domain", "code"], "--domain is NAME=PATH, got 'code'"),
        (["routing", "record", model, "-o", trace, "--texts", texts], "already holds a trace"),
        (["routing", "record", tmp_path, "-o", tmp_path / "new", "--texts", texts], "it has no config.json"),
    ):
        done = mindvl(*arguments)
        assert done.status == 2 and words in done.complaint, (arguments, done.err)
    assert not (tmp_path / "new").exists()


def test_human_errors_of_report_are_one_line(mindvl, trace, tmp_path):
    report = ["-o", tmp_path / "page.html"]
    for arguments, words in (
        (["report", tmp_path, *report], "holds no routing trace"),
        (["report", trace, *report, "--only-domain", "math"], "has no domain 'math'; it has code, prose"),
        (["report", trace, *report, "--segment-lengths", 65], "segments of 65 tokens were asked for"),
        (["report", trace, *report, "--expert-bytes", 0], "expert_bytes is 0"),
        (["report", trace, *report, "--memory-gb", 1e-9], "hold no cache"),
        (["compare", trace, *report], "compare takes at least 2 traces, there is 1"),
        (["compare", trace, trace, *report], "two traces are called 'trace'"),
    ):
        done = mindvl("routing", *arguments)
        assert done.status == 2 and words in done.complaint, (arguments, done.err)
    with (trace / "ids.bin").open("r+b") as file:
        file.truncate(64 * 2 * 2 * 2 * 3 + 5)
    done = mindvl("routing", "report", trace, *report)
    assert done.status == 2 and "3 samples with 192 tokens are whole" in done.complaint
    assert not (tmp_path / "page.html").exists()
    assert mindvl("routing", "report", trace, *report, "--partial").status == 0


def test_a_mindvl_reads_its_shards_with_pictures(mindvl, make_model, tokenizer, corpus, tmp_path):
    folder = tmp_path / "mindvl"
    make_model(language=MOE).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    out = tmp_path / "trace"
    done = mindvl("routing", "record", folder, "-o", out, "--shards", corpus / "train" / "ocr-*.tar",
                  corpus / "train" / "counting-*.tar", "--max-tokens", 1200, "--length", 300)  # fmt: skip
    assert done.status == 0, done.err
    recorded = Trace(out)
    assert set(recorded.domains) == {"ocr", "counting"}
    assert {int(kind) for number in range(len(recorded)) for kind in recorded.sample(number).kinds} == {0, 1}
    done = mindvl("routing", "report", out, "-o", tmp_path / "page.html")
    assert done.status == 0 and "Pictures, text, generated" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_shards_are_for_a_mindvl(mindvl, model, corpus, tmp_path):
    done = mindvl("routing", "record", model, "-o", tmp_path / "t", "--shards", corpus / "train" / "ocr-*.tar")
    assert done.status == 2 and "--shards are read by a MindVL" in done.complaint


class Validated(L.LightningModule):
    """A foreign module around a mixture of experts."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def validation_step(self, batch, batch_idx):
        self.model(input_ids=batch, use_cache=False)


def test_the_callback_logs_the_routing_of_a_real_mixture(model):
    from mindvl.routing import segment_routing, watch

    module = Validated(AutoModelForCausalLM.from_pretrained(model).eval())
    batches = [torch.arange(200, 240)[None] % 97, torch.arange(3, 43)[None] * 7 % 91]
    callback = RoutingConsistency(
        watch.record_model, watch.headline_metrics, plots=watch.headline_plots, count_tokens=watch.count_tokens
    )
    trainer = L.Trainer(accelerator="cpu", devices=1, callbacks=[callback], logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    (found,) = trainer.validate(module, torch.utils.data.DataLoader(batches, batch_size=None), verbose=False)
    with RoutingRecorder(module.model) as recorder, torch.no_grad():
        for batch in batches:
            module.model(input_ids=batch)
    scores = segment_routing(list(recorder.recording()), num_experts=8, segment_length=16, level="model")
    assert found["routing/all/srp"] == pytest.approx(float(scores.srp))
    assert found["routing/tokens"] == 80 and "routing/picture/srp" not in found
    assert 0 < found["routing/lru/hit_rate_2k"] < 1 and found["routing/all/load_balance_percent"] > 0


def test_models_has_a_row_for_each_of_the_papers_twenty(mindvl):
    told = mindvl("routing", "models")
    lines = told.out.splitlines()
    assert told.status == 0 and lines[0].startswith("| family | model | hooked class |")
    assert len({line.split(" | ")[1] for line in lines[2:]}) == len(lines) - 2 >= 20
    assert all(line.count(" | ") == lines[0].count(" | ") for line in lines)
