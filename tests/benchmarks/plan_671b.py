"""How long `mindvl plan` takes for 671 billion parameters over 1,024 ranks, and the memory of its process."""

from __future__ import annotations

import subprocess
import sys

from mindvl.cli.main import main
from tests.benchmarks.clock import median_times_s
from tests.benchmarks.memory import peak_bytes
from tests.benchmarks.rows import Row

ROWS = ("plan_671b_s", "plan_671b_peak_gb")
ROUNDS = 3
COMMAND = ["plan", "-c", "configs/mindvl_671b_a37b.yaml", "--devices", "1024", "--device", "910b"]


def measure() -> list[Row]:
    peaks_bytes: list[int] = []
    times_s = median_times_s({"plan": lambda: peaks_bytes.append(_planned())}, rounds=ROUNDS)
    return [
        Row(ROWS[0], times_s["plan"], "s", "the whole command, imports included"),
        Row(ROWS[1], max(peaks_bytes) / 1e9, "GB", "peak memory of its process"),
    ]


def _planned() -> int:
    """The peak memory of the command's process, in bytes."""
    command = [sys.executable, "-m", "tests.benchmarks.plan_671b", *COMMAND]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    status = main(sys.argv[1:])
    print(peak_bytes())
    sys.exit(status)
