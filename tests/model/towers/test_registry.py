"""Which tower a config names, and what is refused."""

import pytest
from transformers import AutoConfig
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

from mindvl.model.config import MindVLConfig
from mindvl.model.towers import KNOWN, tower_kind

LANGUAGE = {"model_type": "qwen3", "hidden_size": 32, "vocab_size": 64}


def config_with(vision):
    return MindVLConfig(vision, LANGUAGE, image_token_id=1)


def test_a_model_sees_with_qwen2_5_vl_unless_told_otherwise():
    assert config_with({}).vision_config.model_type == "qwen2_5_vl_vision"


@pytest.mark.parametrize("name", KNOWN)
def test_a_tower_is_found_by_its_name_and_by_the_one_that_its_config_saves(name):
    kind = tower_kind(name)
    assert tower_kind(kind.config.model_type) is kind


def test_an_unknown_tower_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match="model_type is siglip; the known vision towers are qwen2_5_vl, qwen2_vl, qwen"
    ):
        config_with({"model_type": "siglip"})


def test_a_config_object_of_an_unknown_tower_is_refused_too():
    with pytest.raises(ValueError, match="model_type is clip_vision_model; the known"):
        config_with(AutoConfig.for_model("clip_vision_model"))


def test_deep_stack_is_refused_with_the_blocks_it_names():
    with pytest.raises(ValueError, match=r"deepstack_visual_indexes is \[8, 16, 24\], but a MindVL's language model"):
        config_with({"model_type": "qwen3_vl"})
    assert config_with({"model_type": "qwen3_vl", "deepstack_visual_indexes": []}).pixel_factor == 32


def test_the_projector_takes_the_language_models_width_under_the_towers_own_name_for_it():
    assert config_with({"model_type": "qwen2_vl"}).vision_config.hidden_size == 32
    with pytest.raises(ValueError, match=r"width is 48 \(vision.hidden_size\).*width is 32 \(language.hidden_size\)"):
        config_with(Qwen2VLVisionConfig(hidden_size=48))


def test_a_tower_without_windows_has_one_larger_than_any_picture():
    assert config_with({"model_type": "qwen2_vl"}).window_tokens > 1_000_000


@pytest.mark.parametrize("name", KNOWN)
def test_a_config_comes_back_from_its_folder_as_it_was(name, tmp_path):
    empty = {"deepstack_visual_indexes": []} if name == "qwen3_vl" else {}
    config = config_with({"model_type": name, **empty})
    config.save_pretrained(tmp_path)
    back = AutoConfig.from_pretrained(tmp_path)
    assert type(back.vision_config) is type(config.vision_config)
    assert back.vision_config.to_dict() == config.vision_config.to_dict()
