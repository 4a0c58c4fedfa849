"""`mindvl average A B C -o OUT`: one saved model whose weights are the mean of several.

mindvl average runs/sft-1k/model runs/sft-2k/model runs/sft-4k/model -o runs/mean
mindvl average A B C -o OUT --weights 1 1 2
mindvl average A B C -o OUT --greedy --score 'python score.py {model}'
mindvl average runs/sft/checkpoints/step-1000.ckpt runs/sft/checkpoints/step-2000.ckpt -o OUT
mindvl average elsewhere/1.ckpt elsewhere/2.ckpt -o OUT --prefix model. --files-from runs/sft/model

A checkpoint of Lightning has no config and calls each tensor `model.<its name>`. In a run that has saved its model both
are known, and the average is a model like it; elsewhere they are asked for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindvl import __version__

_TIED = "lm_head.weight"
"""What a checkpoint may hold beside the tensors of a saved model, which leaves out one that is the embedding again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; nothing heavy is imported."""
    parser.add_argument(
        "models",
        nargs="+",
        type=Path,
        metavar="MODEL",
        help="folders of saved models, Lightning's .ckpt files or sharded directories; of one run or of several",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder of the average")
    parser.add_argument("--weights", type=float, nargs="+", help="one number per model (default: all equal)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a saved model")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the average; needed when the models' dtypes differ (default: that of the models)",
    )
    parser.add_argument(
        "--prefix",
        default="",
        help="average only keys that begin with it and take it off: 'model.' (default: as in its run's model)",
    )
    parser.add_argument(
        "--files-from",
        type=Path,
        metavar="FOLDER",
        help="where config and tokenizer come from (default: the first MODEL that is a folder, or its run's model)",
    )
    parser.add_argument(
        "--greedy", action="store_true", help="greedy soup: add models by falling score while the score does not fall"
    )
    parser.add_argument(
        "--score",
        metavar="COMMAND",
        help="prints a model's score as its last line; {model} stands for the folder; run without a shell",
    )
    parser.add_argument("--lower-is-better", action="store_true", help="the score is a loss")


def run(args: argparse.Namespace) -> int:
    if args.greedy != (args.score is not None):
        raise ValueError("a greedy soup needs both --greedy and --score COMMAND")
    if args.greedy and args.weights:
        raise ValueError("a greedy soup has equal weights; leave out --weights or --greedy")
    if args.lower_is_better and not args.greedy:
        raise ValueError("--lower-is-better says how --greedy reads --score")
    options = {
        "overwrite": args.overwrite,
        "dtype": args.dtype,
        "prefix": args.prefix,
        "files_from": args.files_from,
    }
    if not args.prefix and args.files_from is None and (found := saved_by_run(args.models)) is not None:
        options["prefix"], options["files_from"] = found
    if args.greedy:
        record = _greedy(args, options)
        kept = len(record["sources"])
        print(f"the greedy soup of {kept} of {len(args.models)} models, score {record['score']:g}, is in {args.out}")
    else:
        record = average_models(args.models, args.out, weights=args.weights, **options)
        print(f"the mean of {len(args.models)} models is in {args.out}")
    if lack := what_lacks(args.models, args.out, record):
        print(f"mindvl average: {args.out} {lack}", file=sys.stderr)
    return 0


def saved_by_run(models: Sequence[Path]) -> tuple[str, Path] | None:
    """(prefix, folder) of the model that the run of the first checkpoint has saved, if its tensors are the same.

    None where a MODEL brings a config itself, and where no such folder lies beside the checkpoint or one above:

        runs/sft/checkpoints/step-200.ckpt      model.vision.merger.mlp.0.weight ...
        runs/sft/model/                         vision.merger.mlp.0.weight ..., config.json, a tokenizer
    """
    from mindvl_callbacks.averaging_opening import open_checkpoint

    if any(_is_saved(model) for model in models):
        return None
    for folder in [above / "model" for above in models[0].absolute().parents[:2] if _is_saved(above / "model")]:
        for prefix in ("model.", ""):
            try:
                saved, held = open_checkpoint(folder), open_checkpoint(models[0], prefix=prefix)
            except ValueError:  # not of this kind, or damaged, which the average itself will say
                continue
            shapes = {name: facts.shape for name, facts in held.tensors.items()}
            shapes |= {second: shapes[first] for second, first in held.tied.items()}
            same = all(shapes.get(name) == facts.shape for name, facts in saved.tensors.items())
            if same and all(name.endswith(_TIED) for name in shapes.keys() - saved.tensors.keys()):
                return prefix, folder
    return None


def what_lacks(models: Sequence[Path], out: Path, record: dict[str, Any]) -> str:
    """What keeps an average from being opened as a model, and which options would help; "" where nothing does."""
    wanted, reasons = [], []
    first_parts = {name.partition(".")[0] for name in record["crc32"]}
    if not any(_is_saved(model) for model in models) and len(first_parts) == 1 and len(record["crc32"]) > 1:
        prefix = f"{first_parts.pop()}."
        reasons.append(f"has only keys that begin with {prefix!r}")
        wanted.append(f"--prefix {prefix}")
    if not _is_saved(out):
        reasons.append("has no config and no tokenizer")
        wanted.append("--files-from FOLDER, a saved model's")
    return f"{' and '.join(reasons)}; to open it as a model, average with {' '.join(wanted)}" if wanted else ""


def _is_saved(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def average_models(
    models: Sequence[Path],
    out: Path,
    *,
    weights: Sequence[float] | None = None,
    overwrite: bool = True,
    dtype: str | None = None,
    prefix: str = "",
    files_from: Path | None = None,
) -> dict[str, Any]:
    """Average saved models' weights into a folder of the same form; returns `averaging.json`, what went in.

    Config and tokenizer are the first model's. The folder appears whole or not at all. An earlier average is
    replaced, as a stage of a recipe that was interrupted wants it; the verb asks for --overwrite first.
    """
    from mindvl_callbacks import average_checkpoints

    return average_checkpoints(
        models,
        out,
        weights=weights,
        overwrite=overwrite,
        dtype=_dtype(dtype),
        prefix=prefix,
        files_from=files_from,
        notes=_notes(models),
    )


def _greedy(args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    from mindvl_callbacks import command_score, greedy_soup

    options["dtype"] = _dtype(args.dtype)
    return greedy_soup(
        args.models,
        args.out,
        score=command_score(args.score),
        lower_is_better=args.lower_is_better,
        notes=_notes(args.models),
        **options,
    )


def _dtype(name: str | None) -> Any:
    import torch

    return None if name is None else getattr(torch, name)


def _notes(models: Sequence[Path]) -> dict[str, Any]:
    """The record's entries that only MindVL knows: its version, and the length and steps of the runs' configs."""
    runs = {str(model): facts for model in models if (facts := _run_facts(model))}
    return {"mindvl": __version__, **({"runs": runs} if runs else {})}


def _run_facts(model: Path) -> dict[str, Any]:
    """Sequence length and steps of the run whose folder holds the model, from the config that lies beside it."""
    import yaml

    for name in ("fit.yaml", "csv/config.yaml", "config.yaml"):
        file = model.parent / name
        if not file.is_file():
            continue
        try:
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError:
            continue
        if not isinstance(config, dict):
            continue
        data, trainer = config.get("data"), config.get("trainer")
        init = data.get("init_args") if isinstance(data, dict) else None
        facts = {
            "sequence_length": init.get("sequence_length") if isinstance(init, dict) else None,
            "max_steps": trainer.get("max_steps") if isinstance(trainer, dict) else None,
        }
        return {key: value for key, value in facts.items() if value is not None}
    return {}
