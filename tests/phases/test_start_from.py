"""A phase starts from the weights it was told, or says which of them do not fit."""

import shutil

import pytest
import torch

from mindvl.model.mindvl import MindVL
from mindvl.phases import ModelSpec, Multitask, WarmUp


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


def test_the_folder_alone_is_a_whole_spec(make_model, tmp_path):
    """Also what no shape tells: windows, rotary base, pixels, normalisation."""
    from mindvl.data.tokenizer import byte_tokenizer

    theta = {"rope_type": "default", "rope_theta": 5.0}
    model = make_model(vision={"window_size": 56}, language={"rope_parameters": theta}, max_pixels=15_680)
    model.config.image_mean = [0.5, 0.4, 0.3]
    model.save_pretrained(tmp_path / "saved")
    byte_tokenizer().save_pretrained(tmp_path / "saved")
    spec = ModelSpec(start_from=str(tmp_path / "saved"))
    assert spec.tokenizer == spec.start_from
    config = built(spec).config
    said = built(ModelSpec(start_from=spec.start_from, max_pixels=7_840, vision={"window_size": 112})).config
    for ours, window, max_pixels in ((config, 56, 15_680), (said, 112, 7_840)):
        assert (ours.vision_config.window_size, ours.max_pixels) == (window, max_pixels)
        assert ours.text_config.rope_parameters["rope_theta"] == 5.0 and ours.image_mean == [0.5, 0.4, 0.3]
    aside = {"dtype": None, "architectures": None}
    assert config.to_dict() | aside == model.config.to_dict() | aside


def test_a_part_of_another_kind_is_refused_with_both_names(saved, make_spec):
    spec = ModelSpec(start_from=saved[1], language={"model_type": "llama"})
    with pytest.raises(ValueError, match=r"model.language is a llama, but that of model.start_from is a qwen3"):
        built(spec)


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
    with pytest.raises(ValueError, match=r"0 keys missing, 12 unexpected \(first: \['vision.blocks.2"):
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
    with pytest.raises(ValueError, match="vocab_size is 200, but tokenizer bytes has 265 tokens"):
        Multitask(make_spec(language={"vocab_size": 200})).configure_model()


def test_placeholders_that_have_moved_are_refused_with_both_numbers(saved, make_spec, tmp_path):
    from mindvl.data.tokenizer import byte_tokenizer

    byte_tokenizer(["read"]).save_pretrained(tmp_path / "words")
    spec = make_spec(start_from=saved[1], tokenizer=str(tmp_path / "words"))
    with pytest.raises(ValueError, match="its image_token_id is 262, but the tokenizer given here has it as 264"):
        built(spec)


@pytest.fixture
def origins(make_language, make_vision):
    return {"vision": str(make_vision()), "language": str(make_language("qwen3-tied"))}


def test_a_phase_starts_from_a_tower_and_a_language_model_and_takes_the_latters_tokenizer(origins):
    phase = WarmUp(ModelSpec(**origins))
    phase.configure_model()
    assert phase.tokenizer_name == origins["language"]
    expected = MindVL.from_pretrained(**origins).state_dict()
    for name, tensor in phase.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert {name for name, p in phase.model.named_parameters() if p.requires_grad} == {
        name for name in expected if name.startswith("vision.merger.")
    }


def test_fields_beside_an_origin_are_overridden_and_the_weights_still_come(origins):
    language = {"pretrained": origins["language"], "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}
    model = built(ModelSpec(vision=origins["vision"], language=language))
    assert model.config.text_config.rope_parameters["rope_theta"] == 5.0
    expected = MindVL.from_pretrained(**origins)
    assert torch.equal(model.get_input_embeddings().weight, expected.get_input_embeddings().weight)


def test_without_an_origin_the_tokenizer_reads_bytes():
    assert ModelSpec().tokenizer == ModelSpec(language="random").tokenizer == "bytes"
    assert ModelSpec(language="a/b").tokenizer == ModelSpec(language={"pretrained": "a/b"}).tokenizer == "a/b"
    assert ModelSpec(language="a/b", tokenizer="c/d").tokenizer == "c/d"


def test_a_tokenizer_of_another_language_model_is_refused(origins, tmp_path):
    from mindvl.data.tokenizer import byte_tokenizer

    byte_tokenizer(["read"]).save_pretrained(tmp_path / "words")
    with pytest.raises(ValueError, match="has 267 tokens, the language model's own 265, and 9 of these are others"):
        built(ModelSpec(**origins, tokenizer=str(tmp_path / "words")))


def test_a_longer_tokenizer_may_be_given_and_the_vocabulary_grows_for_it(origins, tmp_path):
    from mindvl.data.tokenizer import byte_tokenizer

    longer = byte_tokenizer()
    longer.add_tokens([f"<{number}>" for number in range(8)])  # 273 tokens, for 272 rows
    longer.save_pretrained(tmp_path / "longer")
    model = built(ModelSpec(**origins, tokenizer=str(tmp_path / "longer")))
    rows = model.get_input_embeddings().weight
    assert rows.shape[0] == 288
    torch.testing.assert_close(rows[272:], rows[:272].mean(dim=0).expand(16, -1), rtol=1e-5, atol=1e-6)


def test_a_pickle_comes_in_with_the_flag_alone(origins, tmp_path):
    from safetensors.torch import load_file

    folder = shutil.copytree(origins["language"], tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds pickled weights only"):
        built(ModelSpec(vision=origins["vision"], language=str(folder)))
    language = {"pretrained": str(folder), "allow_pickle_which_can_run_code": True}
    model = built(ModelSpec(vision=origins["vision"], language=language))
    expected = MindVL.from_pretrained(**origins)
    assert torch.equal(model.get_output_embeddings().weight, expected.get_output_embeddings().weight)
