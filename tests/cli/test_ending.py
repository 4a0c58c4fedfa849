import os
import subprocess
import sys

import pytest

SCRIPT = """
import atexit, os, sys, threading, time

class Aborts:
    def __del__(self):
        if sys.is_finalizing():
            os.abort()

aborts = Aborts()

def main():
    sys.modules["torch"] = sys  # as if it were loaded
    atexit.register(print, "exit function")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    {body}

{start}
"""
ENDING = "from mindvl.cli.ending import run_to_end\nsys.exit(run_to_end(main))"


def ended(body: str, start: str = ENDING) -> tuple[int, list[str], str]:
    command = [sys.executable, "-c", SCRIPT.format(body=body, start=start)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.split("\n")[:-1], done.stderr


def test_without_it_what_aborts_while_python_is_taken_apart_decides_the_exit_status():
    assert ended("return 0", "sys.exit(main())")[0] < 0


@pytest.mark.parametrize(
    "body, status", [("return 0", 0), ("return 2", 2), ("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('why')", 1)]
)
def test_the_status_is_mains_and_threads_and_exit_functions_have_run(body, status):
    code, printed, _ = ended(body)
    assert code == status
    assert printed == ["thread", "exit function"]


def test_a_run_that_sigterm_has_ended_does_not_look_finished():
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    assert SIGTERMException().code is None and SIGTERMException.__name__ == "SIGTERMException"
    code, _, errors = ended("raise type('SIGTERMException', (SystemExit,), {})()")
    assert code == 143
    assert errors.endswith("ended by SIGTERM; the same command goes on from the last checkpoint\n")


def test_an_uncaught_error_is_printed_and_the_status_is_1():
    code, printed, errors = ended("raise KeyError('lost')")
    assert code == 1 and "KeyError: 'lost'" in errors and printed == ["thread", "exit function"]


def test_a_rank_may_end_while_others_still_exchange_tensors_with_it(run_ranks, tmp_path):
    script = tmp_path / "leaves.py"
    script.write_text(
        "import os, time\n"
        "import torch\n"
        "import torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "sums = [dist.all_reduce(torch.ones(1000), async_op=True) for _ in range(200)]\n"
        "if os.environ['RANK'] == '0':\n"
        "    time.sleep(1)\n"
        "    os._exit(0)\n"
    )
    assert run_ranks(script, environment={**os.environ, "PYTHONWARNINGS": "ignore"}) == ["", ""]
