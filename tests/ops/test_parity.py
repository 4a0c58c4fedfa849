"""Every entry of the table that this machine can use, against its reference: forward and backward, fp32 and bf16.

Tolerances are relative to the largest value: fp32 2e-5, which is what sums in another order differ by. bf16 2e-2 for
results and 4e-2 for gradients; its steps are 2^-8 = 4e-3, and a result has been rounded a few times. References compute
in fp32 from the same rounded inputs.
"""

import pytest
import torch

from mindvl.ops import table
from mindvl.ops.table import TABLE, reasons

DEVICES = ["cpu"] + ([torch.accelerator.current_accelerator().type] if torch.accelerator.is_available() else [])
TOLERANCES = {torch.float32: (2e-5, 2e-5), torch.bfloat16: (2e-2, 4e-2)}


def normal(*shape, std=1.0):
    return (torch.randn(shape) * std).requires_grad_()


def attention(lengths, *, kv_heads, causal, head_dim=16):
    def make():
        tokens = sum(lengths)
        inputs = [normal(tokens, heads, head_dim) for heads in (4, kv_heads, kv_heads)]
        return [*inputs, lengths], {"causal": causal, "scale": 0.3}

    return make


def angles(tokens, head_dim):
    half = torch.randn(tokens, head_dim // 2)
    both = torch.cat((half, half), dim=-1)
    return both.cos(), both.sin()


def experts(counts, *, rest=0):
    """Rows of experts, the last `rest` of which belong to none (they are not compared)."""

    def make():
        offsets = torch.tensor(counts).cumsum(0).to(torch.int32)
        return [normal(sum(counts), 24), normal(len(counts), 40, 24, std=0.2), offsets], {}

    return make


def loss(rows, *, ignored=(), bias=False):
    def make():
        targets = torch.randint(0, 200, (rows,))
        targets[list(ignored)] = -100
        return [normal(rows, 16), normal(200, 16, std=0.3), normal(200) if bias else None, targets], {}

    return make


CASES = {
    "packed_attention": {
        "causal": attention((7, 3, 11), kv_heads=4, causal=True),
        "bidirectional": attention((7, 3, 11), kv_heads=4, causal=False),
        "grouped heads": attention((10, 9, 4, 10), kv_heads=2, causal=True),
        "empty segments": attention((3, 0, 2, 0), kv_heads=1, causal=False),
        "heads of 12 channels": attention((5, 8), kv_heads=4, causal=True, head_dim=12),
    },
    "patch_embed": {
        "still": lambda: ([normal(9, 3 * 14 * 14), normal(16, 3, 2, 14, 14, std=0.05)], {}),
        "two frames": lambda: ([normal(9, 2 * 3 * 14 * 14), normal(16, 3, 2, 14, 14, std=0.05)], {}),
    },
    "rms_norm": {
        "rows": lambda: ([normal(6, 32), normal(32), 1e-6], {}),
        "heads": lambda: ([normal(2, 3, 4, 16), normal(16), 1e-6], {}),
    },
    "rotary": {"heads": lambda: ([normal(7, 3, 16), *angles(7, 16)], {})},
    "swiglu": {"rows": lambda: ([normal(2, 5, 32), normal(2, 5, 32)], {})},
    "linear": {
        "large": lambda: ([normal(300, 160), normal(96, 160, std=0.1), normal(96)], {}),
        "small": lambda: ([normal(3, 8), normal(4, 8, std=0.3), None], {}),
        "batched": lambda: ([normal(2, 150, 160), normal(96, 160, std=0.1), normal(96)], {}),
    },
    "grouped_experts": {
        "uneven": experts((5, 1, 9, 2)),
        "an expert without rows": experts((5, 0, 9, 0)),
        "one expert": experts((8,)),
        "large": experts((400, 3000, 1200)),
    },
    "cross_entropy": {
        "plain": loss(30),
        "padding": loss(30, ignored=(0, 7, 29)),
        "all padding": loss(4, ignored=range(4)),
        "bias": loss(30, bias=True),
        "no rows": loss(0),
    },
}
ENTRIES = [
    pytest.param(device, dtype, operator, entry, case, id=f"{device}-{dtype}-{operator}-{entry.name}-{case}")
    for device in DEVICES
    for dtype in TOLERANCES
    for operator in TABLE
    for entry, why in reasons(operator, device, dtype)
    if why is None and entry.name != "reference"
    for case in CASES[operator]
]


def placed(inputs, device, dtype):
    """Copies on the device, floats that train in the dtype; angles keep their fp32."""
    for value in inputs:
        if not isinstance(value, torch.Tensor):
            yield value
        elif value.requires_grad:
            yield value.detach().to(device, dtype).requires_grad_()
        else:
            yield value.to(device)


@pytest.mark.parametrize(("device", "dtype", "operator", "entry", "case"), ENTRIES)
def test_an_entry_equals_its_reference_forward_and_backward(device, dtype, operator, entry, case):
    torch.manual_seed(0)
    inputs, options = CASES[operator][case]()
    inputs = list(placed(inputs, device, dtype))
    trained = [value for value in inputs if isinstance(value, torch.Tensor) and value.requires_grad]
    fast = table._load(entry.function)(*inputs, **options)
    exact = [
        value.detach().float().requires_grad_() if any(value is each for each in trained) else value for value in inputs
    ]
    slow = table._load(TABLE[operator][-1].function)(*exact, **options)
    assert fast.shape == slow.shape and fast.device == slow.device
    assert fast.dtype == (torch.float32 if operator == "cross_entropy" else dtype)
    forward, backward = TOLERANCES[dtype]
    assert_close(fast, slow, forward)
    weight = torch.randn_like(slow)
    ours = torch.autograd.grad(fast, trained, weight.to(fast.dtype))
    theirs = torch.autograd.grad(slow, [value for value in exact if getattr(value, "requires_grad", False)], weight)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        assert_close(mine, expected, backward)


def assert_close(ours, theirs, tolerance):
    if theirs.numel():
        assert (ours.float() - theirs).abs().max() <= tolerance * max(theirs.abs().max().item(), 1e-6)
