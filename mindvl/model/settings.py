"""What `MindVL.from_pretrained` may be told beside where its weights are, checked before a file is opened.

dtype="bfloat16", torch_dtype=torch.bfloat16, dtype="auto"     one of these; "auto", or nothing, is as saved
max_pixels=784                                                 a field of the configuration, said anew
revision="v2", local_files_only=True                           of a hub id, as the hub's own client knows them
attn_implementation="sdpa", foo=3                              refused: it would change nothing, without a word
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

DOWNLOAD = ("revision", "cache_dir", "local_files_only", "token", "force_download")


def dtype_of(*said: str | torch.dtype | None) -> torch.dtype | None:
    """The first that says anything, as torch's; None for "auto" and for nothing. ValueError when it is no float."""
    word = next((each for each in said if each is not None), "auto")
    if word == "auto":
        return None
    found = getattr(torch, word.removeprefix("torch."), None) if isinstance(word, str) else word
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {word}; known are auto, float32, bfloat16, float16 and torch's other floats")
    return found


def known_only(settings: dict[str, Any], known: Collection[str], what: str) -> dict[str, Any]:
    """Settings that say anything. ValueError for names that nobody reads, with those that somebody does."""
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise ValueError(
            f"from_pretrained knows no {', '.join(unknown)} for {what}; beside dtype it knows {', '.join(known)}"
        )
    return {name: value for name, value in settings.items() if value is not None}


def without_autos(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings less those that transformers' Auto classes add, and a `trust_remote_code` that asks for nothing.

    An Auto class has decided by itself whether a folder's code is run. ValueError for adapters, which it would put on
    top by the way.
    """
    by_auto = "adapter_kwargs" in settings
    kept = {name: value for name, value in settings.items() if name not in ("_from_auto", "adapter_kwargs")}
    adapter = (settings.get("adapter_kwargs") or {}).get("_adapter_model_path")
    if adapter is not None:
        raise ValueError(
            f"{adapter} holds adapters: open the model, then peft.PeftModel.from_pretrained(model, folder)"
        )
    if by_auto or not kept.get("trust_remote_code"):
        kept.pop("trust_remote_code", None)
    return kept
