"""One of two ranks, started by test_accumulate.py: two_ranks.py FOLDER. Rank 0 writes what both know together.

Rank 1 has no record of MMBench, and the pairs of MME are split between the two.
"""

import faulthandler
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from mindvl.eval.metrics import ANLS, MME, CircularAccuracy


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    data = json.loads((folder / "data.json").read_text())
    means, points, circles = ANLS(), MME(), CircularAccuracy()
    mine = data["anls"][:1] if rank == 0 else data["anls"][1:]
    means.update([answer for answer, _ in mine], [references for _, references in mine])
    points.update(data["mme"][rank::2])
    if rank == 0:
        circles.update(data["circular"])
    found = {
        "anls": means.compute().item(),
        "mme": {name: value.item() for name, value in points.compute().items()},
        "circular": circles.compute().item(),
        "left_on_this_rank": len(points.rows()),
    }
    if rank == 0:
        (folder / "together.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(110, exit=True)  # a rank that waits in vain says where
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
