"""A small shard written member by member, so that a test can say exactly what is wrong with it."""

from __future__ import annotations
import __future__

import ast
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers


@pytest.fixture
def shard(tmp_path, picture, record, write_tar) -> str:
    """Three good samples, the second with two pictures."""
    members = [
        ("one.json", record("first")),
        ("two.json", record("second", images=2)),
        ("two.0.png", picture(28, 56)),
        ("two.1.jpg", picture(84, 28, format="JPEG")),
        ("three.json", record("third", images=1)),
        ("three.png", picture(30, 40)),
    ]
    return write_tar(tmp_path / "shard.tar", members)


@pytest.fixture(scope="session")
def stock():
    """Transformers' video processor of Qwen2-VL: its arithmetic, which its module hides behind torchvision.

    `resize` is told that whatever it decides is done: it returns the size.
    """
    source = Path(transformers.__file__).parent / "models" / "qwen2_vl" / "video_processing_qwen2_vl.py"
    wanted = ("smart_resize", "Qwen2VLVideoProcessor")
    body = [node for node in ast.parse(source.read_text()).body if getattr(node, "name", None) in wanted]
    for node in body:
        node.decorator_list = []
        if isinstance(node, ast.ClassDef):
            methods = ("sample_frames", "resize", "patchify")
            node.body = [item for item in node.body if getattr(item, "name", None) in methods]
    tree = ast.fix_missing_locations(ast.Module(body, type_ignores=[]))

    class Base:
        num_frames, fps, temporal_patch_size, min_frames, max_frames = None, 2.0, 2, 4, 768
        max_video_tokens = 128000

        def resize(self, image, size, resample):
            return size.height, size.width

    names = {"math": math, "torch": torch, "BaseVideoProcessor": Base, "SizeDict": SimpleNamespace}
    exec(compile(tree, str(source), "exec", flags=__future__.annotations.compiler_flag), names)
    return names["Qwen2VLVideoProcessor"]()
