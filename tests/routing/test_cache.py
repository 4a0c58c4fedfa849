"""Hits of all cache sizes at once against one plain cache at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl.routing import cores, inputs
from mindvl.routing.cache import POLICIES, cache_hits

STACK_CASES = [
    ("lru", "reference"),
    ("lfu", "reference"),
    ("belady", "reference"),
    ("lfu_atomic", "atomic"),
    ("belady_atomic", "atomic"),
    ("sch", "reference"),
    ("sch", "atomic"),
]


def random_ids(seed, *, samples=2, tokens=20, layers=1, experts=6, k=2):
    """Routing that drifts, so that there is something to cache."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(size=(samples, tokens, layers, experts)).cumsum(axis=1)
    return np.argsort(-drift - rng.gumbel(size=drift.shape), axis=-1)[..., :k]


class PlainCache:
    """One cache of one size over one sample, by the words of the policies: sets, and a search for every victim."""

    def __init__(self, tokens, size, *, policy, atomic, lookahead):
        self.size = size
        self.tokens = [[int(expert) for expert in token if expert >= 0] for token in tokens]
        self.policy, self.atomic, self.lookahead = policy, atomic, lookahead
        self.held, self.count, self.last = set(), {}, {}
        self.flat = [(token, expert) for token, experts in enumerate(self.tokens) for expert in experts]

    def worth(self, expert, token, position):
        """What is evicted last is worth most; `position` counts requests, those before it have happened."""
        coming = [(place, when) for place, (when, wanted) in enumerate(self.flat) if wanted == expert]
        if self.policy == "lru":
            return self.last[expert]
        if self.policy == "lfu":
            return self.count[expert], self.last[expert]
        if self.policy == "belady":
            return -min((place for place, _ in coming if place >= position), default=len(self.flat) + expert)
        uses = sum(place >= position and when < token + self.lookahead for place, when in coming)
        return uses, self.last[expert]

    def use(self, expert, position):
        self.count[expert] = self.count.get(expert, 0) + 1
        self.last[expert] = position

    def hits(self, *, free_cold):
        found, seen, position = 0, set(), 0
        for token, experts in enumerate(self.tokens):
            for expert in experts:
                found += expert in self.held or (free_cold and expert not in seen and len(seen) < self.size)
                seen.add(expert)
            if self.atomic:
                for expert in experts:
                    self.use(expert, position)
                    position += 1
                self.let_in_together(experts, token, position)
            else:
                for expert in experts:
                    if expert not in self.held and len(self.held) == self.size:
                        self.held.remove(min(self.held, key=lambda held: self.worth(held, token, position)))
                    self.held.add(expert)
                    self.use(expert, position)
                    position += 1
        return found

    def let_in_together(self, experts, token, position):
        def best(of, number):
            return set(sorted(of, key=lambda expert: self.worth(expert, token, position), reverse=True)[:number])

        if self.size < len(experts):
            self.held = best(experts, self.size)
        else:
            self.held = best(self.held - set(experts), self.size - len(experts)) | set(experts)


def plain_curve(samples, *, experts, policy, variant="atomic", lookahead=None, pooled=False, free_cold=True):
    """(layers, experts) or (layers * experts), one cache at a time."""
    layers = samples[0].shape[1]
    if pooled:
        offsets = np.arange(layers)[:, None] * experts
        width = layers * samples[0].shape[2]
        samples = [np.where(sample < 0, -1, sample + offsets).reshape(len(sample), 1, width) for sample in samples]
        layers, experts = 1, layers * experts
    atomic = policy.endswith("_atomic") or (policy == "sch" and variant == "atomic")
    curve = [
        [
            sum(
                PlainCache(
                    sample[:, layer], size, policy=policy.removesuffix("_atomic"), atomic=atomic, lookahead=lookahead
                ).hits(free_cold=free_cold)
                for sample in samples
            )
            for size in range(1, experts + 1)
        ]
        for layer in range(layers)
    ]
    return curve[0] if pooled else curve


