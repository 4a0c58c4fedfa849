"""A command's help must not wait for torch, pandas or pyarrow because it knows the benchmarks' names."""

import subprocess
import sys

HEAVY = ("torch", "torchmetrics", "pandas", "pyarrow")


def test_metrics_and_benchmarks_load_nothing_heavy_until_it_is_used():
    code = (
        "import sys, mindvl.eval.metrics, mindvl.eval.benchmarks as b, mindvl.eval.readers\n"
        "[b.load(name) for name in b.names()]\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
        "mindvl.eval.metrics.ANLS\n"
        "print('torchmetrics' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split("\n")[:2] == ["[]", "True"]
