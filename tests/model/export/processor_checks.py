"""What a folder's processor makes where torchvision is installed; run by test_processor.py in a process of its own."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

WANTED = json.loads(Path(os.environ["WANTED_OF_PROCESSORS"]).read_text())


@pytest.fixture(params=WANTED["folders"], ids=["exaone", "hyperclovax"], scope="module")
def folder(request):
    return request.param


@pytest.fixture(scope="module")
def processor(folder):
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor


def test_the_class_of_the_folder_opens_with_its_own_video_processor(folder, processor):
    assert type(processor).__name__ == WANTED["folders"][folder]
    videos = processor.video_processor
    assert (videos.size["shortest_edge"], videos.size["longest_edge"]) == tuple(WANTED["video_pixels"])
    assert videos.cap_pixels_per_frame and videos.patch_size == 14 and videos.merge_size == 2


def test_pictures_become_the_same_tokens_and_patches(processor):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 130, 3), np.uint8))
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "read it"}]
    made = processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"do_rescale": False, "do_normalize": False},
    )
    assert made["input_ids"].tolist() == [WANTED["input_ids"]]
    assert int(made["pixel_values"].sum()) == WANTED["pixel_sum"]


def test_a_video_of_four_frames_takes_the_placeholders_of_two_temporal_patches(processor):
    frames = torch.zeros(4, 3, 56, 84, dtype=torch.uint8)
    made = processor(text=["<|vision_start|><|video_pad|><|vision_end|>"], videos=[frames], return_tensors="pt")
    frames, height, width = made["video_grid_thw"][0].tolist()
    assert frames == 2
    placeholders = int((made["input_ids"] == WANTED["video_token_id"]).sum())
    assert placeholders == frames * height * width // 4
