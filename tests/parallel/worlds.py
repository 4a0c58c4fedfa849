"""Starts worlds of ranks quickly: one process imports everything, then forks the ranks of each world.

A script under tests/parallel/ says what its ranks do and calls `run_worlds`; its test starts the script once, with the
fixture `run_script`. Importing torch, Lightning and transformers takes seconds, so ranks that are started anew for each
world would spend their time on that.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping

import torch

TIME_LIMIT_S = 250


def run_worlds(worlds: Mapping[int, Callable[[], None]], *, may_fail: bool = False) -> dict[int, list[int]]:
    """Called by a script: for each size, forks so many ranks that run the function; returns their exit codes.

    Raises RuntimeError when one has failed, unless it may.
    """
    codes = {}
    for size, function in worlds.items():
        port = _free_port()
        children = [_fork(function, rank, size, port) for rank in range(size)]
        codes[size] = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes[size]) and not may_fail:
            raise RuntimeError(f"ranks of the world of {size} ended with {codes[size]}")
    return codes


def _fork(function: Callable[[], None], rank: int, size: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        faulthandler.dump_traceback_later(TIME_LIMIT_S - 10, exit=True)  # a rank that waits in vain says where
        torch.set_num_threads(1)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }
        if size == 1:
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
                del os.environ[name]
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
