"""One of two ranks, started by test_metrics.py: two_ranks.py FOLDER. Rank 0 writes what both know together."""

import faulthandler
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from mindvl.routing import CacheHits, SegmentRouting


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    ids = np.load(folder / "ids.npy")
    mine, labels = (ids[:1], ["web"]) if rank == 0 else (ids[1:], ["code", "web", "code"])
    srp = SegmentRouting(num_layers=2, num_experts=6, segment_length=4, domains=("web", "code"))
    srp.update(mine, labels)
    found = {"srp": srp.compute()}
    for policy in ("sch", "pinned"):
        cache = CacheHits(num_layers=2, num_experts=6, policy=policy, lookahead=4, pooled=True)
        cache.update(mine)
        found[policy] = cache.compute()
    if rank == 0:
        torch.save(found, folder / "together.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(110, exit=True)  # a rank that waits in vain says where
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
