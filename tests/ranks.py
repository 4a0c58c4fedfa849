"""Starts a script as two ranks that can meet over gloo; tests have it as the fixture `run_ranks`.

`ranks.py SCRIPT ...` is one of them: the script, and an end that gloo's threads survive.
"""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path


def run_ranks(script: Path, *arguments, environment=None, nodes: bool = False, may_fail: bool = False) -> list[str]:
    """What each of the two has printed.

    Both are ended after three minutes. A rank that fails is an error unless it `may_fail`; with `nodes`, each is the
    only rank of a node of its own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, str(script), *map(str, arguments)]
    with ExitStack() as stack:
        printed = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
        ranks = []
        for rank, file in enumerate(printed):
            node, local = (rank, 0) if nodes else (0, rank)
            own = {"RANK": str(rank), "NODE_RANK": str(node), "LOCAL_RANK": str(local)}
            variables = {**(environment or os.environ), **common, **own}
            ranks.append(subprocess.Popen(command, env=variables, cwd=script.parent, stdout=file, stderr=file))
        try:
            for rank in ranks:
                rank.wait(timeout=180)
        except subprocess.TimeoutExpired:
            pass  # the exit codes say so
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        said = []
        for file in printed:
            file.seek(0)
            said.append(file.read()[-3000:])
    assert may_fail or [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    return said


if __name__ == "__main__":
    from mindvl.cli.ending import run_to_end

    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    run_to_end(lambda: runpy.run_path(sys.argv[0], run_name="__main__") and 0)
