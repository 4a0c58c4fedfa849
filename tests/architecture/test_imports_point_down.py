"""Imports point down, never between the rooms of layer 3, and the two packages meet only at the door.

Every import statement counts, also inside functions and under TYPE_CHECKING, and `importlib.import_module("...")`.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = {
    **dict.fromkeys(("cli", "harness", "recipe"), 5),
    "phases": 4,
    **dict.fromkeys(("model", "data", "parallel", "routing", "eval"), 3),
    "ops": 2,
    **dict.fromkeys(("batch", "cores", "device", "vision_tokens", "yaml_file"), 1),
    "__init__": 0,
}
CALLBACKS_MAY_IMPORT = {"torch", "lightning", "torchmetrics", *sys.stdlib_module_names}
MAY_USE_CALLBACKS = {"cli", "recipe"}


def imports_of(path: Path, package: str) -> Iterator[tuple[int, int, str]]:
    """(line, level, dotted name) of all imports in a file of `package`; names of `from a import b` come as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from ((node.lineno, node.level, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            yield from ((node.lineno, 0, word.value) for word in node.args[:1] if isinstance(word, ast.Constant))


def violations(root: Path) -> list[str]:
    """Every forbidden import under root/mindvl and root/callbacks, as "file:line imports name: why"."""
    found = []
    for folder, package, why_not in (
        ("mindvl", "mindvl", _why_mindvl_may_not),
        ("callbacks", "mindvl_callbacks", _why_callbacks_may_not),
    ):
        for path in sorted((root / folder).rglob("*.py")):
            inside = path.relative_to(root / folder)
            here = ".".join((package, *inside.parent.parts))
            room = inside.parts[0].removesuffix(".py")
            for line, level, name in imports_of(path, here):
                why = why_not(room, level, name)
                if why:
                    found.append(f"{path.relative_to(root)}:{line} imports {name}: {why}")
    return found


def _why_mindvl_may_not(room: str, level: int, name: str) -> str | None:
    if room not in LAYERS:
        return f"mindvl.{room} has no layer; give it one in design.md and here"
    package, _, rest = name.partition(".")
    if package == "callbacks":
        return "the package is called mindvl_callbacks"
    if package == "mindvl_callbacks" and room not in MAY_USE_CALLBACKS:
        return f"only {' and '.join(sorted(MAY_USE_CALLBACKS))} may use mindvl_callbacks"
    if package != "mindvl":
        return None
    target = rest.partition(".")[0]
    target = target if target in LAYERS else "__init__"
    if LAYERS[target] > LAYERS[room]:
        return f"points up, from layer {LAYERS[room]} to layer {LAYERS[target]}"
    if LAYERS[target] == LAYERS[room] == 3 and target != room:
        return f"there is no door between {room} and {target}, two rooms of layer 3"
    return None


def _why_callbacks_may_not(module: str, level: int, name: str) -> str | None:
    package = name.partition(".")[0]
    if level == 1 or package in CALLBACKS_MAY_IMPORT:
        return None
    if package in ("mindvl_callbacks", "callbacks"):
        return "inside callbacks/ imports are relative and the folder is flat"
    return "callbacks import torch, lightning, torchmetrics and nothing else"


def test_imports_point_down(repository):
    found = violations(repository)
    assert not found, "\n" + "\n".join(found)


def test_nobody_imports_the_callbacks_folder_by_its_bare_name(repository):
    found = [
        f"{path.relative_to(repository)}:{line} imports {name}"
        for folder in ("mindvl", "callbacks", "notebooks", "tests")
        for path in sorted((repository / folder).rglob("*.py"))
        for line, level, name in imports_of(path, folder)
        if level == 0 and name.partition(".")[0] == "callbacks"
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("mindvl/ops/a.py", "import mindvl.batch\nimport mindvl.model.parts", "mindvl/ops/a.py:2 imports mindvl.model"),
        ("mindvl/batch.py", "def f():\n    from mindvl import ops", "mindvl/batch.py:2 imports mindvl.ops: points up"),
        ("mindvl/data/a.py", "from ..model import parts", "no door between data and model"),
        ("mindvl/data/deep/a.py", "from ...phases import base", "from layer 3 to layer 4"),
        ("mindvl/eval/a.py", "if TYPE_CHECKING:\n    from mindvl.data import b", "mindvl/eval/a.py:2"),
        ("mindvl/model/a.py", 'importlib.import_module("mindvl.cli.main")', "from layer 3 to layer 5"),
        ("mindvl/__init__.py", "from mindvl.batch import PackedBatch", "from layer 0 to layer 1"),
        ("mindvl/phases/a.py", "import mindvl_callbacks", "only cli and recipe may use mindvl_callbacks"),
        ("mindvl/cli/a.py", "import callbacks", "the package is called mindvl_callbacks"),
        ("mindvl/shed/a.py", "import os", "mindvl.shed has no layer"),
        ("callbacks/a.py", "from mindvl.batch import PackedBatch", "callbacks/a.py:1 imports mindvl.batch.PackedBatch"),
        ("callbacks/a.py", "import transformers", "torch, lightning, torchmetrics and nothing else"),
        ("callbacks/a.py", "from mindvl_callbacks.b import c", "imports are relative"),
        ("callbacks/a.py", "from ..mindvl import batch", "nothing else"),
    ],
)
def test_a_planted_violation_is_named(file, source, complaint, tmp_path):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(source)
    (found,) = violations(tmp_path)
    assert complaint in found


def test_imports_that_are_allowed_pass(tmp_path):
    for file, source in {
        "mindvl/cli/a.py": "import mindvl.recipe.b\nfrom mindvl_callbacks import c\nfrom mindvl import __version__",
        "mindvl/phases/a.py": "from mindvl.model import b\nfrom mindvl.data import c\nfrom .base import Phase",
        "mindvl/data/render/a.py": "from ..sample import b\nfrom mindvl.ops.loss import c\nimport mindvl.device",
        "mindvl/ops/a.py": "from ..batch import ImageGrid\nfrom . import b\nimport torch, numpy",
        "callbacks/a.py": "from .b import c\nfrom . import d\nimport json, torch.nn\nimport lightning as L",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(source)
    assert violations(tmp_path) == []
