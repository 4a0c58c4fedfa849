import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from mindvl_callbacks import ResolutionSearch, SearchSample
from mindvl_callbacks.resolution_callback import log_resolution

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
]

BUDGETS = [(1, 1), (4, 4), (9, 9)]
KEYS = {
    "score": 0.75,
    "score_default": 0.25,
    "difference": 0.5,
    "selection_score": 0.75,
    "min_pixels": 9,
    "max_pixels": 9,
    "visual_tokens": 9,
    "visual_tokens_default": 1,
    "scored_ratio": 1.0,
}


class Reader(BoringModel):
    """Foreign to all of this; knows how well it reads at a size, and what it was asked in which mode."""

    def __init__(self):
        super().__init__()
        self.dropout = torch.nn.Dropout()
        self.frozen = torch.nn.Dropout().eval()
        self.asked = []


def rule(module, samples, budget):
    module.asked.append((len(samples), module.training, module.frozen.training, torch.is_grad_enabled()))
    wrong = {1: (0, 1, 2), 4: (0, 1), 9: (0,)}[budget[1]]
    return [int(sample.key) % 4 not in wrong for sample in samples]


def grid_of(sample, budget):
    return ((budget[1], 1),)


def samples(trainer):
    everyone = [SearchSample(str(number), "docs") for number in range(80)]
    return everyone[:40], everyone[40:]


def search(**settings):
    return ResolutionSearch(rule, grid_of=grid_of, samples=samples, budgets=BUDGETS, **settings)


def trainer_with(callback, logger=False, **settings):
    defaults = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False}
    defaults |= {"enable_checkpointing": False, "limit_val_batches": 1, "limit_test_batches": 1}
    return L.Trainer(callbacks=[callback], logger=logger, **(defaults | settings))


def rows_of(memory):
    return [(step, row) for step, row in memory.rows if any(key.startswith("resolution/") for key in row)]


@pytest.mark.parametrize("end", ["validate", "test"])
def test_each_documented_key_is_logged_with_its_value(memory, end):
    callback = search()
    getattr(trainer_with(callback, memory), end)(Reader(), verbose=False)
    ((step, row),) = rows_of(memory)
    assert step == 0
    low, high = (row.pop(f"resolution/docs/difference_{end}") for end in ("low", "high"))
    assert row == {f"resolution/docs/{name}": value for name, value in KEYS.items()}
    assert 0.3 < low < 0.5 < high < 0.7
    documented = {f"`resolution/<benchmark>/{name}`" for name in (*KEYS, "difference_low", "difference_high")}
    table = {line.split("|")[1].strip() for line in ResolutionSearch.__doc__.splitlines() if line.startswith("    | `")}
    assert table == documented
    assert callback.results["docs"].chosen.max_pixels == 9


def test_the_scorer_runs_in_evaluation_mode_and_the_modes_come_back():
    model = Reader()
    trainer_with(search(at=("fit",)), max_steps=1, limit_val_batches=0).fit(model)
    assert model.asked and all(seen[1:] == (False, False, False) for seen in model.asked)
    assert model.training and model.dropout.training and not model.frozen.training


def test_a_fit_searches_after_every_second_validation_and_never_in_the_sanity_check(memory):
    callback = search(every_n_validations=2)
    settings = {"max_steps": 10, "val_check_interval": 2, "check_val_every_n_epoch": None, "num_sanity_val_steps": 1}
    trainer_with(callback, memory, **settings).fit(Reader())
    assert [step for step, _ in rows_of(memory)] == [4, 8]
    assert callback.state_dict() == {"validations": 5}
    resumed = search(every_n_validations=2)
    resumed.load_state_dict({"validations": 5})
    memory.rows.clear()
    trainer_with(resumed, memory, **(settings | {"max_steps": 4})).fit(Reader())
    assert [step for step, _ in rows_of(memory)] == [2]


def test_only_the_ends_that_are_named_are_searched(memory):
    model = Reader()
    trainer = trainer_with(search(at=("test",)), memory, max_steps=2)
    trainer.fit(model)
    trainer.validate(model, verbose=False)
    assert rows_of(memory) == [] and model.asked == []
    trainer.test(model, verbose=False)
    assert len(rows_of(memory)) == 1


def test_scores_are_kept_by_the_weights_that_made_them(tmp_path):
    model, same = Reader(), Reader()
    same.load_state_dict(model.state_dict())
    other = Reader()
    results = []
    for reader in (model, same, other):
        callback = search(cache_folder=tmp_path, scorer_name="exact_match")
        trainer_with(callback).validate(reader, verbose=False)
        results.append(callback.results)
    assert results[0] == results[1] == results[2]
    assert (len(model.asked) > 0, len(same.asked), len(other.asked) > 0) == (True, 0, True)
    assert all(path.name.startswith("exact_match-") for path in tmp_path.iterdir())


