"""How long a user waits for help: the overview, a verb without torch, and `fit`, which needs Lightning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.clock import median_times_s
from tests.benchmarks.rows import Row

ROWS = ("cli_help_s", "cli_data_help_s", "cli_fit_help_ratio")
ROUNDS = 5


def measure() -> list[Row]:
    script = str(Path(sys.executable).with_name("mindvl"))
    commands = {
        "overview": [script, "--help"],
        "render": [script, "data", "render", "--help"],
        "fit": [script, "fit", "--help"],
        "lightning": [sys.executable, "-c", "import lightning"],
    }
    times_s = median_times_s(
        {name: lambda command=command: _run(command) for name, command in commands.items()}, rounds=ROUNDS
    )
    against = f'mindvl fit --help over python -c "import lightning", {times_s["lightning"]:.2f} s'
    return [
        Row("cli_help_s", times_s["overview"], "s"),
        Row("cli_data_help_s", times_s["render"], "s"),
        Row("cli_fit_help_ratio", times_s["fit"] / times_s["lightning"], "ratio", against),
    ]


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
