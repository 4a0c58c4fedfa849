"""A phase with adapters starts from saved weights, trains adapters alone, and leaves a model that needs no peft."""

import pytest
import torch
from safetensors.torch import load_file

from mindvl.model.lora import Lora, has_adapters
from mindvl.model.mindvl import MindVL
from mindvl.model.parts import is_adapter, part_of, plain_name
from mindvl.phases import Multitask, WarmUp
from mindvl.phases.answering import Answerer, Prompt
from mindvl.phases.model_spec import build_model, config_of
from mindvl.phases.saving import save_model
from mindvl.phases.schedule import parameter_groups

pytest.importorskip("peft")

LORA = Lora(rank=4, alpha=16, targets=["q_proj", "v_proj", "down_proj"])


@pytest.fixture
def start(make_model, make_spec, tokenizer, tmp_path):
    """A model as a phase builds it: the weights of a saved one, and adapters."""

    def build(*, family=None, lora=LORA, mixtures=None):
        language = (mixtures or {}).get(family, {})
        saved = make_model(seed=3, language=language)
        saved.save_pretrained(tmp_path / "saved")
        spec = make_spec(language=language, start_from=str(tmp_path / "saved"), lora=lora)
        return saved, build_model(spec, config_of(spec, tokenizer)).eval()

    return build


@torch.no_grad()
def loss(model, batch):
    return model(packed=batch).loss.item()


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "deepseek_v3"])
def test_a_phase_starts_with_the_saved_weights_and_saves_them_merged(family, start, mixtures, samples, pack, tmp_path):
    lora = Lora(rank=4, alpha=16, targets=["o_proj"])
    saved, model = start(family=family, mixtures=mixtures, lora=lora)
    batch = pack(*samples)
    assert loss(model, batch) == loss(saved, batch)
    for name, tensor in model.state_dict().items():
        assert is_adapter(name) or torch.equal(tensor, saved.state_dict()[plain_name(name)]), name
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    save_model(model, "bytes", tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "model", "model-adapter"}
    assert {path.name for path in (tmp_path / "model-adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    files = [load_file(tmp_path / folder / "model.safetensors") for folder in ("saved", "model")]
    assert files[0].keys() == files[1].keys()
    changed = {name for name, tensor in files[1].items() if not torch.equal(tensor, files[0][name])}
    assert len(changed) == 2 and all(name.endswith("o_proj.weight") for name in changed)
    merged = MindVL.from_pretrained(tmp_path / "model").eval()
    assert not has_adapters(merged)
    assert loss(merged, batch) == pytest.approx(loss(model, batch), rel=1e-6)
    assert loss(merged, batch) != pytest.approx(loss(saved, batch), rel=1e-3)


def test_saving_twice_replaces_both_folders(start, tmp_path):
    _, model = start()
    for _ in range(2):
        save_model(model, "bytes", tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "model", "model-adapter"}


def test_a_model_without_adapters_leaves_no_folder_for_them(make_model, tmp_path):
    save_model(make_model(), "bytes", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("kind", "expected"), [(Multitask, {"vision", "projector", "language"}), (WarmUp, {"projector"})]
)
def test_the_phase_says_what_trains_and_adapters_how(kind, expected, make_spec, fit_packs, samples, pack):
    phase = kind(make_spec(lora=LORA))
    record = fit_packs(phase, [pack(*samples)], max_steps=2, accumulate=1)
    assert len(record.losses) == 2 and record.losses[1] != record.losses[0]
    assert {part_of(name) for name in record.gradients} == expected
    assert all(is_adapter(name) for name in record.gradients if part_of(name) == "language")
    groups = {group["name"] for group in parameter_groups(phase.model, phase.rates)}
    assert {name.removesuffix("_no_decay") for name in groups} == expected
    assert "language_no_decay" not in groups  # matrices alone


def test_base_weights_do_not_move_and_adapters_do(start, make_spec, fit_packs, samples, pack, tmp_path):
    saved, _ = start()
    phase = Multitask(make_spec(start_from=str(tmp_path / "saved"), lora=LORA))
    fit_packs(phase, [pack(*samples)], max_steps=3, accumulate=1)
    for name, tensor in phase.model.state_dict().items():
        if name.startswith("language_model.") and not is_adapter(name):
            assert torch.equal(tensor, saved.state_dict()[plain_name(name)]), name
        if ".lora_B." in name:
            assert tensor.any(), name


def test_two_models_of_one_seed_have_equal_adapters_and_of_two_have_not(make_spec, tokenizer):
    spec = make_spec(lora=LORA)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = build_model(spec, config_of(spec, tokenizer))
        drawn.append({name: tensor for name, tensor in model.state_dict().items() if ".lora_A." in name})
    assert all(torch.equal(tensor, drawn[1][name]) for name, tensor in drawn[0].items())
    assert not any(torch.equal(tensor, drawn[2][name]) for name, tensor in drawn[0].items())


def test_adapters_do_not_change_what_the_rest_of_a_fresh_model_is_drawn_as(make_spec, tokenizer):
    states = []
    for lora in (None, LORA):
        spec = make_spec(lora=lora)
        torch.manual_seed(0)
        states.append(build_model(spec, config_of(spec, tokenizer)).state_dict())
    plain, adapted = states
    names = {plain_name(name): name for name in adapted if not is_adapter(name)}
    assert names.keys() == plain.keys()
    assert all(torch.equal(tensor, adapted[names[name]]) for name, tensor in plain.items())


def test_a_checkpoint_of_another_alpha_is_refused_with_both(make_spec):
    before, after = Multitask(make_spec(lora=LORA)), Multitask(make_spec(lora=Lora(**{**vars(LORA), "alpha": 8.0})))
    checkpoint: dict = {}
    before.on_save_checkpoint(checkpoint)
    with pytest.raises(
        ValueError, match=r"trained with model\.lora Lora\(.*alpha=16.*the config has Lora\(.*alpha=8\.0"
    ):
        after.on_load_checkpoint(checkpoint)


def test_a_tied_head_is_refused_while_the_model_has_no_memory_yet(make_spec, tokenizer):
    spec = make_spec(lora=Lora(targets=["lm_head"]))
    with pytest.raises(
        ValueError, match=r"includes language_model\.lm_head, whose weight is the token embedding's too"
    ):
        build_model(spec, config_of(spec, tokenizer))


def test_answers_with_adapters_are_those_of_the_merged_model(start, tokenizer, conversation, tmp_path):
    saved, model = start()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.5)
    save_model(model, "bytes", tmp_path / "model")
    messages, images = conversation("which?", None, ((28, 56), (56, 84)))
    prompt = Prompt(messages, tuple(images))
    models = (model, MindVL.from_pretrained(tmp_path / "model").eval(), saved)
    adapted, merged, base = (Answerer(each, tokenizer).answer([prompt])[0].text for each in models)
    assert adapted == merged != base
