"""A phase starts from the weights it was told, or says which of them do not fit."""

import pytest
import torch

from mindvl.phases import Multitask, WarmUp


@pytest.fixture
def saved(make_model, tmp_path):
    model = make_model(seed=3)
    model.save_pretrained(tmp_path / "saved")
    return model, str(tmp_path / "saved")


def built(spec):
    phase = WarmUp(spec)
    phase.configure_model()
    return phase.model


def test_a_phase_starts_with_the_weights_of_the_folder(saved, make_spec):
    model, folder = saved
    ours = built(make_spec(start_from=folder))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name
    assert ours.get_input_embeddings().weight is ours.get_output_embeddings().weight and ours.training


def test_without_a_folder_two_models_of_one_seed_are_equal_and_of_two_differ(make_spec):
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(built(make_spec()).state_dict())
    name = "vision.blocks.0.attn.qkv.weight"
    assert torch.equal(models[0][name], models[1][name]) and not torch.equal(models[0][name], models[2][name])


def test_another_width_is_refused_with_the_key_and_both_shapes(saved, make_spec):
    spec = make_spec(start_from=saved[1], language={"intermediate_size": 64})
    with pytest.raises(
        ValueError, match=r"mlp\.\w+\.weight has shape \((48, 32|32, 48)\), .*model \((64, 32|32, 64)\)"
    ):
        built(spec)


def test_another_vocabulary_is_refused_with_the_key_and_both_shapes(saved, make_spec):
    spec = make_spec(start_from=saved[1], language={"vocab_size": 320})
    with pytest.raises(
        ValueError, match=r"embed_tokens.weight has shape \(272, 32\), the configured model \(320, 32\)"
    ):
        built(spec)


def test_another_depth_is_refused_with_the_missing_keys(saved, make_spec):
    spec = make_spec(start_from=saved[1], language={"num_hidden_layers": 3})
    with pytest.raises(ValueError, match=r"11 keys missing \(first: \['language_model.model.layers.2.*0 unexpected"):
        built(spec)


def test_a_saved_model_that_is_deeper_is_refused_with_the_unexpected_keys(saved, make_spec):
    spec = make_spec(start_from=saved[1], vision={"depth": 2})
    with pytest.raises(ValueError, match=r"0 keys missing .* unexpected \(first: \['vision.blocks.2"):
        built(spec)


def test_untied_embeddings_do_not_start_from_tied_ones_in_silence(saved, make_spec):
    spec = make_spec(start_from=saved[1], language={"tie_word_embeddings": False})
    with pytest.raises(ValueError, match=r"1 keys missing \(first: \['language_model.lm_head.weight'\]\)"):
        built(spec)


@pytest.mark.parametrize("content", [None, "config.json"])
def test_a_folder_that_is_no_saved_model_is_refused_by_name(content, make_spec, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    if content:
        (folder / content).write_text("{}")
    with pytest.raises(ValueError, match=r"empty (is no saved model, it has no config.json|has no safetensors file)"):
        built(make_spec(start_from=str(folder)))


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused_with_both_numbers(make_spec):
    with pytest.raises(ValueError, match="vocab_size is 200, but tokenizer bytes has 264 tokens"):
        Multitask(make_spec(language={"vocab_size": 200})).configure_model()
