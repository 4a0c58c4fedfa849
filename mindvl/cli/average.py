"""`mindvl average A B C -o OUT`: one saved model whose weights are the mean of several."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; nothing heavy is imported."""
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="folders of saved models")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder of the average")
    parser.add_argument("--weights", type=float, nargs="+", help="one number per model (default: all equal)")


def run(args: argparse.Namespace) -> int:
    average_models(args.models, args.out, weights=args.weights)
    print(f"the mean of {len(args.models)} models is in {args.out}")
    return 0


def average_models(models: Sequence[Path], out: Path, *, weights: Sequence[float] | None = None) -> None:
    """Average saved models' weights into a folder of the same form, with `averaging.json` saying what went in.

    Config and tokenizer are the first model's. The folder appears whole or not at all.
    """
    from mindvl_callbacks.checkpoint_averaging import average_state_dicts
    from safetensors.torch import load_file, save_file

    if out.exists() and not (out / "config.json").is_file():
        raise ValueError(f"{out} exists and is no saved model; it would be lost, choose another folder")
    files = {}
    for model in models:
        found = sorted(model.glob("*.safetensors"))
        if not found:
            raise ValueError(f"{model} is no saved model: it has no safetensors file")
        files[str(model)] = found

    def load(name: str) -> dict:
        return {key: tensor for file in files[name] for key, tensor in load_file(file).items()}

    state = average_state_dicts([str(model) for model in models], load, weights=weights)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    ignored = shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json", "averaging.json")
    shutil.copytree(models[0], temporary, ignore=ignored)
    save_file(state, temporary / "model.safetensors", metadata={"format": "pt"})
    record = {"models": [str(model) for model in models], "weights": list(weights) if weights else "equal"}
    (temporary / "averaging.json").write_text(json.dumps(record, indent=1) + "\n")
    if out.exists():
        shutil.rmtree(out)
    temporary.rename(out)
