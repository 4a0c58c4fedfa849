"""The processor's files: transformers makes of a conversation what training made of it."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, GenerationConfig

from mindvl.data.images import open_image
from mindvl.model.export.processor import (
    PICTURES_ALONE,
    picture_settings,
    processor_class,
    write_generation_config,
    write_processor,
)
from mindvl.phases.answering import Answerer, Prompt

REPOSITORY = Path(__file__).parents[3]
AS_BYTES = {"do_rescale": False, "do_normalize": False}


class Heard(Exception):
    """What a model was given to generate from."""


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(min_pixels=6 * 28 * 28, max_pixels=40 * 28 * 28)


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    write_processor(folder, model.config, tokenizer, processor_class("hf", videos=False))
    return folder


@pytest.fixture
def heard(model, tokenizer, monkeypatch):
    """The inputs of a batch of prompts, as the answerer hands them to the model."""

    def listen(prompts):
        def generate(**inputs):
            raise Heard(inputs)

        monkeypatch.setattr(model, "generate", generate)
        with pytest.raises(Heard) as caught:
            Answerer(model, tokenizer).answer(prompts)
        return caught.value.args[0]

    return listen


def with_pictures(prompt):
    """The messages as transformers wants them: each image part with its picture, made RGB and upright by our rules."""
    pictures = iter([open_image(data) for data in prompt.images])
    return [
        {
            **message,
            "content": [
                {**part, "image": next(pictures)} if part["type"] == "image" else part for part in message["content"]
            ],
        }
        for message in prompt.messages
    ]


def compare(processor, prompts, heard):
    inputs = heard(prompts)
    made = processor.apply_chat_template(
        [with_pictures(prompt) for prompt in prompts],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={**AS_BYTES, "padding": True, "padding_side": "left"},
    )
    assert torch.equal(made["input_ids"], inputs["input_ids"])
    assert torch.equal(made["attention_mask"], inputs["attention_mask"])
    assert ("pixel_values" in made) == ("pixel_values" in inputs)
    if "pixel_values" in made:
        assert torch.equal(made["image_grid_thw"], inputs["image_grid_thw"])
        stills = made["pixel_values"].unflatten(1, (3, 2, -1))[:, :, 0].flatten(1)  # each frame is there twice
        assert torch.equal(stills, inputs["pixel_values"].float())


def test_tokens_and_patches_are_those_that_the_answerer_hands_to_the_model(folder, heard, conversation):
    processor = AutoProcessor.from_pretrained(folder)
    asked = [
        ("which is larger?", ((28, 56), (212, 84))),
        ("no picture", ()),
        ("read it, \u8bfb", ((56, 140),)),
        ("?", ((8, 300),)),
    ]
    for number, (text, sizes) in enumerate(asked):
        messages, images = conversation(text, None, sizes, seed=number)
        compare(processor, [Prompt(messages, tuple(images))], heard)


def test_a_batch_is_padded_alike(folder, heard, conversation):
    made = [conversation(text, None, ((56, 140),), seed=3) for text in ("a longer question", "short", "s")]
    prompts = [Prompt(messages, tuple(images)) for messages, images in made]
    inputs = heard(prompts)
    padded = AutoProcessor.from_pretrained(folder).apply_chat_template(
        [with_pictures(prompt) for prompt in prompts],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    for name in ("input_ids", "attention_mask"):  # the answerer puts prompts of a batch into an order of its own
        assert sorted(padded[name].tolist()) == sorted(inputs[name].tolist())
    assert len(set(inputs["attention_mask"].sum(dim=1).tolist())) == 3


def test_several_turns_and_a_system_prompt_are_rendered_alike(folder, heard, picture):
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be short."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a line"}]},
        {"role": "user", "content": [{"type": "text", "text": "and here?"}, {"type": "image"}]},
    ]
    prompt = Prompt(messages, (picture(56, 84, seed=1), picture(84, 28, seed=2)))
    compare(AutoProcessor.from_pretrained(folder), [prompt], heard)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_of_every_mode_come_out_alike_after_our_policy(mode, folder, heard):
    values = np.random.default_rng(1).integers(0, 256, (90, 120, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values, "RGBA").convert(mode).save(buffer, "png")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "colour?"}]}]
    compare(AutoProcessor.from_pretrained(folder), [Prompt(messages, (buffer.getvalue(),))], heard)


def test_the_files_hold_the_budget_the_mean_and_the_filter_of_training(folder, model):
    config = model.config
    for settings in (
        json.loads((folder / "preprocessor_config.json").read_text()),
        AutoImageProcessor.from_pretrained(folder).to_dict(),
    ):
        assert dict(settings["size"]) == {"shortest_edge": 6 * 28 * 28, "longest_edge": 40 * 28 * 28}
        assert list(settings["image_mean"]) == config.image_mean and list(settings["image_std"]) == config.image_std
        assert (settings["resample"], settings["patch_size"], settings["merge_size"]) == (3, 14, 2)
        assert settings["temporal_patch_size"] == 2 and settings["do_convert_rgb"]
    assert picture_settings(config)["rescale_factor"] == 1 / 255


def test_the_tokenizer_is_the_one_it_was(folder, tokenizer):
    again = AutoTokenizer.from_pretrained(folder)
    assert again.get_vocab() == tokenizer.get_vocab() and again.chat_template == tokenizer.chat_template
    text = "What? <|im_end|> \u8bfb 12"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_generation_ends_where_the_models_turns_end(tmp_path, model, tokenizer):
    write_generation_config(tmp_path, model.config, tokenizer)
    settings = GenerationConfig.from_pretrained(tmp_path)
    assert settings.eos_token_id == [tokenizer.eos_token_id] and settings.pad_token_id == tokenizer.pad_token_id
    assert not settings.do_sample


def test_a_class_that_takes_videos_is_named_when_asked_for_and_always_for_vllm():
    assert processor_class("hf", videos=False) == processor_class("hf-hyperclovax", videos=False) == PICTURES_ALONE
    assert processor_class("hf", videos=True) == "Exaone4_5_Processor"
    assert processor_class("hf-hyperclovax", videos=True) == "HyperCLOVAXVisionV2Processor"
    assert processor_class("vllm", videos=False) == "HyperCLOVAXVisionV2Processor"


def test_the_classes_that_take_videos_open_where_torchvision_is(model, tokenizer, heard, tmp_path):
    packages = REPOSITORY / ".timm"
    if not (packages / "torchvision").is_dir():
        pytest.skip("no torchvision in .timm/; `make .timm/.installed` puts it there")
    for to in ("hf", "vllm"):
        (tmp_path / to).mkdir()
        write_processor(tmp_path / to, model.config, tokenizer, processor_class(to, videos=True))
        with pytest.raises(ImportError, match="Torchvision"):
            AutoProcessor.from_pretrained(tmp_path / to)
    picture = np.random.default_rng(0).integers(0, 256, (70, 130, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "read it"}]}]
    inputs = heard([Prompt(messages, (buffer.getvalue(),))])
    wanted = {
        "folders": {str(tmp_path / to): processor_class(to, videos=True) for to in ("hf", "vllm")},
        "input_ids": inputs["input_ids"][0].tolist(),
        "pixel_sum": 2 * int(inputs["pixel_values"].sum()),
        "video_pixels": [model.config.video_min_pixels, model.config.video_max_pixels],
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    }
    (tmp_path / "wanted.json").write_text(json.dumps(wanted))
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(packages), str(here.parent / "towers")]),
        "OMP_NUM_THREADS": "1",
        "WANTED_OF_PROCESSORS": str(tmp_path / "wanted.json"),
    }
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "torchvision_ops"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, str(here / "processor_checks.py")],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    passed = re.search(r"^(\d+) passed in", run.stdout, re.MULTILINE)
    assert run.returncode == 0 and passed and int(passed[1]) == 6, run.stdout[-6000:] + run.stderr[-2000:]
