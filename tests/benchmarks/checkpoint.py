"""Saving a gigabyte from two ranks: how long training waits, and how that compares with copying the same bytes.

`checkpoint_save_vs_cp_ratio` is the time of a whole save in the foreground, checksums and fsync included, over that of
`cp` and `sync` of the finished directory, in turns. `checkpoint_stall_ratio` is the time for which a save in the
background keeps training waiting, over that of one in the foreground. `checkpoint_verify_ratio` is the time of a load
that compares checksums first, over that of one that does not.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.rows import Row

ROWS = ("checkpoint_save_vs_cp_ratio", "checkpoint_stall_ratio", "checkpoint_verify_ratio")
RANKS, ROUNDS = 2, 5
LAYERS, WIDTH = 20, 2048  # 84 M parameters in fp32 with AdamW's two moments: 1.0 GB


def measure() -> list[Row]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.checkpoint", folder]
        environment = {**os.environ, **address, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(RANKS)}
        ranks = [
            subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
            for rank in range(RANKS)
        ]
        said = [rank.communicate(timeout=900)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * RANKS, said
    found = json.loads(said[0])
    gigabytes, save_s, copy_s = found["bytes"] / 1e9, found["foreground"], found["cp"]
    ran = f"{gigabytes:.2f} GB from {RANKS} ranks"
    return [
        Row(ROWS[0], save_s / copy_s, "ratio", f"{ran}: {save_s:.2f} s; cp and sync of it {copy_s:.2f} s"),
        Row(ROWS[1], found["stall"] / save_s, "ratio", f"{ran}: training waits {found['stall']:.2f} s of {save_s:.2f}"),
        Row(
            ROWS[2],
            found["verified load"] / found["load"],
            "ratio",
            f"{ran}: {found['verified load']:.2f} s, {found['load']:.2f} s without checksums",
        ),
    ]


def run_rank(folder: Path) -> None:
    """One rank of the measurement; the first prints medians in seconds as JSON."""
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import fully_shard

    from mindvl.parallel.checkpoint.saves import Checkpoints, Saves

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    mesh = dist.device_mesh.init_device_mesh("cpu", (RANKS,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    rest = {"global_step": 1, "optimizer_states": []}
    saves = Saves(Checkpoints(), rank, RANKS, mesh={"shard": RANKS})
    trusting = Saves(Checkpoints(verify=False), rank, RANKS, mesh={"shard": RANKS})
    target = folder / "step-1.ckpt"
    times: dict[str, list[float]] = {}

    def timed(name: str, do) -> None:
        dist.barrier()
        start = time.perf_counter()
        do()
        times.setdefault(name, []).append(time.perf_counter() - start)
        dist.barrier()

    def copy() -> None:
        if rank == 0:
            subprocess.run(["cp", "-r", target, folder / "copy"], check=True)
            files = [str(path) for path in (folder / "copy").iterdir()]
            subprocess.run(["sync", *files], check=True)

    for _ in range(1 + ROUNDS):
        timed("foreground", lambda: saves.save(target, model, [optimizer], rest, background=False))
        timed("cp", copy)
        timed("stall", lambda: saves.save(folder / "step-2.ckpt", model, [optimizer], rest, background=True))
        saves.settle()
        timed("verified load", lambda: saves.load(target, model, [optimizer]))
        timed("load", lambda: trusting.load(target, model, [optimizer]))
        if rank == 0:
            size_bytes = sum(path.stat().st_size for path in target.iterdir())
            for path in folder.iterdir():
                shutil.rmtree(path)
        dist.barrier()
    if rank == 0:
        medians = {name: statistics.median(values[1:]) for name, values in times.items()}
        print(json.dumps({**medians, "bytes": size_bytes}))
    dist.destroy_process_group()


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
