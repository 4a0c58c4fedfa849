"""The language model's head and its loss at a vocabulary of 151,936: memory and time beside all logits at once.

Memory is what the process needs at its peak beyond what it held before and the gradient of the weight, which stays: in
a process of its own, forward and backward, over the bytes of all logits in fp32.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch
from torch.nn import functional as F

from mindvl.ops.loss import chunked_cross_entropy
from mindvl.ops.table import using
from tests.benchmarks.clock import best_times_s
from tests.benchmarks.memory import forget_peak, peak_bytes, resident_bytes
from tests.benchmarks.rows import Row

ROWS = ("ce_head_memory_ratio", "ce_time_ratio")
WORDS, SUPERVISED = 151_936, 2048
MEMORY_DIM, TIME_DIM, TIME_SUPERVISED = 256, 1024, 1024
ROUNDS = 3


def measure() -> list[Row]:
    peaks = {name: _in_a_process_of_its_own(name) for name in ("chunked", "all at once")}
    logits_bytes = 4 * WORDS * SUPERVISED
    rows, weight, targets = _problem(TIME_SUPERVISED, TIME_DIM)

    def with_torch_linear() -> None:
        with using({"linear": "torch"}):
            _step("chunked", rows, weight, targets)

    times_s = best_times_s(
        {
            "chunked": lambda: _step("chunked", rows, weight, targets),
            "chunked in MKL": with_torch_linear,
            "all at once": lambda: _step("all at once", rows, weight, targets),
        },
        rounds=ROUNDS,
    )
    plain_s = times_s["all at once"]
    return [
        Row(
            "ce_head_memory_ratio",
            peaks["chunked"] / logits_bytes,
            "ratio",
            f"all logits of {SUPERVISED} positions, {logits_bytes / 1e9:.2f} GB; at once the head needs "
            f"{peaks['all at once'] / logits_bytes:.1f} times that",
        ),
        Row(
            "ce_time_ratio",
            times_s["chunked"] / plain_s,
            "ratio",
            f"linear + cross_entropy on {TIME_SUPERVISED} positions of {TIME_DIM}, {plain_s:.2f} s; "
            f"{times_s['chunked in MKL'] / plain_s:.2f} with PyTorch's own linear layers",
        ),
    ]


def _problem(supervised: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    rows = torch.randn(supervised, dim).requires_grad_()
    weight = torch.randn(WORDS, dim).mul_(dim**-0.5).requires_grad_()
    return rows, weight, torch.randint(0, WORDS, (supervised,))


def _step(how: str, rows: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    rows.grad = weight.grad = None
    if how == "chunked":
        loss = chunked_cross_entropy(rows, weight, None, targets)
    else:
        loss = F.cross_entropy(F.linear(rows, weight), targets, reduction="sum")
    loss.backward()


def _in_a_process_of_its_own(how: str) -> int:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_bytes, how).result()


def _peak_bytes(how: str) -> int:
    """Most resident memory during a step, less what was resident before it and the weight's gradient."""
    rows, weight, targets = _problem(SUPERVISED, MEMORY_DIM)
    _step(how, rows[:64].detach().requires_grad_(), weight, targets[:64])  # libraries take their own memory first
    weight.grad = None
    forget_peak()
    before = resident_bytes()
    _step(how, rows, weight, targets)
    return peak_bytes() - before - weight.nbytes
