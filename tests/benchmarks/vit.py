"""The vision tower beside transformers' own without flash attention: width 640, a picture of 1,120 x 1,120 pixels.

Four blocks, one of which looks at the whole picture; 6,400 patches, 100 windows; fp32, forward and backward. Both hold
the same weights and are run in turns; the best time of each counts, since other programs only ever add to it.
"""

from __future__ import annotations

import torch
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from mindvl.batch import ImageGrid
from mindvl.device import keep_freed_memory
from mindvl.model.config import CLIP_MEAN, CLIP_STD
from mindvl.model.operators import replace_operators
from mindvl.model.towers import build_tower
from mindvl.model.vision import vision_inputs
from mindvl.ops.table import using
from tests.benchmarks.clock import best_times_s
from tests.benchmarks.rows import Row

ROWS = ("vit_vs_transformers_ratio",)
ROUNDS, PATCHES_A_SIDE = 4, 80
SIZES = {
    "depth": 4,
    "hidden_size": 640,
    "num_heads": 8,
    "intermediate_size": 1710,
    "fullatt_block_indexes": [3],
    "out_hidden_size": 1024,
    "window_size": 112,
}


def measure() -> list[Row]:
    keep_freed_memory()
    torch.manual_seed(0)
    ours = build_tower(Qwen2_5_VLVisionConfig(**SIZES), image_mean=CLIP_MEAN, image_std=CLIP_STD)
    replace_operators(ours)
    config = Qwen2_5_VLVisionConfig(**SIZES)
    stock = Qwen2_5_VisionTransformerPretrainedModel._from_config(config, attn_implementation="sdpa")
    stock.load_state_dict(ours.state_dict())

    grid = ImageGrid(1, PATCHES_A_SIDE, PATCHES_A_SIDE)
    pixels = torch.randint(0, 256, (grid.patches, 3 * 14 * 14), dtype=torch.uint8)
    inputs = vision_inputs(pixels, [grid], merge=2, window_tokens=SIZES["window_size"] // 28)
    mean, std = (torch.tensor(values).view(1, 3, 1) for values in (CLIP_MEAN, CLIP_STD))
    normalised = (pixels.view(grid.patches, 3, -1) / 255 - mean) / std
    both_frames = normalised.view(-1, 3, 1, 14, 14).expand(-1, -1, 2, -1, -1).flatten(1)
    thw = torch.tensor([[1, PATCHES_A_SIDE, PATCHES_A_SIDE]])

    def step(tower: torch.nn.Module, features) -> None:
        tower.zero_grad()
        features().sum().backward()

    def ours_in_mkl() -> None:
        with using({"linear": "torch"}):
            step(ours, lambda: ours(inputs))

    with torch.no_grad():
        difference = (ours(inputs) - stock(both_frames, thw).pooler_output).abs().max().item()
    if difference > 1e-4:
        raise ValueError(f"the towers do not agree: features differ by {difference:.1e}")
    times_s = best_times_s(
        {
            "ours": lambda: step(ours, lambda: ours(inputs)),
            "ours in MKL": ours_in_mkl,
            "stock": lambda: step(stock, lambda: stock(both_frames, thw).pooler_output),
        },
        rounds=ROUNDS,
    )
    with_mkl = times_s["stock"] / times_s["ours in MKL"]
    against = (
        f"transformers' SDPA tower, {times_s['stock']:.2f} s a step; {with_mkl:.2f} with PyTorch's own linear layers"
    )
    return [Row("vit_vs_transformers_ratio", times_s["stock"] / times_s["ours"], "ratio", against)]