def test_the_curve_goes_to_loggers_that_take_images(memory):
    callback = search()
    trainer_with(callback).validate(Reader(), verbose=False)
    images, tensors = [], []
    memory.log_image = lambda key, images_, step: images.append((key, images_[0].shape, step))
    plain = type(memory)()
    board = type(memory)()
    type(board).experiment = SimpleNamespace(
        add_image=lambda tag, tensor, step, dataformats: tensors.append((tag, tuple(tensor.shape), step, dataformats))
    )
    try:
        log_resolution([plain, memory, board], callback.results, step=3)
    finally:
        del type(board).experiment
    (image,), shape = images, images[0][1]
    assert image == ("resolution/curve", shape, 3)
    assert shape[2] == 3 and min(shape[:2]) > 300
    assert ("resolution/curve", shape, 3, "HWC") in tensors
    assert all(len(rows_of(logger)) == 1 for logger in (plain, memory, board))


def test_without_matplotlib_the_numbers_are_logged_and_the_lack_is_said(memory, monkeypatch):
    callback = search()
    trainer_with(callback).validate(Reader(), verbose=False)
    monkeypatch.delattr("torchmetrics.utilities.plot.plt")
    memory.log_image = lambda *_: pytest.fail("no image can be drawn")
    with pytest.warns(UserWarning, match="drawn with matplotlib: install it"):
        log_resolution([memory], callback.results, step=0)
    assert len(rows_of(memory)) == 1


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="at names predict; known are validate, test, fit"):
        search(at=("predict",))
    with pytest.raises(ValueError, match="every_n_validations is 0"):
        search(every_n_validations=0)
    with pytest.raises(ValueError, match="min_pixels 5, more than its max_pixels 4"):
        ResolutionSearch(rule, grid_of=grid_of, samples=samples, budgets=[(5, 4)])


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, run_ranks):
    """What each of two gloo processes found and was asked; resolution_ranks.py has the samples."""
    folder = tmp_path_factory.mktemp("resolution_ranks")
    run_ranks(Path(__file__).with_name("resolution_ranks.py"), folder)
    return folder, [json.loads((folder / f"result.{rank}").read_text()) for rank in range(2)]


def test_ranks_score_disjoint_shares_of_all_samples(two_ranks):
    _, ranks = two_ranks
    asked = [{tuple(cell) for cell in rank["asked"]} for rank in ranks]
    assert all(len(cells) == len(rank["asked"]) for cells, rank in zip(asked, ranks, strict=True))
    assert not asked[0] & asked[1]
    selected = {(str(number), high) for number in range(41) for high in (1, 4, 9)}
    reported = {(str(number), high) for number in range(41, 80) for high in (1, 9)}
    assert asked[0] | asked[1] == selected | reported
    assert abs(len(asked[0]) - len(asked[1])) <= 2


def test_all_ranks_come_to_the_result_of_one_process(two_ranks):
    _, ranks = two_ranks
    everyone = [SearchSample(str(number), "docs") for number in range(80)]
    alone = ResolutionSearch(
        rule, grid_of=grid_of, samples=lambda trainer: (everyone[:41], everyone[41:]), budgets=BUDGETS
    )
    trainer_with(alone).validate(Reader(), verbose=False)
    expected = json.loads(json.dumps(asdict(alone.results["docs"])))
    assert ranks[0]["result"] == ranks[1]["result"] == expected


def test_one_process_goes_on_with_what_two_ranks_have_kept(two_ranks):
    folder, ranks = two_ranks
    (kept,) = (folder / "scores").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["scores-0.jsonl", "scores-1.jsonl"]
    model = Reader()
    model.load_state_dict(torch.load(folder / "model.pt"))
    callback = ResolutionSearch(
        rule,
        grid_of=grid_of,
        samples=lambda trainer: ([*samples(trainer)[0], SearchSample("40", "docs")], samples(trainer)[1][1:]),
        budgets=BUDGETS,
        cache_folder=folder / "scores",
    )
    trainer_with(callback).validate(model, verbose=False)
    assert model.asked == []
    assert callback.results["docs"].chosen.report.score == ranks[0]["result"]["chosen"]["report"]["score"]


def test_ranks_with_other_samples_are_refused_on_every_rank(two_ranks):
    _, ranks = two_ranks
    assert "rank 1 was given other samples: it lacks 60 scores, rank 0 lacks 63" in ranks[0]["refused"]
    assert "rank 0 was given other samples: it lacks 63 scores, rank 1 lacks 60" in ranks[1]["refused"]
