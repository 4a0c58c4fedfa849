"""What the callback is given for models of ours: the numbers are those of the functions."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mindvl.routing import cache_hits, load_balance, segment_routing
from mindvl.routing.recorder import RoutingRecorder
from mindvl.routing.sample import Recording, RoutingSample, TokenKind, TraceMeta
from mindvl.routing.watch import (
    HeadlineRouting,
    LruHits,
    count_tokens,
    headline_metrics,
    headline_plots,
    model_of,
    record_model,
)

META = TraceMeta("toy", 6, ("a", "b"), 2)
SIZE = {"num_layers": 2, "num_experts": 6}


def recording(seed=0, *, pictures=20):
    rng = np.random.default_rng(seed)
    ids = np.argsort(np.cumsum(rng.normal(size=(40, 2, 6)), axis=0), axis=-1)[..., :2]
    kinds = np.full(40, TokenKind.TEXT, np.uint8)
    kinds[:pictures] = TokenKind.PICTURE
    return Recording(META, [RoutingSample(ids, kinds)])


def test_the_headline_metric_says_what_the_functions_say_of_all_batches():
    parts = [recording(0), recording(1)]
    ids = [ids for part in parts for ids in part]
    metric = HeadlineRouting(**SIZE)
    for part in parts:
        metric.update(part)
    found = metric.compute()
    model, layers, experts = (
        segment_routing(ids, num_experts=6, segment_length=16, level=level) for level in ("model", "layer", "expert")
    )
    assert found["srp"] == float(model.srp) and found["size_ratio"] == float(model.size_ratio)
    assert found["srp_layers"].tolist() == layers.srp.tolist()
    assert found["activation"].tolist() == experts.activation.tolist()
    assert float(found["load_balance_percent"]) == pytest.approx(load_balance(experts.activation))


def test_a_metric_of_pictures_sees_their_runs_alone_and_none_where_there_are_none():
    metric = HeadlineRouting(kind="picture", **SIZE)
    metric.update(recording(pictures=0))
    assert torch.isnan(metric.compute()["srp"])
    metric.update(recording())
    runs = [recording().sample(0).ids[:20]]
    assert metric.compute()["srp"] == float(segment_routing(runs, num_experts=6, segment_length=16, level="model").srp)


def test_hits_are_of_an_lru_cache_of_two_k_in_every_layer():
    metric = LruHits(**SIZE)
    metric.update(recording())
    curve = cache_hits(list(recording()), num_experts=6, policy="lru")
    assert float(metric.compute()["hit_rate_2k"]) == pytest.approx(curve.hits[:, 3].sum() / curve.requests.sum())


def test_plots_have_labelled_axes_and_leave_out_kinds_that_were_not_seen():
    metrics = {"all": HeadlineRouting(**SIZE), "lru": LruHits(**SIZE)}
    metrics |= {kind: HeadlineRouting(kind=kind, **SIZE) for kind in ("text", "picture")}
    for metric in metrics.values():
        metric.update(recording(pictures=0))
    figures = headline_plots({name: metric.compute() for name, metric in metrics.items()})
    assert set(figures) == {"srp_by_layer", "use_of_experts", "lru_hits"}
    assert all(figure.axes[0].get_xlabel() and figure.axes[0].get_ylabel() for figure in figures.values())
    assert [text.get_text() for text in figures["srp_by_layer"].axes[0].get_legend().texts] == ["all", "text"]


def test_a_model_is_watched_itself_or_inside_its_module():
    sizes = {"hidden_size": 16, "intermediate_size": 8, "moe_intermediate_size": 8, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32, "num_experts": 6,
             "num_experts_per_tok": 2, "head_dim": 8}  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **sizes))
    outer = torch.nn.Module()
    outer.model = model
    assert model_of(outer) is model
    metrics = headline_metrics(outer)
    assert (metrics["all"].num_layers, metrics["lru"].num_experts) == (2, 6)
    with record_model(outer) as recorder, torch.no_grad():
        assert isinstance(recorder, RoutingRecorder)
        model(input_ids=torch.arange(20)[None], use_cache=False)
    assert count_tokens(recorder.recording()) == 20
