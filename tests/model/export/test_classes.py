"""Configurations and names of the stock classes, checked against the classes themselves."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from mindvl.model.export.classes import (
    NO_VIDEO,
    TARGETS,
    VLLM_KEYS,
    check_tower,
    split_tensors,
    stock_config,
    stock_tensors,
)
from mindvl.model.export.tensors import Given, runs_in_files
from mindvl.model.export.verifying import loaded_name
from mindvl.model.mindvl import MindVL

KINDS = ["qwen3", "llama", "qwen3_moe", "deepseek_v3"]
WHOLE = [to for to in TARGETS if to != "split"]


def bare(config):
    with torch.device("meta"):
        return MindVL(config)


@pytest.mark.parametrize(
    ("to", "kind", "tied"),
    [("hf", kind, tied) for kind in KINDS for tied in (True, False)]
    + [(to, kind, kind == "llama") for to in WHOLE[1:] for kind in KINDS],
)
def test_every_tensor_of_the_stock_class_has_a_name_and_a_shape_of_ours(to, kind, tied, make_config, backbones):
    config = make_config(language={**backbones[kind], "tie_word_embeddings": tied})
    model = bare(config)
    written = stock_tensors(runs_in_files(model.state_dict()), config, to)
    with torch.device("meta"):
        stock = AutoModelForImageTextToText.from_config(
            stock_config(config, to, dtype=torch.float32, video_token_id=None)
        )
    wanted = {name: run.shape for name, run in runs_in_files(stock.state_dict()).items()}
    assert {loaded_name(name, to): its.shape for name, its in written.items()} == wanted
    assert stock.config.tie_word_embeddings == tied == bool(stock.all_tied_weights_keys)


@pytest.mark.parametrize("to", WHOLE)
def test_the_config_says_tokens_dtype_and_class(to, make_config):
    config = make_config()
    stock = stock_config(config, to, dtype=torch.bfloat16, video_token_id=None)
    assert (stock.image_token_id, stock.video_token_id) == (config.image_token_id, NO_VIDEO)
    assert stock.dtype == stock.text_config.dtype == stock.vision_config.dtype == torch.bfloat16
    assert stock_config(config, to, dtype=torch.bfloat16, video_token_id=7).video_token_id == 7
    architecture = {
        "hf": "Exaone4_5_ForConditionalGeneration",
        "hf-hyperclovax": "HyperCLOVAXVisionV2ForConditionalGeneration",
        "vllm": "HCXVisionV2ForCausalLM",
    }[to]
    assert stock.architectures == [architecture]


def test_hyperclovax_neither_projects_nor_scales(make_config):
    config = make_config()
    model = bare(config)
    runs = runs_in_files(model.state_dict())
    width = config.text_config.hidden_size
    for to, projector in (("hf-hyperclovax", "model.vision_projector"), ("vllm", "model.mm_projector")):
        written = stock_tensors(runs, config, to)
        assert torch.equal(written[f"{projector}.weight"].value, torch.eye(width))
        assert torch.equal(written[f"{projector}.bias"].value, torch.zeros(width))
        assert sum(isinstance(its, Given) for its in written.values()) == 2
        assert stock_config(config, to, dtype=torch.float32, video_token_id=None).text_config.logits_scaling == 1.0


def test_grouped_heads_are_as_many_as_heads(make_config):
    config = make_config()
    stock = stock_config(config, "hf", dtype=torch.float32, video_token_id=None)
    assert stock.vision_config.num_key_value_heads == stock.vision_config.num_heads == config.vision_config.num_heads


def test_vllm_finds_its_prefixes_once_model_is_taken_off(make_config):
    """As the mapper in vLLM's source does it: `model.` goes, `vision_model.` becomes `visual.`."""
    config = make_config(language={"tie_word_embeddings": False})
    names = stock_tensors(runs_in_files(bare(config).state_dict()), config, "vllm")
    parts = {name.removeprefix("model.").split(".")[0] for name in names}
    assert parts == {"vision_model", "mm_projector", "language_model"}
    language = [name.removeprefix("model.language_model.") for name in names if "language_model." in name]
    assert {name.split(".")[0] for name in language} == {"model", "lm_head"}
    assert list(VLLM_KEYS.values()) == ["model.projector"]


def test_split_tensors_have_the_names_of_their_own_classes(make_config):
    config = make_config(language={"tie_word_embeddings": False})
    model = bare(config)
    vision, language = split_tensors(runs_in_files(model.state_dict()))
    assert set(vision) == set(model.vision.state_dict())
    assert set(language) == set(model.language_model.state_dict())


def test_another_tower_is_refused_by_name_where_no_class_holds_it(make_config):
    config = make_config()
    for to in TARGETS:
        check_tower(config, to)
    config.vision_config.model_type = "qwen2_vl"
    for to in WHOLE:
        with pytest.raises(ValueError, match=r"the vision tower is qwen2_vl, but .* holds Qwen2.5-VL's alone"):
            check_tower(config, to)
    check_tower(config, "split")
