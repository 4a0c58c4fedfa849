"""A pytest plugin that lets torchvision be imported beside a torch that it was not built for.

The one wheel for Linux on x86-64 is built for CUDA. Beside a CPU torch its compiled operators cannot load, and its
import fails where it describes two of them. Declaring these two, empty, is enough for all that timm needs. Where the
operators do load, nothing is declared: a second declaration would abort the process.
"""

from pathlib import Path

import torch

_DECLARED = []  # a library is taken back when nobody holds it


def declare_missing_operators(torchvision: Path) -> bool:
    """Whether the operators in torchvision's folder could not load and were declared instead."""
    try:
        for library in torchvision.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
        return True
    return False


def pytest_configure(config):
    declare_missing_operators(config.rootpath / ".timm" / "torchvision")
    # torchvision's own, about the image files that it cannot read without its operators
    config.addinivalue_line("filterwarnings", "ignore:Failed to load image Python extension")
