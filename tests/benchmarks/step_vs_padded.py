"""Real tokens per second of a packed training step over those of a padded transformers loop, in fp32.

Same weights, same samples, same threads; losses and gradients are compared before the clock starts.
"""

from __future__ import annotations

import math

from mindvl.device import keep_freed_memory
from tests.benchmarks.clock import median_times_s
from tests.benchmarks.midsize import conversations, first_fit, midsize_model, packed_step
from tests.benchmarks.padded import PaddedLoop
from tests.benchmarks.rows import Row

ROWS = ("step_vs_padded_ratio",)
SAMPLES, BATCH_SIZE, ROUNDS = 64, 8, 3


def measure() -> list[Row]:
    keep_freed_memory()  # for both
    samples = conversations(SAMPLES)
    tokens = sum(len(sample.input_ids) for sample in samples)
    model = midsize_model()
    packs = first_fit(samples)
    padded = PaddedLoop(model)
    batches = padded.batches(samples, batch_size=BATCH_SIZE)

    def ours() -> float:
        model.zero_grad()
        return sum(packed_step(model, pack) for pack in packs)

    def theirs() -> float:
        padded.zero_grad()
        return sum(padded.step(batch) for batch in batches)

    _check_same_work(ours(), theirs(), model.vision, padded.tower)
    times_s = median_times_s({"ours": ours, "theirs": theirs}, rounds=ROUNDS, warmups=0)
    padding = 1 - tokens / sum(batch.input_ids.numel() for batch in batches)
    against = (
        f"padded transformers loop, fp32, batches of {BATCH_SIZE} ({padding:.0%} padding): "
        f"{tokens / times_s['theirs']:.0f} real tokens/s, ours {tokens / times_s['ours']:.0f}"
    )
    return [Row("step_vs_padded_ratio", times_s["theirs"] / times_s["ours"], "ratio", against)]


def _check_same_work(our_loss: float, their_loss: float, our_tower, their_tower) -> None:
    """Refuse to compare speeds of different sums: losses, and the gradients that reach the far end of the model."""
    gradients = [tower.patch_embed.proj.weight.grad for tower in (our_tower, their_tower)]
    differences = {
        "loss": abs(our_loss - their_loss) / abs(their_loss),
        "gradient of the patch kernel": ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item(),
    }
    for name, difference in differences.items():
        if not math.isfinite(difference) or difference > 1e-3:
            raise ValueError(f"the {name} differs by {difference:.1e} between the two sides, allowed is 1e-3")
