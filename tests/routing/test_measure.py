"""What a report measures, against the metrics called one by one, and what it refuses."""

import numpy as np
import pytest

from mindvl.routing import (
    cache_hits,
    consecutive_reuse,
    expert_lifetime,
    segment_routing,
    segment_routing_interval,
)
from mindvl.routing.groups import specialization
from mindvl.routing.measure import Measured, measure, per_sample_hits
from mindvl.routing.sample import Recording, RoutingSample, TokenKind, TraceMeta

EXPERTS, LAYERS, K = 8, 2, 2
RULE = {"num_experts": EXPERTS, "allow_dropped": True}


def recording(lengths=(40, 40, 25, 40), *, kinds=None, domains=("code", "code", "web", "web"), seed=0):
    """Drifting routing: experts change slowly within a sample, other ones are liked in "code"."""
    rng = np.random.default_rng(seed)
    samples = []
    for number, length in enumerate(lengths):
        drift = np.cumsum(rng.normal(size=(length, LAYERS, EXPERTS)), axis=0)
        drift += 6 * (domains[number] == "code") * (np.arange(EXPERTS) < 3)
        ids = np.argsort(-drift, axis=-1)[..., :K]
        marks = np.zeros(length, np.uint8) if kinds is None else np.resize(np.uint8(kinds), length)
        samples.append(RoutingSample(ids, marks, f"{number}", domains[number]))
    meta = TraceMeta("toy/drift", EXPERTS, tuple(f"layers.{n}.mlp.experts" for n in range(LAYERS)), K)
    return Recording(meta, samples)


@pytest.fixture(scope="module")
def trace():
    return recording()


@pytest.fixture(scope="module")
def measured(trace) -> Measured:
    return measure(trace)


def test_srp_is_that_of_the_metric_at_every_length_and_level(trace, measured):
    ids = list(trace)
    assert measured.segment_lengths == (2, 4, 8, 16, 32)
    for place, length in enumerate(measured.segment_lengths):
        model = segment_routing(ids, segment_length=length, level="model", **RULE)
        assert float(measured.srp[length].estimate) == pytest.approx(float(model.srp))
        layers = segment_routing(ids, segment_length=length, **RULE)
        assert measured.srp_layers[place].tolist() == layers.srp.tolist()
    interval = segment_routing_interval(ids, segment_length=16, level="model", **RULE)
    assert (measured.srp[16].low, measured.srp[16].high) == (interval.low, interval.high)


def test_hit_rates_are_hits_over_requests_of_all_layers(trace, measured):
    ids = list(trace)
    for name, settings in {
        "lru": {"policy": "lru"},
        "sch": {"policy": "sch", "lookahead": 16},
        "belady": {"policy": "belady_atomic"},
        "lru_counted": {"policy": "lru", "cold_misses": "counted"},
    }.items():
        curve = cache_hits(ids, **settings, **RULE)
        assert measured.hit_rate[name].tolist() == (curve.hits.sum(0) / curve.requests.sum()).tolist()
    assert np.allclose(measured.lru.estimate, measured.hit_rate["lru"])
    assert (measured.hit_rate["belady"][K - 1 :] >= measured.hit_rate["lru"][K - 1 :]).all()


def test_experts_pinned_by_half_of_the_samples_answer_the_other_half(trace, measured):
    hits = asked = 0
    samples = list(trace)
    for mine, other in ((samples[0::2], samples[1::2]), (samples[1::2], samples[0::2])):
        for layer in range(LAYERS):
            uses = np.bincount(np.concatenate([ids[:, layer].ravel() for ids in other]), minlength=EXPERTS)
            pinned = np.argsort(-uses, kind="stable")[:3]
            requests = np.concatenate([ids[:, layer].ravel() for ids in mine])
            hits, asked = hits + np.isin(requests, pinned).sum(), asked + len(requests)
    assert measured.hit_rate["pinned_held_out"][2] == pytest.approx(hits / asked)


