"""A configuration of two parts from elsewhere: what is taken from each, and what does not go together."""

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mindvl.data.tokenizer import byte_tokenizer
from mindvl.model.mindvl import MindVL
from mindvl.model.weights.assembly import Part, assembled_config, check_token_ids


@pytest.fixture
def config_of(tokenizer, make_vision, make_language):
    """Configuration of two origins; small ones by default."""

    def make(vision=None, language=None, tokenizer=tokenizer, **fields):
        vision = str(make_vision()) if vision is None else vision
        language = str(make_language("llama")) if language is None else language
        return assembled_config(Part.of("vision", vision), Part.of("language", language), tokenizer, **fields)

    return make


def rewritten(folder, target, **fields):
    """A copy of a model's folder whose config.json says something else."""
    copy = shutil.copytree(folder, target)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **fields}))
    return str(copy)


def test_sizes_and_special_tokens_are_those_of_the_origins(config_of, tokenizer):
    config = config_of()
    assert config.text_config.model_type == "llama" and config.text_config.hidden_size == 48
    assert (config.text_config.vocab_size, config.text_config.eos_token_id) == (272, 257)
    assert (config.vision_config.depth, config.vision_config.window_size) == (2, 56)
    named = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
    ids = [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id, config.video_token_id]
    assert ids == tokenizer.convert_tokens_to_ids(list(named))


def test_fields_beside_an_origin_replace_its_own(config_of, make_language, make_vision):
    config = config_of(
        {"pretrained": str(make_vision()), "window_size": 112},
        {"pretrained": str(make_language("llama")), "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    )
    assert config.vision_config.window_size == 112 and config.text_config.rope_parameters["rope_theta"] == 7.0


def test_the_projector_takes_the_language_models_width(config_of, make_vision):
    assert config_of(str(make_vision(out_hidden_size=64))).vision_config.out_hidden_size == 48


def test_a_tower_brings_the_mean_it_was_trained_with(config_of, make_vision, tmp_path):
    folder = shutil.copytree(make_vision(), tmp_path / "tower")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    config = config_of(str(folder))
    assert (config.image_mean, config.image_std) == ([0.5] * 3, [0.25] * 3)
    assert config_of(str(folder), image_mean=[0.1] * 3).image_mean == [0.1] * 3


def test_random_parts_take_the_tokenizers_vocabulary(config_of, tokenizer):
    config = config_of("random", {"model_type": "llama", "hidden_size": 32})
    assert config.text_config.vocab_size == 272 and config.text_config.eos_token_id == tokenizer.eos_token_id
    assert config.vision_config.depth == 32


def test_unused_rows_of_a_vocabulary_are_kept(config_of, make_language):
    assert config_of(language=str(make_language("llama", vocab_size=300))).text_config.vocab_size == 300


def test_a_tokenizer_of_another_vocabulary_is_refused_with_both_numbers(config_of, make_language):
    language = str(make_language("llama", vocab_size=260))
    with pytest.raises(ValueError, match=r"tokenizer bytes has 265 tokens, .* embeds 260: they do not belong together"):
        config_of(language=language)


def test_a_vocabulary_cut_by_hand_is_refused_with_all_numbers(config_of, make_language):
    language = {"pretrained": str(make_language("llama")), "vocab_size": 270}
    with pytest.raises(ValueError, match=r"vocab_size is 270, but tokenizer bytes has 265 tokens and .* embeds 272"):
        config_of(language=language)


def test_a_model_that_is_no_causal_language_model_is_refused_by_its_kind(config_of, make_vision):
    with pytest.raises(ValueError, match="is a qwen2_5_vl, which transformers has no causal language model for"):
        config_of(language=str(make_vision()))


def test_code_that_a_folder_brings_is_never_run(config_of, make_language, tmp_path):
    marker = tmp_path / "ran"
    auto_map = {"AutoConfig": "configuration.Config", "AutoModelForCausalLM": "modeling.Model"}
    folder = rewritten(make_language("llama"), tmp_path / "own", model_type="mine", auto_map=auto_map)
    (tmp_path / "own" / "configuration.py").write_text(f"open({str(marker)!r}, 'w')")
    message = (
        r"own: transformers knows no model_type 'mine', and it brings code of its own \(auto_map\), which is never"
    )
    with pytest.raises(ValueError, match=message):
        config_of(language=folder)
    known = rewritten(make_language("llama"), tmp_path / "known", auto_map=auto_map)
    shutil.copy(tmp_path / "own" / "configuration.py", known)
    assert type(config_of(language=known).text_config).__name__ == "LlamaConfig" and not marker.exists()


def test_a_tokenizer_under_which_placeholders_move_is_refused_with_both_numbers(config_of):
    config, other = config_of(), byte_tokenizer(["word"])
    check_token_ids(config, byte_tokenizer())
    with pytest.raises(
        ValueError, match=r"the model's image_token_id is 262, but tokenizer bytes has <\|image_pad\|> as 264"
    ):
        check_token_ids(config, other)


def test_an_assembled_model_is_in_the_dtype_of_its_language_model(make_language, make_vision):
    origins = {"vision": str(make_vision()), "language": str(make_language("llama", dtype=torch.bfloat16))}
    model = MindVL.from_pretrained(**origins)
    assert not model.training and {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert MindVL.from_pretrained(**origins, dtype=torch.float32, max_pixels=784).config.max_pixels == 784
    assert all(buffer.dtype == torch.float32 for name, buffer in model.named_buffers() if "inv_freq" in name)


def test_a_tokenizer_without_vision_tokens_is_refused_with_what_adds_them():
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(
        ValueError, match=r"has no token <\|image_pad\|>, which marks a picture's place; .*load_tokenizer adds it"
    ):
        assembled_config(Part.of("vision", "random"), Part.of("language", "random"), bare)


@pytest.mark.parametrize(
    "given", [{"vision": "random"}, {"language": "x"}, {"folder": "x", "vision": "a", "language": "b"}]
)
def test_half_an_assembly_is_refused(given):
    with pytest.raises(ValueError, match=r"either a folder, or both vision=\.\.\. and language"):
        MindVL.from_pretrained(**given)
