"""Lightning's count of batches, brought in line with the optimizer steps of a run that is resumed."""

from __future__ import annotations

import lightning as L


def align_batch_progress(trainer: L.Trainer) -> int:
    """Batches per rank that the steps so far would have taken with today's accumulation; Lightning now thinks so too.

    Lightning ends an accumulation when its own count of batches divides by `accumulate_grad_batches`, and an epoch when
    it reaches the loader's length. A checkpoint of two ranks without accumulation, resumed on one rank that accumulates
    two packs, has counted 3 batches after 3 steps: the next step would be made of one pack. Here it becomes 6.
    """
    done = trainer.global_step * trainer.accumulate_grad_batches
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    shift = done - progress.processed
    for name in ("ready", "started", "processed", "completed"):
        setattr(progress, name, getattr(progress, name) + shift)
    return done