@settings(max_examples=150, deadline=None)
@given(
    case=st.sampled_from(STACK_CASES),
    seed=st.integers(0, 2**32),
    tokens=st.lists(st.integers(0, 16), min_size=1, max_size=2),
    experts=st.integers(1, 7),
    lookahead=st.integers(1, 20),
    free_cold=st.booleans(),
    pooled=st.booleans(),
    drops=st.sampled_from([0.0, 0.3]),
    data=st.data(),
)
def test_every_cache_size_has_the_hits_of_a_plain_cache(
    case, seed, tokens, experts, lookahead, free_cold, pooled, drops, data
):
    policy, variant = case
    k = data.draw(st.integers(1, experts))
    layers = 2 if pooled else 1
    ragged = [random_ids(seed + t, samples=1, tokens=t, layers=layers, experts=experts, k=k)[0] for t in tokens]
    rng = np.random.default_rng(seed)
    ragged = [np.where(rng.random(sample.shape) < drops, -1, sample) for sample in ragged]
    rule = {"policy": policy, "variant": variant, "lookahead": lookahead, "pooled": pooled}
    cold = "free" if free_cold else "counted"
    found = cache_hits(ragged, num_experts=experts, cold_misses=cold, allow_dropped=drops > 0, **rule)
    assert found.hits.tolist() == plain_curve(ragged, experts=experts, free_cold=free_cold, **rule)
    assert found.hits.dtype == found.requests.dtype == np.int64
    asked = sum((sample >= 0).sum(axis=(0, 2)) for sample in ragged)
    assert found.requests.tolist() == (asked.sum() if pooled else asked.tolist())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    experts=st.integers(1, 7),
    lookahead=st.integers(1, 12),
    pooled=st.booleans(),
    drops=st.sampled_from([0.0, 0.3]),
)
def test_the_segment_variant_is_the_sum_of_the_largest_uses_of_each_window(seed, experts, lookahead, pooled, drops):
    ids = random_ids(seed, tokens=10, layers=2, experts=experts, k=min(2, experts))
    ids = np.where(np.random.default_rng(seed).random(ids.shape) < drops, -1, ids)
    rule = {"policy": "sch", "variant": "segment", "lookahead": lookahead, "pooled": pooled}
    found = cache_hits(ids, num_experts=experts, allow_dropped=True, **rule)
    expected = np.zeros((2, experts), int) if not pooled else np.zeros((1, 2 * experts), int)
    requests = np.zeros(2, int)
    for sample in ids:
        for start in range(len(sample) - lookahead + 1):
            window = sample[start : start + lookahead]
            asked = [window[:, layer][window[:, layer] >= 0] for layer in range(2)]
            uses = np.stack([np.bincount(ids_asked, minlength=experts) for ids_asked in asked])
            requests += uses.sum(axis=1)
            uses = uses.reshape(1, -1) if pooled else uses
            expected += np.sort(uses, axis=-1)[:, ::-1].cumsum(axis=-1)
    assert found.hits.tolist() == (expected[0] if pooled else expected).tolist()
    assert found.requests.tolist() == (requests.sum() if pooled else requests.tolist())


def test_the_worked_example_hits_twice_with_free_cold_misses_and_never_without():
    ids = np.array([0, 1, 2, 0, 1]).reshape(1, 5, 1, 1)
    assert cache_hits(ids, num_experts=3, policy="lru").hits.tolist() == [[1, 2, 5]]
    assert cache_hits(ids, num_experts=3, policy="lru", cold_misses="counted").hits.tolist() == [[0, 0, 2]]


def test_on_the_cyclic_sequence_the_reference_exceeds_belady_and_the_atomic_variant_does_not():
    """Tokens {0 1} {2 3} {4 5} {6 7} {0 1} ..., 150 of them, C = 4, m = 16: 146 hits of 300 against Belady's 130."""
    ids = (np.arange(300) % 8).reshape(1, 150, 1, 2)

    def hits(policy, variant="atomic"):
        return int(cache_hits(ids, num_experts=8, policy=policy, variant=variant, lookahead=16).hits[0, 3])

    assert (hits("sch", "reference"), hits("belady")) == (146, 130)
    assert (hits("sch"), hits("belady_atomic")) == (12, 102)


def test_random_routing_of_8_in_64_experts_hits_as_often_as_measured_before():
    """One sequence of 512 tokens gave 0.239 / 0.122 at C = 8, 0.435 / 0.378 at 16, 0.591 / 0.554 at 24."""
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((8, 512, 1, 64)), axis=-1)[..., :8]
    for variant, expected in (("reference", (0.239, 0.435, 0.591)), ("atomic", (0.122, 0.378, 0.554))):
        rate = cache_hits(ids, num_experts=64, policy="sch", variant=variant, lookahead=16).hit_rate[0]
        assert rate[[7, 15, 23]] == pytest.approx(expected, abs=0.01)
    blind = [cache_hits(ids, num_experts=64, policy=policy).hit_rate[0, 7] for policy in ("lru", "belady_atomic")]
    assert blind == [rate[7]] * 2  # at C = k an atomic cache has no freedom, whatever its policy


def test_without_a_view_of_the_future_sch_is_lru():
    for seed in range(20):
        k = seed % 4 + 1
        ids = random_ids(seed, tokens=40, k=k)
        lru = cache_hits(ids, num_experts=6, policy="lru").hits
        reference = cache_hits(ids, num_experts=6, policy="sch", variant="reference", lookahead=1).hits
        atomic = cache_hits(ids, num_experts=6, policy="sch", lookahead=1).hits
        assert atomic.tolist() == lru.tolist()
        assert reference[:, k - 1 :].tolist() == lru[:, k - 1 :].tolist()


