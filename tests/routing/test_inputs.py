"""What is no routing is refused in one sentence that names the place and the numbers."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import mindvl.routing
from mindvl.routing import cache_hits, segment_routing, top_k_ids

GOOD = np.array([0, 1, 2, 3, 1, 0, 3, 2]).reshape(1, 2, 2, 2)


def srp(ids, **options):
    return segment_routing(ids, **{"num_experts": 4, "segment_length": 2} | options)


def hits(ids, **options):
    return cache_hits(ids, **{"num_experts": 4, "policy": "lru"} | options)


def changed(place, value, dtype=np.int64):
    ids = GOOD.astype(dtype)
    ids[place] = value
    return ids


@pytest.mark.parametrize("metric", [srp, hits])
@pytest.mark.parametrize(
    ("ids", "options", "complaint"),
    [
        (
            changed((0, 1, 0, 1), 4),
            {},
            r"sample 0, token 1, layer 0 names expert 4; with num_experts=4 ids go from 0 to 3",
        ),
        (changed((0, 0, 1, 0), -1), {}, "names expert -1; .* where -1 says that no expert ran, set allow_dropped=True"),
        (changed((0, 0, 1, 0), -2), {"allow_dropped": True}, "token 0, layer 1 names expert -2"),
        (changed((0, 0, 0, 0), 2**32 + 3), {}, "names expert 4294967299"),
        ([GOOD[0], changed((0, 1, 1, 0), 2)[0]], {}, r"sample 1, token 1, layer 1 names an expert twice: \[2, 2\]"),
        (GOOD.astype(np.float32), {}, "float32 of shape .* not whole numbers: if these are router logits"),
        (torch.zeros(1, 2, 2, 2, dtype=torch.bfloat16), {}, "ids are bfloat16"),
        (torch.ones(1, 2, 2, 2, dtype=torch.bool), {}, "ids are bool"),
        ([GOOD[0], GOOD[0].astype(float)], {}, "sample 1 are float64"),
        ([GOOD[0], GOOD[0, ..., :1]], {}, "sample 1 has k=1, sample 0 has k=2"),
        ([GOOD[0], GOOD[0, :, :1]], {}, "sample 1 has layers=1, sample 0 has layers=2"),
        (GOOD[0], {}, r"3 axes, shape \(2, 2, 2\); expected 4: \(samples, tokens, layers, k\)"),
        ([GOOD], {}, r"sample 0 has shape \(1, 2, 2, 2\); expected 3 axes"),
        (GOOD.tolist(), {}, "sample 0 is a list; expected an array"),
        ([], {}, "empty list"),
        (GOOD[..., :0], {}, "2 layers and k=0"),
        (GOOD, {"num_experts": None}, "num_experts is None"),
        (GOOD, {"num_experts": 0}, "num_experts is 0"),
        (GOOD, {"num_experts": 1}, "k=2 experts a token, but num_experts=1"),
    ],
)
def test_ids_that_no_router_could_give_are_refused(metric, ids, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        metric(ids, **options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"segment_length": 0}, "the segment length is 0 tokens, it must be at least 1"),
        ({"level": "head"}, "unknown level 'head'; known are expert, layer, model"),
        ({"domains": ["web", "code"]}, "2 domain labels for 1 samples"),
        ({"position": -1}, "position is -1"),
    ],
)
def test_segment_routing_refuses_settings_that_mean_nothing(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        srp(GOOD, **options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"policy": "mru"}, "unknown policy 'mru'; known are sch, lru"),
        ({"policy": "sch", "variant": "stack", "lookahead": 4}, "unknown variant 'stack'; known are atomic, reference"),
        ({"policy": "sch"}, "needs a lookahead"),
        ({"policy": "sch", "lookahead": 0}, "the lookahead is 0 tokens"),
        ({"cold_misses": "never"}, "unknown cold_misses 'never'"),
        ({"policy": "pinned", "frequencies": np.ones((2, 3))}, r"shape \(2, 3\), 6 numbers; the trace has 8 experts"),
    ],
)
def test_cache_hits_refuses_settings_that_mean_nothing(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        hits(GOOD, **options)


def test_logits_become_ids_in_router_order_and_ids_are_no_logits():
    logits = torch.tensor([[0.1, 0.7, 0.7, -1.0], [2.0, 3.0, 1.0, 4.0]])
    assert top_k_ids(logits, k=2).tolist() == [[1, 2], [3, 1]]
    assert top_k_ids(logits.numpy(), k=3).tolist() == [[1, 2, 0], [3, 1, 0]]
    with pytest.raises(ValueError, match="logits are int64 of shape"):
        top_k_ids(GOOD, k=2)
    with pytest.raises(ValueError, match="k is 5; logits of 4 experts"):
        top_k_ids(logits, k=5)
    with pytest.warns(UserWarning, match="top-k of bfloat16 logits differs"):
        top_k_ids(logits.bfloat16(), k=2)


def test_a_sample_too_long_to_be_ordered_in_62_bits_is_refused_before_it_is_replayed():
    from mindvl.routing.replay import ReplayRule, _key_layout

    rule = ReplayRule.of("lfu", "atomic", None, "free")
    assert _key_layout(rule, 2**17, 8 * 60, 2**14) == (26, 14)
    with pytest.raises(ValueError, match="does not fit in 62 bits"):
        _key_layout(rule, 2**22, 2**9, 2**14)
    with pytest.raises(ValueError, match="Belady is counted in 31 bits"):
        _key_layout(ReplayRule.of("belady", "atomic", None, "free"), 2**22, 2**9, 2**14)


def test_every_public_name_is_there_and_the_package_loads_no_compiler_until_one_is_asked_for():
    assert all(callable(getattr(mindvl.routing, name)) for name in mindvl.routing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'srp'"):
        mindvl.routing.srp  # noqa: B018
    heavy = "import sys, mindvl.routing; print(sorted({'torch', 'torchmetrics', 'numba'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
