"""Every tensor of a source finds its place, or the source is refused with the first few that do not fit."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mindvl.model.building import build
from mindvl.model.mindvl import MindVL
from mindvl.model.weights.accounting import WeightSource
from mindvl.model.weights.assembly import Part, assembled_config
from mindvl.model.weights.fill import fill


@pytest.fixture
def config_of(tokenizer):
    """Configuration of a MindVL of two sources."""

    def make(vision, language):
        return assembled_config(Part.of("vision", vision), Part.of("language", language), tokenizer)

    return make


@pytest.fixture
def source(make_language, tmp_path):
    """A copy of an untied Qwen3 in one file, and a function that rewrites its tensors."""
    folder = shutil.copytree(make_language("qwen3-untied"), tmp_path / "source")
    path = folder / "model.safetensors"

    def change(**changes):
        state = {**load_file(path), **{key.replace("__", "."): value for key, value in changes.items()}}
        save_file({key: value for key, value in state.items() if value is not None}, path, metadata={"format": "pt"})

    return folder, change


def built(config, *sources):
    return build(config, [WeightSource(str(folder), role) for folder, role in sources])


def test_the_names_that_come_back_are_those_that_were_filled(make_language, make_vision, config_of):
    language, vision = make_language("qwen3-tied"), make_vision()
    model = MindVL(config_of(str(vision), str(language)))
    state = model.state_dict()
    by_part = {
        role: set(fill(model, [WeightSource(str(folder), role)]))
        for role, folder in (("vision", vision), ("language", language))
    }
    assert by_part["vision"] | by_part["language"] == state.keys() and not by_part["vision"] & by_part["language"]
    assert "language_model.lm_head.weight" in by_part["language"]  # tied: filled under both its names


@pytest.mark.parametrize("layout", ["visual.", "model.visual.", ""], ids=["published", "newer", "bare"])
def test_a_tower_is_taken_from_each_layout(layout, make_vision, make_language, config_of, tensors_of, tmp_path):
    vision = make_vision()
    tower = {key.removeprefix("visual."): it for key, it in tensors_of(vision).items() if key.startswith("visual.")}
    rest = {"lm_head.weight": torch.ones(2, 2)} if layout else {}
    save_file({**{layout + key: it for key, it in tower.items()}, **rest}, tmp_path / "model.safetensors")
    config = json.loads((vision / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config if layout else config["vision_config"]))
    model = built(config_of(str(tmp_path), str(make_language("llama"))), (tmp_path, "vision"))
    for key, tensor in tower.items():
        assert torch.equal(model.state_dict()[f"vision.{key}"], tensor), key


def test_a_saved_mindvl_gives_its_tower_and_its_language_model(make_vision, make_language, config_of, tmp_path):
    model = MindVL.from_pretrained(vision=str(make_vision()), language=str(make_language("qwen3_moe")))
    model.save_pretrained(tmp_path)
    config = config_of(str(tmp_path), str(tmp_path))
    for role, prefix in (("vision", "vision."), ("language", "language_model.")):
        state = built(config, (tmp_path, role)).state_dict()
        for name in (name for name in state if name.startswith(prefix)):
            assert torch.equal(state[name], model.state_dict()[name]), name


def test_the_projector_starts_random_where_the_widths_differ_and_says_so(make_vision, make_language, config_of, caplog):
    vision, language = make_vision(out_hidden_size=64), make_language("llama")
    models = []
    for _ in range(2):
        torch.manual_seed(5)
        models.append(built(config_of(str(vision), str(language)), (vision, "vision")))
    assert "projector starts random: source 64, language model 48" in caplog.text
    state = load_file(vision / "model.safetensors")
    for name, tensor in models[0].vision.state_dict().items():
        same = torch.equal(tensor, models[1].vision.state_dict()[name])
        assert same, name
        if not name.startswith("merger."):
            assert torch.equal(tensor, state[f"visual.{name}"]), name
    assert models[0].vision.merger.mlp[2].weight.shape[0] == 48


def test_values_are_cast_to_the_dtype_of_the_model(make_language, make_vision, config_of, tensors_of):
    language = make_language("qwen3-tied", dtype=torch.bfloat16)
    model = built(config_of(str(make_vision()), str(language)), (language, "language"))
    weight = model.language_model.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, tensors_of(language)["model.layers.0.mlp.up_proj.weight"].float())


def test_a_model_without_memory_is_refused_if_there_is_something_to_fill_it_with(make_language, make_vision, config_of):
    vision = str(make_vision())
    with torch.device("meta"):
        model = MindVL(config_of(vision, str(make_language("llama"))))
    assert fill(model, []) == []
    with pytest.raises(ValueError, match=r"tensors are on the meta device .*call to_empty\(\) first"):
        fill(model, [WeightSource(vision, "vision")])


def test_missing_unexpected_and_other_shapes_are_one_error_with_counts_and_the_first_few(
    source, make_vision, config_of
):
    folder, change = source
    config = config_of(str(make_vision()), str(folder))
    layer = "model__layers__{}__mlp__{}_proj__weight"
    change(
        **{layer.format(1, "up"): None, layer.format(0, "down"): torch.ones(48, 41), "model__norm__weight": None},
        model__extra=torch.ones(2),
        model__embed_tokens__weight=torch.ones(271, 48),
    )
    with pytest.raises(ValueError) as caught:
        built(config, (folder, "language"))
    message = str(caught.value)
    first = ["language_model.model.layers.1.mlp.up_proj.weight", "language_model.model.norm.weight"]
    assert f"2 keys missing (first: {first})" in message
    assert "1 unexpected (first: ['language_model.model.extra'])" in message
    assert "2 of another shape or type" in message
    assert "model.layers.0.mlp.down_proj.weight has shape (48, 41), the configured model (48, 40)" in message
    assert "model.embed_tokens.weight has shape (271, 48), the configured model (272, 48)" in message


def test_nothing_is_copied_when_a_later_source_does_not_fit(source, make_vision, config_of):
    folder, change = source
    vision = make_vision()
    model = MindVL(config_of(str(vision), str(folder)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(model__extra=torch.ones(2))
    with pytest.raises(ValueError, match="1 unexpected"):
        fill(model, [WeightSource(str(vision), "vision"), WeightSource(str(folder), "language")])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_numbers_of_another_kind_are_refused(source, make_vision, config_of):
    folder, change = source
    change(model__norm__weight=torch.ones(48, dtype=torch.int8))
    with pytest.raises(ValueError, match=r"model.norm.weight is torch.int8, the configured model's is torch.float32"):
        built(config_of(str(make_vision()), str(folder)), (folder, "language"))


def test_a_missing_expert_is_named(make_language, make_vision, config_of, tmp_path):
    folder = shutil.copytree(make_language("qwen3_moe"), tmp_path / "source")
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.experts.2.up_proj.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"1 keys missing \(first: \['language_model.model.layers.1.mlp.experts.2.up_proj"
    ):
        built(config_of(str(make_vision()), str(folder)), (folder, "language"))


def test_stacked_experts_are_read_as_they_are(make_language, make_vision, config_of, tmp_path):
    folder = shutil.copytree(make_language("qwen3_moe"), tmp_path / "source")
    config = config_of(str(make_vision()), str(folder))
    model = built(config, (folder, "language"))
    prefix = "language_model."
    state = {name.removeprefix(prefix): it for name, it in model.state_dict().items() if name.startswith(prefix)}
    save_file(state, folder / "model.safetensors")
    again = built(config, (folder, "language")).state_dict()
    for name, tensor in state.items():
        assert torch.equal(again[prefix + name], tensor), name


def test_layers_that_predict_further_tokens_are_left_out_and_that_is_said(
    make_language, make_vision, config_of, tmp_path, caplog
):
    folder = shutil.copytree(make_language("deepseek_v3"), tmp_path / "source")
    state = load_file(folder / "model.safetensors")
    save_file({**state, "model.layers.2.eh_proj.weight": torch.ones(4, 4)}, folder / "model.safetensors")
    config = config_of(str(make_vision()), str(folder))
    with pytest.raises(ValueError, match=r"1 unexpected \(first: \['language_model.model.layers.2.eh_proj.weight'\]"):
        built(config, (folder, "language"))
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "num_nextn_predict_layers": 1}))
    built(config, (folder, "language"))
    assert "left out 1 tensors of no use here (language_model.model.layers.2.eh_proj.weight" in caplog.text


def test_a_tied_model_takes_two_equal_tensors_and_refuses_different_ones(
    make_language, make_vision, config_of, tmp_path
):
    folder = shutil.copytree(make_language("qwen3-tied"), tmp_path / "source")
    state, config = load_file(folder / "model.safetensors"), config_of(str(make_vision()), str(folder))
    embedding = state["model.embed_tokens.weight"]
    save_file({**state, "lm_head.weight": embedding.clone()}, folder / "model.safetensors")
    assert torch.equal(built(config, (folder, "language")).get_output_embeddings().weight, embedding)
    save_file({**state, "lm_head.weight": embedding + 1}, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"embed_tokens.weight and .*lm_head.weight differ|lm_head.weight and model.embed"
    ):
        built(config, (folder, "language"))


def test_an_untied_model_does_not_start_from_a_tied_one(make_language, make_vision, config_of):
    folder = make_language("qwen3-tied")
    config = config_of(str(make_vision()), {"pretrained": str(folder), "tie_word_embeddings": False})
    with pytest.raises(ValueError, match=r"1 keys missing \(first: \['language_model.lm_head.weight'\]\)"):
        built(config, (folder, "language"))


@pytest.mark.parametrize("family", ["qwen3-tied", "qwen3-untied"])
def test_rows_that_a_vocabulary_grows_by_are_the_mean_of_its_rows(
    family, make_language, make_vision, config_of, tensors_of
):
    folder = make_language(family, vocab_size=263, dtype=torch.bfloat16)  # 265 tokens: two do not fit
    config = config_of(str(make_vision()), str(folder))
    assert config.text_config.vocab_size == 272
    model, state = built(config, (folder, "language")), tensors_of(folder)
    embedding = state["model.embed_tokens.weight"]
    ends = {"embedding": (model.get_input_embeddings(), embedding)}
    ends["head"] = (model.get_output_embeddings(), state.get("lm_head.weight", embedding))
    for name, (module, source) in ends.items():
        assert torch.equal(module.weight[:263], source.float()), name
        mean = source.double().mean(dim=0).float()
        torch.testing.assert_close(module.weight[263:], mean.expand(9, -1), rtol=1e-6, atol=1e-7)


def test_a_vocabulary_that_its_own_config_denies_does_not_grow(source, make_vision, config_of):
    folder, change = source
    config = config_of(str(make_vision()), str(folder))
    change(model__embed_tokens__weight=torch.ones(260, 48))
    with pytest.raises(
        ValueError, match=r"embed_tokens.weight has shape \(260, 48\), the configured model \(272, 48\)"
    ):
        built(config, (folder, "language"))
