import json

import pytest
import torch
from mindvl_callbacks import ScoreCache, SearchSample, search_resolution
from mindvl_callbacks.resolution_cache import module_fingerprint

BUDGETS = [(1, 1), (2, 2), (3, 3)]


def samples(first, count=10):
    return [SearchSample(f"sample {number}", "docs") for number in range(first, first + count)]


class Scorer:
    """Breaks down after so many batches."""

    def __init__(self, batches=1000):
        self.left, self.asked = batches, 0

    def __call__(self, samples, budget):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += len(samples)
        return [int(sample.key.split()[1]) % 3 / budget[0] for sample in samples]


def search(scorer, cache):
    return search_resolution(
        samples(0),
        samples(10),
        budgets=BUDGETS,
        score=scorer,
        grid_of=lambda sample, budget: ((budget[0], 1),),
        batch_size=4,
        cache=cache,
    )


def test_an_interrupted_search_goes_on_where_it_stopped_and_finds_the_same(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search(Scorer(batches=4), ScoreCache(tmp_path, "model"))
    resumed, whole = Scorer(), Scorer()
    found = search(resumed, ScoreCache(tmp_path, "model"))
    assert found == search(whole, None)
    assert resumed.asked == whole.asked - (4 + 4 + 2 + 4)  # batches of ten samples by four
    again = Scorer()
    assert search(again, ScoreCache(tmp_path, "model")) == found
    assert again.asked == 0


def test_another_model_has_scores_of_its_own(tmp_path):
    search(Scorer(), ScoreCache(tmp_path, "one"))
    other = Scorer()
    search(other, ScoreCache(tmp_path, "other"))
    assert other.asked > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_a_torn_line_is_asked_again_and_spoils_no_other(tmp_path):
    cache = ScoreCache(tmp_path, "model")
    cache.add({"a": 0.1, "b": 1 / 3})
    file = tmp_path / "model" / "scores-0.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    assert cache.read() == {"a": 0.1}
    cache.add({"b": 1 / 3, "c": 1.0})
    assert cache.read() == {"a": 0.1, "b": 1 / 3, "c": 1.0}
    assert [json.loads(line) for line in file.read_text().splitlines()[2:]] == [["b", 1 / 3], ["c", 1.0]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_any_number_of_ranks_reads_each_file_once(tmp_path, world_size):
    for rank in range(3):
        ScoreCache(tmp_path, "model", rank=rank, world_size=3).add({f"cell {rank}": float(rank)})
    known = [ScoreCache(tmp_path, "model", rank=rank, world_size=world_size).read() for rank in range(world_size)]
    assert sorted(cell for scores in known for cell in scores) == ["cell 0", "cell 1", "cell 2"]


def test_a_fingerprint_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'\.\./other' must be letters"):
        ScoreCache(tmp_path, "../other")


def test_the_fingerprint_of_a_module_is_of_its_values_names_and_types():
    torch.manual_seed(0)
    first = torch.nn.Linear(3, 2)
    second = torch.nn.Linear(3, 2)
    assert module_fingerprint(first) != module_fingerprint(second)
    second.load_state_dict(first.state_dict())
    assert module_fingerprint(first) == module_fingerprint(second)
    assert module_fingerprint(first) != module_fingerprint(torch.nn.Sequential(first))
    assert module_fingerprint(first) != module_fingerprint(first.to(torch.bfloat16))
