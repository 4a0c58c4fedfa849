"""`mindvl ops`: which entry of the operator table this machine uses, and why not another; and whether two agree.

mindvl ops
mindvl ops --device npu --dtype bfloat16
mindvl ops compare auto reference
mindvl ops compare packed_attention=varlen packed_attention=per_segment --model runs/multitask/model --device cuda
mindvl ops compare auto@npu reference@cpu --picture page.png
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindvl.model.compare import Comparison, Difference

DTYPES = ("float32", "bfloat16", "float16")
TOLERANCES = {"32-true": 1e-4, "bf16-mixed": 0.2}
"""Relative differences that are rounding. bf16 has three digits, and a token sent to another expert shows as 0.1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; nothing heavy is imported."""
    parser.add_argument("--device", help="device type that the table is shown for (default: what is here)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the tensors (default: what pays on the device)")
    verbs = parser.add_subparsers(dest="verb", metavar="compare")
    compare = verbs.add_parser("compare", help="forward and backward of one pack under two backends, layer by layer")
    backend = "auto, reference, or operator=entry,... with @device behind it where it differs"
    compare.add_argument("first", metavar="A", help=backend)
    compare.add_argument("second", metavar="B", help="what A is measured against; written alike")
    compare.add_argument(
        "--model",
        type=Path,
        help="folder of a saved model, or a config of mindvl fit (default: a tiny model with experts)",
    )
    compare.add_argument("--picture", type=Path, help="a picture file for the pack (default: noise of three sizes)")
    compare.add_argument("--device", default=argparse.SUPPRESS, help="where both run (default: what is here)")
    compare.add_argument("--precision", choices=TOLERANCES, default="32-true")
    compare.add_argument("--tolerance", type=float, help="largest relative difference (default: 1e-4, in bf16 0.2)")
    compare.add_argument("--seed", type=int, default=0, help="of the random weights, words and pixels")


def run(args: argparse.Namespace) -> int:
    return _compare(args) if args.verb == "compare" else _show(args)


def _show(args: argparse.Namespace) -> int:
    import torch

    from mindvl.device import KINDS, device_name, device_of, has_fast_bf16
    from mindvl.ops.table import TABLE, entry_for, reasons

    here = device_of("auto")
    device = device_of(args.device or "auto")
    if device not in (*KINDS, here):
        known = ", ".join(dict.fromkeys((*KINDS, here)))
        raise ValueError(f"--device is {args.device}; operators have entries for {known}")
    dtype = getattr(torch, args.dtype or ("bfloat16" if device == here and has_fast_bf16(device) else "float32"))
    print(f"{device_name(device) if device == here else device}, {str(dtype).removeprefix('torch.')}\n")
    for operator in TABLE:
        chosen = entry_for(operator, device, dtype)
        print(f"{operator:<18}{chosen.name}")
        others = [(entry.name, why) for entry, why in reasons(operator, device, dtype) if entry != chosen]
        for name, why in others:
            if why is not None:
                print(f"    not {name:<20}{why}")
        print(f"    also there: {', '.join(name for name, why in others if why is None) or 'none'}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from mindvl.cli.quiet import quiet_transformers

    quiet_transformers()
    import torch

    from mindvl.cli.ops_inputs import example_pack, model_to_compare, split_backend
    from mindvl.model.compare import compare_backends

    if args.tolerance is not None and not args.tolerance >= 0:
        raise ValueError(f"--tolerance is {args.tolerance:g}; a relative difference is 0 or more")
    first, second = (split_backend(text, args.device or "auto") for text in (args.first, args.second))
    model = model_to_compare(args.model, seed=args.seed)
    pack = example_pack(model.config, picture=args.picture, seed=args.seed)
    models = {device: copy.deepcopy(model).to(device) for device in {first[1], second[1]}}
    comparison = compare_backends(
        (models[first[1]], models[second[1]]),
        (pack.to(first[1]), pack.to(second[1])),
        (first[0], second[0]),
        autocast=torch.bfloat16 if args.precision == "bf16-mixed" else None,
    )
    tolerance = TOLERANCES[args.precision] if args.tolerance is None else args.tolerance
    print("\n".join(report(comparison, tolerance, names=(args.first, args.second))))
    return 1 if comparison.first_forward(tolerance) or comparison.first_backward(tolerance) else 0


def report(comparison: Comparison, tolerance: float, *, names: tuple[str, str]) -> list[str]:
    """The table of differences and what it comes to, as lines."""
    width = max(len(layer.layer) for layer in comparison.layers)
    lines = [f"{'layer':<{width}}  {'output':<17}  {'its gradient':<17}  parameters' gradients"]
    for layer in comparison.layers:
        cells = [_cell(each, tolerance) for each in (layer.output, layer.output_gradient, layer.parameters)]
        lines.append(f"{layer.layer:<{width}}  {cells[0]:<17}  {cells[1]:<17}  {cells[2]}".rstrip())
    lines += ["", "relative difference and cosine of A against B; * beyond the tolerance of " + f"{tolerance:g}"]
    lines += [f"loss {comparison.losses[0]:.7g} ({names[0]}), {comparison.losses[1]:.7g} ({names[1]})"]
    for what, found in (
        ("forward", comparison.first_forward(tolerance)),
        ("backward", comparison.first_backward(tolerance)),
    ):
        lines.append(f"{what}: " + ("all layers agree" if found is None else f"{found.layer} is the first to differ"))
    return lines


def _cell(difference: Difference | None, tolerance: float) -> str:
    if difference is None:
        return "-"
    mark = "*" if difference.relative > tolerance else " "
    return f"{difference.relative:.1e}{mark} {difference.cosine:.5f}"
