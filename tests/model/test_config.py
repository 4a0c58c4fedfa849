import pytest
from transformers import AutoConfig

from mindvl.model.config import MindVLConfig


def test_a_projector_of_another_width_than_the_language_model_is_refused_with_both_numbers(make_config):
    with pytest.raises(ValueError, match=r"width is 48 \(vision.out_hidden_size\).*width is 32 \(language.hidden_size"):
        make_config(vision={"out_hidden_size": 48})


def test_an_image_token_outside_the_vocabulary_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="image_token_id is 300, but the language model embeds 300 tokens"):
        MindVLConfig(text_config={"model_type": "qwen3", "vocab_size": 300}, image_token_id=300)


def test_the_projector_takes_the_language_models_width_when_none_is_given(make_config):
    assert make_config(language={"hidden_size": 64}).vision_config.out_hidden_size == 64


def test_a_config_comes_back_from_its_folder_as_it_was(make_config, tmp_path):
    config = make_config(language={"model_type": "llama"})
    config.save_pretrained(tmp_path)
    back = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(back, MindVLConfig) and back.text_config.model_type == "llama"
    ours, theirs = back.to_dict(), config.to_dict()
    for saved in (ours, theirs):
        saved.pop("_name_or_path", None)
    assert ours == theirs


def test_the_window_is_counted_in_visual_tokens(make_config):
    assert make_config().window_tokens == 2 and make_config(vision={"window_size": 112}).window_tokens == 4
