"""Share of the machine's matrix-product speed that a packed training step reaches, in fp32 and under bf16 autocast."""

from __future__ import annotations

import statistics

import torch

from mindvl.device import has_fast_bf16, keep_freed_memory, matmul_peak
from mindvl.model.flops import training_flops
from tests.benchmarks.clock import median_times_s
from tests.benchmarks.midsize import conversations, first_fit, midsize_model, packed_step
from tests.benchmarks.rows import Row

ROWS = ("step_matmul_peak_ratio", "step_matmul_peak_ratio_bf16", "step_bf16_speedup_ratio")
SAMPLES, TOKEN_BUDGET, ROUNDS = 48, 4096, 5
PICTURE_SIDES = ((4, 8), (4, 8), (8, 16))
"""Every conversation has a picture: both halves of the model work."""


def measure() -> list[Row]:
    keep_freed_memory()
    model = midsize_model()
    pack = first_fit(conversations(SAMPLES, sides=PICTURE_SIDES), token_budget=TOKEN_BUDGET)[0]
    flops = training_flops(model, pack)
    peaks: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}

    def step(dtype: torch.dtype) -> None:
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            packed_step(model, pack)

    def peak(dtype: torch.dtype) -> None:
        matmul_peak.cache_clear()  # it remembers its first answer; here each turn measures anew
        peaks[dtype].append(matmul_peak(dtype))

    times_s = median_times_s(
        {
            "fp32": lambda: step(torch.float32),
            "fp32 peak": lambda: peak(torch.float32),
            "bf16": lambda: step(torch.bfloat16),
            "bf16 peak": lambda: peak(torch.bfloat16),
        },
        rounds=ROUNDS,
    )
    fp32_peak, bf16_peak = (statistics.median(values) for values in peaks.values())
    what = f"packed step of {pack.num_tokens} of {TOKEN_BUDGET} tokens and {pack.num_patches} patches"
    amx = "with AMX" if has_fast_bf16() else "without AMX"
    return [
        Row("step_matmul_peak_ratio", flops / times_s["fp32"] / fp32_peak, "ratio", _against(what, "fp32", fp32_peak)),
        Row(
            "step_matmul_peak_ratio_bf16",
            flops / times_s["bf16"] / bf16_peak,
            "ratio",
            f"{_against(what, 'bf16', bf16_peak)}, {amx}",
        ),
        Row(
            "step_bf16_speedup_ratio",
            times_s["fp32"] / times_s["bf16"],
            "ratio",
            f"the same step in fp32, {times_s['fp32']:.2f} s; {amx}",
        ),
    ]


def _against(what: str, precision: str, peak_flops: float) -> str:
    return f"{what}, over 2048^3 matrix products in {precision}: {peak_flops / 1e9:.0f} GFLOP/s"