def test_the_pooled_caches_are_of_two_k_experts_for_each_layer(trace, measured):
    size = 2 * K * LAYERS
    lru = cache_hits(list(trace), policy="lru", pooled=True, **RULE)
    sch = cache_hits(list(trace), policy="sch", variant="reference", lookahead=16, pooled=True, **RULE)
    assert float(measured.pooled_lru.estimate) == pytest.approx(float(lru.hit_rate[size - 1]))
    assert float(measured.pooled_sch.estimate) == pytest.approx(float(sch.hit_rate[size - 1]))


def test_reuse_and_lifetime_are_those_of_the_functions(trace, measured):
    ids = list(trace)
    assert measured.reuse.tolist() == consecutive_reuse(ids, **RULE).requests.tolist()
    assert measured.lifetime_tokens == pytest.approx(float(expert_lifetime(ids, **RULE)[:, 2 * K - 1].mean()))


def test_domains_are_measured_apart_and_specialists_show(trace, measured):
    scores = segment_routing(list(trace), segment_length=16, level="model", domains=trace.domains, **RULE)
    assert {row.name: row.srp for row in measured.domains} == dict(
        zip(scores.domains, scores.srp.tolist(), strict=True)
    )
    assert specialization(measured.domains, measured.srp_experts)[0] > 0.3
    web = measure(trace, domain="web")
    assert (web.name, web.num_samples, web.num_tokens) == ("toy/drift, web", 2, 65)
    lru = cache_hits([trace.sample(2).ids, trace.sample(3).ids], policy="lru", **RULE)
    row = next(row for row in measured.domains if row.name == "web")
    assert row.hit_rate == pytest.approx(lru.hits[:, 2 * K - 1].sum() / lru.requests.sum())


def test_kinds_are_runs_of_neighbours_and_one_kind_alone_has_no_rows(measured):
    assert measured.kinds == ()
    picture = int(TokenKind.PICTURE)
    mixed = recording(lengths=(60, 60, 60, 60), kinds=[0] * 10 + [picture] * 20)
    text, pictures = measure(mixed).kinds
    assert (text.name, text.num_tokens, pictures.name, pictures.num_tokens) == ("text", 80, "picture", 160)
    runs = list(mixed.select(kind="picture"))
    expected = segment_routing(runs, segment_length=16, level="model", **RULE)
    assert (
        pictures.srp[16] == pytest.approx(float(expected.srp)) and float(pictures.headline.estimate) == pictures.srp[16]
    )
    assert np.isnan(text.srp[16]) and np.isnan(text.headline.estimate)
    assert text.likeness == pytest.approx(1) and -1 < pictures.likeness < 1


def test_dropped_slots_ask_for_nothing(trace):
    ids = trace.sample(0).ids.copy()
    ids[::2, :, 1] = -1
    dropped = Recording(trace.meta, [RoutingSample(ids, trace.sample(0).kinds)])
    assert measure(dropped).requests_per_token == pytest.approx(0.75 * LAYERS * K)


def test_blocks_of_samples_give_the_hits_of_all_at_once(trace, monkeypatch):
    whole = per_sample_hits(list(trace), policy="lru", **RULE)
    monkeypatch.setattr("mindvl.routing.measure.SAMPLES_AT_ONCE", 3)
    parts = per_sample_hits(list(trace), policy="lru", **RULE)
    assert parts.sample_hits.tolist() == whole.sample_hits.tolist() and parts.hits.tolist() == whole.hits.tolist()


def test_what_cannot_be_measured_is_refused_in_one_line(trace):
    with pytest.raises(ValueError, match="no domain 'math'; it has code, web"):
        measure(trace, domain="math")
    with pytest.raises(ValueError, match="segments of 64 tokens were asked for, its longest sample has 40"):
        measure(trace, segment_lengths=[4, 64])
    with pytest.raises(ValueError, match="longest sample has 12 tokens; the headline SRP needs 16"):
        measure(recording(lengths=(12, 9, 3, 4)))
    with pytest.raises(ValueError, match="holds no tokens: 0 samples"):
        measure(Recording(trace.meta, []))


def test_asked_lengths_come_with_the_headline(trace):
    assert measure(trace, segment_lengths=[5, 3]).segment_lengths == (3, 5, 16)
