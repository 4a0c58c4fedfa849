"""The metrics say what the functions say of all samples at once, however these arrive."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mindvl.routing import CacheHits, SegmentRouting, cache_hits, segment_routing


def random_ids(seed=0, *, samples=4, tokens=18):
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((samples, tokens, 2, 6)) + rng.random((2, 6)), axis=-1)[..., :2]


def assert_srp(found, scores):
    for name, values in found.items():
        assert values.dtype == torch.float64 and values.tolist() == getattr(scores, name).tolist()


@pytest.mark.parametrize("level", ["expert", "layer", "model"])
@pytest.mark.parametrize("split", [(4,), (1, 3), (1, 1, 1, 1), (2, 0, 2)])
def test_srp_does_not_depend_on_how_samples_are_split_into_batches(level, split):
    ids = torch.from_numpy(random_ids())
    metric = SegmentRouting(num_layers=2, num_experts=6, segment_length=5, level=level)
    for part in ids.split(split):
        metric.update(part)
    assert_srp(metric.compute(), segment_routing(ids, num_experts=6, segment_length=5, level=level))


def test_domains_keep_the_order_that_the_metric_was_made_with():
    ids = random_ids()
    metric = SegmentRouting(num_layers=2, num_experts=6, segment_length=5, domains=("web", "code", "books"))
    metric.update(ids[:3], ["code", "web", "code"])
    metric.update([ids[3]], ["web"])
    found = metric.compute()["srp"]
    scores = segment_routing(ids, num_experts=6, segment_length=5, domains=["code", "web", "code", "web"])
    assert found[:2].tolist() == scores.srp[[1, 0]].tolist() and found[2].isnan().all()


@pytest.mark.parametrize("policy", ["sch", "lru", "lfu", "belady", "pinned", "lfu_atomic", "belady_atomic"])
@pytest.mark.parametrize("pooled", [False, True])
def test_cache_hits_do_not_depend_on_how_samples_are_split_into_batches(policy, pooled):
    ids = random_ids(1)
    rule = {"num_experts": 6, "policy": policy, "lookahead": 3, "pooled": pooled, "cold_misses": "counted"}
    metric = CacheHits(num_layers=2, **rule)
    metric.update(ids[:1])
    metric.update([*ids[1:]])
    found, whole = metric.compute(), cache_hits(ids, **rule)
    for name in ("hits", "requests", "hit_rate"):
        assert found[name].tolist() == getattr(whole, name).tolist()
    assert found["hits"].dtype == torch.int64


def test_state_is_integers_of_the_promised_size_that_a_reset_clears():
    metric = SegmentRouting(num_layers=2, num_experts=6, segment_length=5, domains=("a", "b"))
    assert metric.counts.numel() * metric.counts.element_size() == 8 * 2 * 2 * 6 * (5 + 1)
    for _ in range(3):
        metric.update(random_ids(), ["a", "a", "b", "b"])
    assert metric.counts.dtype == torch.int64 and metric.counts.shape == (2, 2, 6, 6)
    assert metric.double().counts.dtype == torch.int64
    metric.reset()
    assert metric.counts.sum() == 0


def test_a_recorded_trace_with_dropped_slots_is_read_as_an_iterable_of_samples():
    ids = random_ids(3)
    ids[1, 4, 0, 1] = ids[3, 0] = -1
    srp = SegmentRouting(num_layers=2, num_experts=6, segment_length=5, allow_dropped=True)
    srp.update(iter(ids))
    assert_srp(srp.compute(), segment_routing(ids, num_experts=6, segment_length=5, allow_dropped=True))
    cache = CacheHits(num_layers=2, num_experts=6, policy="lru", allow_dropped=True)
    cache.update(iter(ids))
    assert cache.compute()["requests"].tolist() == [4 * 18 * 2 - 3, 4 * 18 * 2 - 2]


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (lambda m: m.update(random_ids()[:, :, :1]), "the ids have 1 layers, this metric was made for 2"),
        (lambda m: m.update(random_ids(), ["a"] * 4), "this metric has domains None"),
        (lambda m: SegmentRouting(num_layers=1, num_experts=2, segment_length=2, level="x"), "unknown level 'x'"),
        (lambda m: CacheHits(num_layers=1, num_experts=2, policy="sch"), "needs a lookahead"),
        (
            lambda m: SegmentRouting(num_layers=2, num_experts=6, segment_length=2, domains=["a"]).update(
                random_ids(), ["a", "a", "z", "a"]
            ),
            "unknown domain 'z'; this metric has a",
        ),
    ],
)
def test_what_does_not_fit_the_metric_is_refused(act, complaint):
    with pytest.raises(ValueError, match=complaint):
        act(SegmentRouting(num_layers=2, num_experts=6, segment_length=5))


def test_two_ranks_with_unequal_shares_know_together_what_one_process_knows(run_ranks, tmp_path):
    ids = random_ids(2)
    np.save(tmp_path / "ids.npy", ids)
    run_ranks(Path(__file__).with_name("two_ranks.py"), tmp_path)
    together = torch.load(tmp_path / "together.pt")
    scores = segment_routing(ids, num_experts=6, segment_length=4, domains=["web", "code", "web", "code"])
    assert together["srp"]["srp"].tolist() == scores.srp[[1, 0]].tolist()
    for policy in ("sch", "pinned"):
        curve = cache_hits(ids, num_experts=6, policy=policy, lookahead=4, pooled=True)
        assert together[policy]["hits"].tolist() == curve.hits.tolist()
        assert together[policy]["requests"] == curve.requests