@pytest.mark.parametrize("policy", POLICIES)
def test_hits_grow_with_the_cache_and_a_cache_of_all_experts_always_hits(policy):
    ids = random_ids(3, tokens=50, layers=3)
    curve = cache_hits(ids, num_experts=6, policy=policy, lookahead=4)
    assert (np.diff(curve.hits, axis=1) >= 0).all()
    assert curve.hits[:, -1].tolist() == curve.requests.tolist() == [2 * 50 * 2] * 3
    assert curve.hit_rate[:, -1].tolist() == [1.0] * 3


def test_pinned_experts_are_the_most_frequent_of_the_trace_or_of_another_one():
    ids = np.array([2, 2, 2, 0, 0, 1]).reshape(1, 6, 1, 1)
    assert cache_hits(ids, num_experts=4, policy="pinned").hits.tolist() == [[3, 5, 6, 6]]
    held_out = np.array([[1, 5, 2, 2]])  # 1 first, then 2 and 3, which tie, in order of id
    assert cache_hits(ids, num_experts=4, policy="pinned", frequencies=held_out).hits.tolist() == [[1, 4, 4, 6]]
    both = np.concatenate([ids, (ids + 1) % 4], axis=2)  # uses: layer 0 2 1 3 0, layer 1 0 2 1 3
    pooled = cache_hits(both, num_experts=4, policy="pinned", pooled=True)
    assert pooled.hits.tolist() == [3, 6, 8, 10, 11, 12, 12, 12] and pooled.requests == 12


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("pooled", [False, True])
def test_hits_of_samples_add_up_whatever_the_chunks_and_cores(policy, pooled, monkeypatch):
    ids = random_ids(4, samples=7, tokens=15, layers=2)
    options = {"num_experts": 6, "policy": policy, "lookahead": 5, "pooled": pooled}
    whole = cache_hits(ids, **options)
    monkeypatch.setattr(inputs, "CHUNK_IDS", 130)
    for cores_here in (1, 3):
        monkeypatch.setattr(cores, "num_cores", lambda number=cores_here: number)
        apart = cache_hits(ids, **options, per_sample=True)
        assert apart.sample_hits.sum(axis=0).tolist() == apart.hits.tolist() == whole.hits.tolist()
        assert apart.sample_requests.sum(axis=0).tolist() == whole.requests.tolist()
        if policy != "pinned":  # whose choice of experts is that of the whole trace
            assert apart.sample_hits[3].tolist() == cache_hits(ids[3:4], **options).hits.tolist()
    assert whole.requests.shape == (() if pooled else (2,)) and whole.hits.shape == ((12,) if pooled else (2, 6))


def test_torch_tensors_of_any_kind_give_what_arrays_give():
    ids = random_ids(5)
    expected = cache_hits(ids, num_experts=6, policy="belady").hits.tolist()
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int64):
        assert cache_hits(torch.from_numpy(ids).to(dtype), num_experts=6, policy="belady").hits.tolist() == expected


@pytest.mark.parametrize("pooled", [False, True])
def test_pinned_experts_of_a_trace_with_dropped_slots_are_counted_without_them(pooled):
    ids = np.array([2, -1, 2, 0, 0, -1, 0, 1]).reshape(1, 4, 2, 1)  # layer 0: 2 2 0 0; layer 1: none 0 none 1
    found = cache_hits(ids, num_experts=3, policy="pinned", pooled=pooled, allow_dropped=True, per_sample=True)
    assert found.hits.tolist() == ([2, 4, 5, 6, 6, 6] if pooled else [[2, 4, 4], [1, 2, 2]])
    assert found.requests.tolist() == (6 if pooled else [4, 2])


def test_rates_without_requests_are_nan():
    empty = cache_hits(np.zeros((2, 0, 3, 2), int), num_experts=4, policy="lru", per_sample=True)
    assert empty.hits.sum() == 0 and np.isnan(empty.hit_rate).all() and np.isnan(empty.sample_hit_rate).all()
    none = cache_hits(np.zeros((0, 2, 3, 2), int), num_experts=4, policy="pinned", per_sample=True)
    assert none.hits.shape == (3, 4) and none.requests.tolist() == [0, 0, 0]
    short = cache_hits(random_ids(6, tokens=3), num_experts=6, policy="sch", variant="segment", lookahead=4)
    assert short.requests.tolist() == [0] and np.isnan(short.hit_rate).all()


def test_a_cache_asked_by_samples_of_one_token_only_sees_cold_misses():
    ids = random_ids(7, samples=5, tokens=1, k=3)
    assert cache_hits(ids, num_experts=6, policy="lru").hits.tolist() == [[5, 10, 15, 15, 15, 15]]
    assert cache_hits(ids, num_experts=6, policy="lru", cold_misses="counted").hits.sum() == 0
