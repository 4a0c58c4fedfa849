"""Hardware has names in one file only, so that a new accelerator is one file's work."""

import ast
import re
from pathlib import Path

import pytest

MAY_NAME_HARDWARE = {
    "mindvl/device.py",
    "mindvl/ops/backends/cuda.py",
    "mindvl/ops/backends/liger.py",
    "mindvl/ops/backends/npu.py",
    "mindvl/parallel/npu.py",
    "mindvl/parallel/npu_strategy.py",
    "mindvl/parallel/npu_trainer.py",
}
"""See design.md, "The house"."""

_DEVICE = re.compile(r"(cuda|npu)(:\d*)?")


def device_words(path: Path) -> list[tuple[int, str]]:
    """(line, word) of device strings ("cuda", "npu:0"), of `torch.cuda`, `tensor.npu()`, `.is_cuda`, and of imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _DEVICE.fullmatch(node.value):
            found.append((node.lineno, repr(node.value)))
        elif isinstance(node, ast.Attribute) and node.attr in ("cuda", "npu", "is_cuda", "is_npu"):
            found.append((node.lineno, f".{node.attr}"))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            words = {word for name in names for word in name.split(".")} & {"cuda", "npu", "torch_npu"}
            found += [(node.lineno, f"import {word}") for word in sorted(words)]
    return found


def test_only_the_device_file_names_hardware(repository):
    found = [
        f"{path.relative_to(repository)}:{line} says {word}"
        for folder in ("mindvl", "callbacks")
        for path in sorted((repository / folder).rglob("*.py"))
        if path.relative_to(repository).as_posix() not in MAY_NAME_HARDWARE
        for line, word in device_words(path)
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        'x.to("cuda")',
        'x.to(f"npu:{rank}")',
        "torch.cuda.synchronize()",
        "x.npu()",
        "import torch_npu",
        "from torch import cuda",
    ],
)
def test_a_planted_device_word_is_found(source, tmp_path):
    (tmp_path / "a.py").write_text(f"\n{source}\n")
    ((line, _),) = device_words(tmp_path / "a.py")
    assert line == 2


def test_prose_that_mentions_hardware_is_no_device_word(tmp_path):
    (tmp_path / "a.py").write_text('"""Runs on cuda and npu."""\ninput_ids = inputs = "cuda devices"\n')
    assert device_words(tmp_path / "a.py") == []
