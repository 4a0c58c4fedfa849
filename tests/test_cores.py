"""Ranks of one machine get cores of their own, and real data workers stay on them."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mindvl import cores
from mindvl.cores import bind_process, cores_of_rank
from mindvl.data.dataset import worker_setup


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {5, 1, 3, 8, 9, 20, 21, 22})
    cores._cores_at_first.cache_clear()
    yield
    cores._cores_at_first.cache_clear()


@pytest.mark.parametrize("num_ranks", range(1, 9))
def test_every_core_belongs_to_one_rank_and_no_rank_has_two_more_than_another(num_ranks, eight_cores):
    shares = [cores_of_rank(rank, num_ranks) for rank in range(num_ranks)]
    assert [core for share in shares for core in share] == [1, 3, 5, 8, 9, 20, 21, 22]
    assert {len(share) for share in shares} <= {8 // num_ranks, 8 // num_ranks + 1}


def test_three_ranks_share_eight_cores_as_the_docstring_says(eight_cores):
    assert [len(cores_of_rank(rank, 3)) for rank in range(3)] == [2, 3, 3]


def test_more_ranks_than_cores_are_refused_with_both_numbers(eight_cores):
    with pytest.raises(ValueError, match="9 ranks cannot each have a core of their own: 8 cores may be used"):
        cores_of_rank(0, 9)


def test_binding_keeps_every_thread_of_a_process_and_a_second_question_has_the_same_answer():
    script = (
        "import os, threading\n"
        "from mindvl.cores import bind_process, cores_of_rank\n"
        "waiting = threading.Event(); thread = threading.Thread(target=waiting.wait); thread.start()\n"
        "mine = cores_of_rank(0, len(os.sched_getaffinity(0)))\n"
        "bind_process(mine)\n"
        "bound = [os.sched_getaffinity(int(task)) for task in os.listdir('/proc/self/task')]\n"
        "waiting.set()\n"
        "assert len(bound) > 1 and all(each == set(mine) for each in bound), bound\n"
        "assert len(cores_of_rank(0, 1)) >= len(mine)\n"
        "print(len(cores_of_rank(0, 1)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(os.sched_getaffinity(0))


class Affinity(Dataset):
    """What a data worker may use, as it says itself."""

    def __len__(self):
        return 4

    def __getitem__(self, number):
        return torch.tensor(sorted(os.sched_getaffinity(0)))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be divided")
def test_the_workers_of_two_ranks_run_on_cores_of_their_own_and_the_main_process_is_left_alone():
    from functools import partial

    before, seen = os.sched_getaffinity(0), []
    for rank in range(2):
        mine = cores_of_rank(rank, 2)
        setup = partial(worker_setup, cores=mine)
        loader = DataLoader(Affinity(), batch_size=None, num_workers=2, worker_init_fn=setup)
        said = {core for item in loader for core in item.tolist()}
        assert said == set(mine)
        seen.append(said)
    assert not seen[0] & seen[1] and os.sched_getaffinity(0) == before


def test_binding_this_process_to_what_it_may_use_changes_nothing():
    before = os.sched_getaffinity(0)
    bind_process(before)
    assert os.sched_getaffinity(0) == before
