import pytest

from mindvl.cli.weights import START, choose_weights, start_weights


@pytest.fixture
def root(tmp_path):
    """A run that has left a checkpoint."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    return tmp_path


def test_the_newest_checkpoint_of_the_run_is_chosen_and_told(root, make_spec):
    chosen, said = choose_weights(None, root, make_spec())
    assert chosen == f"{root}/checkpoints/last.ckpt" and said.startswith(f"weights of {root}/checkpoints/last.ckpt (")


def test_a_checkpoint_of_the_run_stands_before_what_it_started_from_and_says_so(root, make_spec):
    _, said = choose_weights(None, root, make_spec(start_from="runs/warmup/model", tokenizer="bytes"))
    assert "not of model.start_from runs/warmup/model (--ckpt_path start takes those" in said


def test_a_checkpoint_that_is_named_wins(root, make_spec):
    assert choose_weights("other.ckpt", root, make_spec()) == ("other.ckpt", "weights of other.ckpt")


def test_start_asks_for_the_weights_before_training(root, make_spec):
    chosen, said = choose_weights(START, root, make_spec(start_from="runs/warmup/model", tokenizer="bytes"))
    assert chosen is None
    assert said == f"weights of model.start_from runs/warmup/model (not of {root}/checkpoints/last.ckpt)"


def test_without_a_checkpoint_fresh_weights_are_told_as_such(tmp_path, make_spec):
    said = f"fresh weights: nothing has been trained (no checkpoint under {tmp_path}/checkpoints)"
    assert choose_weights(None, tmp_path, make_spec()) == (None, said)


def test_pretrained_parts_are_named(make_spec):
    spec = make_spec(language={"pretrained": "Qwen/Qwen3-8B"}, tokenizer="bytes")
    assert start_weights(spec) == "weights of model.language Qwen/Qwen3-8B, all others fresh"
