import importlib.util

import pytest

from mindvl.data.steps.run import run_recipe
from mindvl.data.steps.runners import check_runner, in_order, open_runner


@pytest.fixture
def local_ray(monkeypatch):
    """Two CPUs of Ray in this process; what it starts goes with the test."""
    ray = pytest.importorskip("ray", reason="needs Ray Data: pip install mindvl[ray]")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", object_store_memory=80 * 2**20)
    yield ray
    ray.shutdown()


# Ray's own: it meets its deprecated settings, and leaves sockets and log files to the collector.
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
def test_ray_writes_the_same_bytes_as_local_processes_and_tells_errors_in_our_words(
    local_ray, recipe, small_recipe, picture, record, write_tar, tmp_path, checksums
):
    pytest.importorskip("imagehash")
    pytest.importorskip("datasketch")
    members = [("orphan.png", picture(28, 28)), ("a.json", record("What stands here?")), ("bad.json", b"{")]
    shard = write_tar(tmp_path / "own.tar", members)
    sources = {**small_recipe["sources"], "own": {"shards": shard}}
    local = run_recipe(recipe("local", sources=sources), workers=1)
    assert run_recipe(recipe("ray", sources=sources), runner="ray") == local
    assert local["sources"]["own"]["steps"][0]["dropped"] == {
        "no .json or .txt record": {"samples": 1, "examples": ["own/0/orphan"]},
        "the record is not JSON": {"samples": 1, "examples": ["own/0/bad"]},
    }
    assert checksums(tmp_path / "local") == checksums(tmp_path / "ray") != {}

    def fail(item):
        raise ValueError(f"source {item}: no")

    with pytest.raises(ValueError) as error, open_runner("ray") as run:
        in_order(run(fail, ["a"]), 1, title="failing")
    assert str(error.value) == "source a: no"


def test_results_come_in_the_order_of_the_items_whoever_is_done_first():
    with open_runner("local", workers=2) as run:
        assert in_order(run(abs, [-3, 2, -1]), 3, title="testing") == [3, 2, 1]
        assert in_order(run(abs, []), 0, title="testing") == []


def test_a_runner_that_is_not_there_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="runner is 'dask'; known are local, ray"):
        check_runner("dask")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'mindvl\[ray\]'"):
        check_runner("ray")
