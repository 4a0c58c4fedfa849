"""What the callbacks' tests share: a clock that only moves when told, and a logger that keeps what it is given."""

import pytest
from lightning.pytorch.loggers import Logger


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now_s = 1000.0

    def perf_counter(self):
        return self.now_s

    def pass_s(self, seconds):
        self.now_s += seconds


class Memory(Logger):
    """Keeps each call of `log_metrics` as (step, metrics)."""

    name, version = "memory", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def series(self, key):
        return [(step, metrics[key]) for step, metrics in self.rows if key in metrics]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("mindvl_callbacks.token_throughput.time", clock)
    return clock


@pytest.fixture
def memory():
    return Memory()
