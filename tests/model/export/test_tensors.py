"""The table of tensors: names, runs of elements, and what does not add up."""

import pytest
import torch

from mindvl.model.export.tensors import BLOCK_ELEMENTS, blocks, runs_in_files, runs_of_model

EXPERTS = "language_model.model.layers.0.mlp.experts"


@pytest.fixture
def stacked():
    """Four experts of 3 x 2, and two tensors that are none."""
    return {
        f"{EXPERTS}.gate_up_proj": torch.arange(4 * 6 * 2.0).view(4, 6, 2),
        f"{EXPERTS}.down_proj": torch.arange(4 * 2 * 3.0).view(4, 2, 3),
        "vision.merger.ln_q.weight": torch.ones(2),
        "language_model.lm_head.weight": torch.arange(6.0).view(3, 2),
    }


def taken(run, state):
    return state[run.source].reshape(-1)[run.start : run.start + run.num_elements].view(run.shape)


def test_stacked_experts_become_one_matrix_each_as_slicing_them_would(stacked):
    runs = runs_in_files(stacked)
    gate_up, down = stacked[f"{EXPERTS}.gate_up_proj"], stacked[f"{EXPERTS}.down_proj"]
    for number in range(4):
        assert torch.equal(taken(runs[f"{EXPERTS}.{number}.gate_proj.weight"], stacked), gate_up[number, :3])
        assert torch.equal(taken(runs[f"{EXPERTS}.{number}.up_proj.weight"], stacked), gate_up[number, 3:])
        assert torch.equal(taken(runs[f"{EXPERTS}.{number}.down_proj.weight"], stacked), down[number])
    assert len(runs) == 4 * 3 + 2
    third = runs[f"{EXPERTS}.2.up_proj.weight"]
    assert (third.start, third.shape) == (2 * 12 + 6, (3, 2))


def test_a_file_layout_stays_as_it_is(stacked):
    runs = runs_in_files(stacked)
    as_files = {name: taken(run, stacked) for name, run in runs.items()}
    again = runs_in_files(as_files)
    assert list(again) == list(runs)
    assert all(run.source == name and run.start == 0 for name, run in again.items())


def test_both_layouts_of_a_checkpoint_are_written_alike(stacked, state_weights):
    as_files = {name: taken(run, stacked) for name, run in runs_in_files(stacked).items()}
    from_stacked = runs_of_model(state_weights(stacked), stacked, {})
    from_files = runs_of_model(state_weights(as_files), stacked, {})
    assert list(from_stacked) == list(from_files)
    for name, run in from_stacked.items():
        assert torch.equal(taken(run, stacked), taken(from_files[name], as_files))


def test_missing_and_unexpected_names_are_listed(stacked, state_weights):
    held = {**stacked, "language_model.extra": torch.ones(1)}
    del held[f"{EXPERTS}.down_proj"]
    with pytest.raises(ValueError, match=r"state does not hold .*: 4 keys missing .*down_proj.* 1 unexpected .*extra"):
        runs_of_model(state_weights(held), stacked, {})


def test_another_shape_is_refused_with_both(stacked, state_weights):
    held = {**stacked, "vision.merger.ln_q.weight": torch.ones(3)}
    with pytest.raises(ValueError, match=r"ln_q.weight has shape \(3,\), the model of its config \(2,\)"):
        runs_of_model(state_weights(held), stacked, {})


def test_a_tied_tensor_is_written_once_under_its_first_name(stacked, state_weights):
    own = {**stacked, "language_model.model.embed_tokens.weight": torch.zeros(3, 2)}
    tied = {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}
    embedding = stacked["language_model.lm_head.weight"]
    both = {**stacked, "language_model.model.embed_tokens.weight": embedding.clone()}
    once = {name: tensor for name, tensor in both.items() if "lm_head" not in name}
    for held in (both, once):
        runs = runs_of_model(state_weights(held), own, tied)
        assert "language_model.lm_head.weight" not in runs
        assert torch.equal(taken(runs["language_model.model.embed_tokens.weight"], held), embedding)


def test_tensors_that_the_config_ties_must_be_equal(stacked, state_weights):
    own = {**stacked, "language_model.model.embed_tokens.weight": torch.zeros(3, 2)}
    tied = {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}
    with pytest.raises(ValueError, match=r"ties language_model.lm_head.weight to .*differ within elements 0 to 6"):
        runs_of_model(state_weights(own), own, tied)


def test_a_tensor_without_dimensions_is_one_element():
    run = runs_in_files({"vision.scale": torch.tensor(2.0)})["vision.scale"]
    assert (run.start, run.shape, run.num_elements) == (0, (), 1)


def test_blocks_cover_every_element_once():
    sizes = list(blocks(2 * BLOCK_ELEMENTS + 5))
    assert sizes == [
        (0, BLOCK_ELEMENTS),
        (BLOCK_ELEMENTS, 2 * BLOCK_ELEMENTS),
        (2 * BLOCK_ELEMENTS, 2 * BLOCK_ELEMENTS + 5),
    ]
    assert list(blocks(0)) == []
