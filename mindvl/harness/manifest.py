"""What lmms-eval finds under its entry point: the name `mindvl`, and where the class is.

lmms-eval calls this while it is itself being imported, so nothing of ours is loaded here.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """A `ModelManifest` of lmms-eval (0.7.3 or newer), which asks for it under `lmms_eval.models`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="mindvl", chat_class_path="mindvl.harness.lmms_eval.MindVLChat")
