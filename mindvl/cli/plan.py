"""`mindvl plan`: what a run of `mindvl fit` would take of each rank, before any machine is asked for.

mindvl plan -c configs/mindvl_8b.yaml --devices 16
mindvl plan -c configs/mindvl_671b_a37b.yaml --devices 1024 --device 910b
mindvl plan -c configs/mindvl_8b.yaml --devices 8 trainer.strategy.init_args.recompute=full

Status 2 where the run does not fit, with the part that is largest and what would help.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindvl.parallel.device_types import DeviceType
    from mindvl.phases.footprint import Footprint

VISUAL_RATIO, SUPERVISED_RATIO = 0.5, 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; nothing heavy is imported."""
    parser.add_argument("-c", "--config", type=Path, required=True, help="a config of mindvl fit")
    parser.add_argument("--devices", type=int, help="ranks in all (default: trainer.devices x trainer.num_nodes)")
    parser.add_argument(
        "--device",
        default="h100",
        help="a100, h100, h200, 910b (B3), 910b2, 910c, or cpu for this machine (default: h100)",
    )
    parser.add_argument(
        "--visual-ratio",
        type=float,
        default=VISUAL_RATIO,
        help=f"share of a pack's tokens that are visual (default: {VISUAL_RATIO})",
    )
    parser.add_argument(
        "--supervised-ratio",
        type=float,
        default=SUPERVISED_RATIO,
        help=f"share of a pack's tokens that are learnt (default: {SUPERVISED_RATIO})",
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings in place of the config's")


def run(args: argparse.Namespace) -> int:
    from mindvl.parallel.device_types import GiB, device_type

    for name in ("visual_ratio", "supervised_ratio"):
        if not 0 <= getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it is a share of 0 up to below 1")
    if args.devices is not None and args.devices < 1:
        raise ValueError(f"--devices is {args.devices}; a run has at least 1 rank")
    fit = read_fit(args.config, args.settings)
    ranks = _devices(fit["trainer"], args.config) if args.devices is None else args.devices
    device = device_type(args.device, ranks=ranks)
    found, help_ = plan_of(
        fit, ranks=ranks, device=device, visual_ratio=args.visual_ratio, supervised_ratio=args.supervised_ratio
    )
    print("\n".join(report(found, device, ranks=ranks)))
    if found.total_bytes > device.usable_bytes:
        column, part, remedies = help_
        raise ValueError(
            f"{args.config} does not fit: a rank needs {found.total_bytes / GiB:.1f} GiB of the "
            f"{device.usable_bytes / GiB:.1f} GiB that a {device.name} can give; the largest entry is the {column} of "
            f"{part}, {found.columns[column][part] / GiB:.1f} GiB; what helps: {remedies}"
        )
    return 0


def read_fit(config: Path, settings: list[str]) -> Any:
    """A config of `mindvl fit` as it would be run: `model` and `data` are made, `trainer` has its settings.

    Raises ValueError for a file or a setting that `mindvl fit` would not take.
    """
    from mindvl.cli.lightning_cli import MindVLCLI
    from mindvl.cli.parser import OneLineParser, spelled_out
    from mindvl.cli.quiet import quiet_lightning
    from mindvl.data.module import PackedShards
    from mindvl.phases import Phase

    class Read(MindVLCLI):
        """Stops where a Trainer would be made."""

        def instantiate_classes(self) -> None:
            self.config_init = self.parser.instantiate_classes(self.config)

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    if not config.is_file():
        raise ValueError(f"there is no config {config}")
    wrong = [setting for setting in settings if "=" not in setting]
    if wrong:
        raise ValueError(f"{wrong[0]} is no setting; one is written KEY=VALUE, such as trainer.precision=bf16-mixed")
    quiet_lightning()
    arguments = ["fit", "--config", str(config), *(f"--{setting}" for setting in settings)]
    read = Read(
        Phase,
        PackedShards,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=False,
        parser_class=OneLineParser,
        args=spelled_out(arguments),
    )
    return read.config_init["fit"]


def _devices(trainer: Any, config: Path) -> int:
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    if str(devices).isdigit() and int(devices) > 0:
        return int(devices) * int(nodes)
    raise ValueError(f"{config}: trainer.devices is {devices}; say how many ranks there are with --devices")


def plan_of(
    fit: Any, *, ranks: int, device: DeviceType, visual_ratio: float, supervised_ratio: float
) -> tuple[Footprint, tuple[str, str, str]]:
    """The footprint of a run, and its largest entry with what would make it smaller."""
    from mindvl.device import best_precision
    from mindvl.parallel.device_types import MEASURED
    from mindvl.parallel.precision import ShardedPrecision
    from mindvl.parallel.pretend import join_pretended, pretend_world
    from mindvl.phases.footprint import advice, footprint
    from mindvl.phases.miniature import full_pack, on_meta, sizes_of

    phase, data, trainer = fit["model"], fit["data"], fit["trainer"]
    strategy = _strategy(trainer["strategy"])
    measured = device.name == MEASURED
    precision = trainer["precision"] or (best_precision() if measured else "bf16-mixed")
    strategy.precision_plugin = ShardedPrecision(precision)
    config = sizes_of(phase.spec)
    pack = full_pack(
        config,
        tokens=data.budget.tokens,
        patch_budget=data.budget.patches,
        visual_ratio=visual_ratio,
        supervised_ratio=supervised_ratio,
    )
    with pretend_world(ranks):
        join_pretended(strategy)
        model = on_meta(config, phase.trains, phase.spec)
        found = footprint(
            model, pack, strategy, packs_per_rank=trainer["accumulate_grad_batches"], on_accelerator=not measured
        )
        return found, advice(found, strategy)


def _strategy(given: Any) -> Any:
    from mindvl.parallel.strategy import MindVLStrategy

    if given == "mindvl":
        return MindVLStrategy()
    if not isinstance(given, MindVLStrategy):
        name = given if isinstance(given, str) else type(given).__name__
        raise ValueError(f"trainer.strategy is {name}; what can be planned is mindvl.parallel.MindVLStrategy")
    return given


def report(found: Footprint, device: DeviceType, *, ranks: int) -> list[str]:
    """The plan as lines: a table of GiB per rank, bytes received, and the bound."""
    from mindvl.parallel.device_types import GiB
    from mindvl.phases.activations import OWNERS

    columns = found.columns
    lines = [f"{found.num_parameters:,} parameters on {ranks} x {device.name} ({device.source})", ""]
    lines.append(f"{'GiB per rank':<18}" + "".join(f"{name:>13}" for name in columns) + f"{'total':>13}")
    for owner in (owner for owner in OWNERS if any(column[owner] for column in columns.values())):
        cells = [column[owner] / GiB for column in columns.values()]
        lines.append(f"{owner:<18}" + "".join(f"{cell:13.2f}" for cell in (*cells, sum(cells))))
    cells = [column.total() / GiB for column in columns.values()]
    lines.append(f"{'all':<18}" + "".join(f"{cell:13.2f}" for cell in (*cells, sum(cells))))
    usable, memory = device.usable_bytes / GiB, device.memory_bytes / GiB
    lines += [f"a {device.name} can give {usable:.1f} of the {memory:.1f} GiB seen there ({device.memory_source})", ""]
    return lines + _times(found, device, ranks=ranks)


def _times(found: Footprint, device: DeviceType, *, ranks: int) -> list[str]:
    """Bytes by collective and the way that they must take, and the time of each resource."""
    from mindvl.parallel.bound import crossing
    from mindvl.parallel.device_types import GiB

    lines = [f"{'GiB per rank and step':<31}{'ranks':>8}{'apart':>8}{'received':>12}{'network >=':>12}{'links >=':>12}"]
    for exchange, sent in sorted(found.sent.items()):
        kind, size, span = exchange
        moved = crossing(exchange, sent, device)
        cells = (moved.all_bytes, moved.network_bytes, moved.link_bytes)
        lines.append(f"{kind:<31}{size:>8}{span:>8}" + "".join(f"{cell / GiB:12.2f}" for cell in cells))
    times_s = found.times_s(device)
    rates = {
        "arithmetic": f"{found.model_flops:.3g} FLOPs, {found.rank_flops:.3g} on each rank with what is run twice, at "
        f"{_in_units(device.flops, 'FLOP/s')}",
        "network": f"what must come from other nodes, at {_in_units(device.network_bytes_per_s, 'B/s')}",
        "links": f"what must come over links, at {_in_units(device.link_bytes_per_s, 'B/s')}"
        + ("; the network helps" if times_s["network"] else ""),
    }
    lines += ["", "time of a step by resource, at the least:"]
    lines += [f"  {name:<12}{_duration(time_s):>10}  {rates[name]}" for name, time_s in times_s.items()]
    bound_s, binding = found.bound_s(device), max(times_s, key=lambda name: times_s[name])
    lines.append(
        f"no step of {found.tokens:,} tokens is faster than {_duration(bound_s)}, by {binding} "
        f"({found.tokens / bound_s:,.0f} tokens/s, {found.tokens / bound_s / ranks:,.0f} per device)"
    )
    return lines


def _in_units(rate: float, unit: str) -> str:
    """3.13e14, FLOP/s -> 313 TFLOP/s; of at least one giga."""
    return f"{rate / 1e12:.0f} T{unit}" if rate >= 1e12 else f"{rate / 1e9:.{0 if rate >= 1e10 else 1}f} G{unit}"


def _duration(time_s: float) -> str:
    """0.0012 -> 1.2 ms, 7.312 -> 7.312 s, 234448.9 -> 65.1 h."""
    if time_s < 100:
        return f"{time_s:.3f} s" if time_s >= 0.1 or not time_s else f"{time_s * 1e3:.3g} ms"
    return f"{time_s / 60:.1f} min" if time_s < 6000 else f"{time_s / 3600:,.1f} h"
