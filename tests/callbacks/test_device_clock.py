import pytest
import torch
from mindvl_callbacks import device_clock


def test_on_the_host_two_marks_are_apart_what_passed_between_them(clock, monkeypatch):
    monkeypatch.setattr(device_clock, "time", clock)
    start = device_clock.mark(torch.device("cpu"))
    clock.pass_s(2.5)
    assert device_clock.elapsed_s(start, device_clock.mark(torch.device("cpu"))) == 2.5


def test_on_an_accelerator_the_queue_is_timed_and_waited_for_only_when_read(monkeypatch):
    calls = []

    class Backend:
        """Stands in for the module of a device type, whose events read 0 ms, 40 ms, 80 ms ..."""

        class Event:
            made = 0

            def __init__(self, *, enable_timing):
                assert enable_timing
                self.at_ms = 40.0 * Backend.Event.made
                Backend.Event.made += 1

            def record(self):
                calls.append(("record", self.at_ms))

            def synchronize(self):
                calls.append(("wait", self.at_ms))

            def elapsed_time(self, end):
                return end.at_ms - self.at_ms

    monkeypatch.setattr(torch, "meta", Backend, raising=False)
    start, end = (device_clock.mark(torch.device("meta")) for _ in range(2))
    assert calls == [("record", 0.0), ("record", 40.0)]
    assert device_clock.elapsed_s(start, end) == pytest.approx(0.040)
    assert calls[2:] == [("wait", 40.0)]


def test_a_device_without_events_is_timed_by_the_host(clock, monkeypatch):
    monkeypatch.setattr(device_clock, "time", clock)
    assert device_clock.mark(torch.device("meta")) == clock.now_s
