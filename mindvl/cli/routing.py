"""`mindvl routing record | report | compare | ablate`: how a mixture of experts routes, from a model to a page.

mindvl routing record allenai/OLMoE-1B-7B-0125 -o traces/olmoe --texts corpus/*.jsonl --max-tokens 200000
mindvl routing report traces/olmoe -o report.html --expert-bytes 12.6e6 --link-gb-s 25
mindvl routing compare base=traces/olmoe tuned=traces/olmoe-sft -o compare.html
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindvl.cli.sub_verbs import add_sub_verb

if TYPE_CHECKING:
    from mindvl.routing.deployment import Machine
    from mindvl.routing.measure import Measured
    from mindvl.routing.sample import Routings

DEFAULT_LINK_GB_S = 25.0
"""What sixteen lanes of PCIe 4.0 carry in practice."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-verbs; nothing heavy is imported."""
    verbs = parser.add_subparsers(dest="routing_verb", required=True, metavar="VERB")
    recorded = add_sub_verb(verbs, "record", "let a model read texts or shards, and keep its choices of experts")
    recorded.add_argument("model", metavar="MODEL", help="folder or hub id of a mixture of experts, or a saved MindVL")
    recorded.add_argument("-o", "--out", type=Path, required=True, metavar="TRACE", help="folder of the trace")
    recorded.add_argument("--texts", nargs="+", default=[], metavar="FILE", help='.txt, .md or .jsonl with a "text"')
    recorded.add_argument("--shards", nargs="+", default=[], metavar="GLOB", help="tars of conversations, for a MindVL")
    recorded.add_argument(
        "--domain", action="append", default=[], metavar="NAME=PATH", help="texts or tars under a name of their own"
    )
    recorded.add_argument("--max-tokens", type=int, default=100_000, metavar="N", help="over all domains (100000)")
    recorded.add_argument("--length", type=int, default=512, metavar="N", help="tokens of a sample or a pack (512)")
    recorded.add_argument("--documents", action="store_true", help="a sample is a document, not a cut of many")
    recorded.add_argument("--batch-tokens", type=int, default=4096, metavar="N", help="tokens of a forward pass (4096)")
    recorded.add_argument("--trust-remote-code", action="store_true", help="run modelling files of the hub")
    recorded.set_defaults(run_verb=_record)

    reported = add_sub_verb(verbs, "report", "a page of figures from traces, beside the paper's 20 models")
    _add_traces(reported, default="routing.html")
    machine = reported.add_argument_group("the practitioner's table")
    machine.add_argument("--expert-bytes", type=float, metavar="B", help="of one expert (default: as recorded, 16 bit)")
    machine.add_argument(
        "--link-gb-s",
        type=float,
        default=DEFAULT_LINK_GB_S,
        metavar="GB/S",
        help="speed of the link to the experts (25)",
    )
    machine.add_argument(
        "--memory-gb", type=float, metavar="GB", help="room for experts; advises the largest that fits"
    )
    machine.add_argument("--tokens-per-s", type=float, metavar="N", help="decoding speed with all experts in memory")
    reported.set_defaults(run_verb=_report)

    compared = add_sub_verb(verbs, "compare", "two or more traces side by side, with intervals")
    _add_traces(compared, default="compare.html")
    compared.set_defaults(run_verb=_compare)

    ablated = add_sub_verb(verbs, "ablate", "train tiny mixtures that differ in one thing, and compare their routing")
    ablated.add_argument("configs", nargs="+", type=Path, metavar="CONFIG", help="configs/routing_toy/*.yaml")
    ablated.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder; finished runs are kept")
    ablated.add_argument("--steps", type=int, metavar="N", help="optimizer steps instead of the configs'")
    ablated.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each config (1)")
    ablated.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: one for each core)")
    ablated.set_defaults(run_verb=_ablate)

    models = add_sub_verb(verbs, "models", "the families that are recorded: what is read, and where experts sit")
    models.set_defaults(run_verb=_models)


def _add_traces(parser: argparse.ArgumentParser, *, default: str) -> None:
    parser.add_argument(
        "traces", nargs="+", metavar="[NAME=]TRACE", help="folder of a trace, or vLLM's or Megatron's file"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path(default), metavar="PAGE", help=f"({default})")
    parser.add_argument("--only-domain", metavar="NAME", help="measure one domain of the traces")
    parser.add_argument("--segment-lengths", type=int, nargs="+", metavar="M", help="tokens; 16 is always there")
    parser.add_argument("--partial", action="store_true", help="read a trace that was cut up to its last whole sample")
    foreign = parser.add_argument_group("foreign traces")
    foreign.add_argument("--num-experts", type=int, metavar="N", help="routed experts of a layer")
    foreign.add_argument("--moe-layers", type=int, nargs="+", metavar="L", help="vLLM: which layers are MoE (all)")
    foreign.add_argument("--micro-batch-size", type=int, default=1, metavar="N", help="Megatron-Core (1)")


def run(args: argparse.Namespace) -> int:
    return args.run_verb(args)


def _record(args: argparse.Namespace) -> int:
    from mindvl.cli.routing_record import record

    return record(args)


def _report(args: argparse.Namespace) -> int:
    from mindvl.routing.headline import headline_text
    from mindvl.routing.report import deployment_text, write_report

    measured, folders = _measure(args)
    machines = [_machine(args, folder) for folder in folders]
    page = write_report(measured, out=args.out, machines=machines, settings=_settings(args, folders))
    print(headline_text(measured))
    for trace, machine in zip(measured, machines, strict=True):
        if machine is None:
            print(
                f"\n{trace.name}: no table of cache sizes, since the bytes of an expert are not known (--expert-bytes)"
            )
        else:
            print(f"\n{trace.name}, experts of {machine.expert_bytes / 1e6:.3g} MB over {args.link_gb_s:g} GB/s:")
            print(deployment_text(trace, machine))
    print(f"\n{page}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from mindvl.routing.headline import headline_text
    from mindvl.routing.report import write_report

    if len(args.traces) < 2:
        raise ValueError(f"compare takes at least 2 traces, there is {len(args.traces)}")
    measured, folders = _measure(args)
    page = write_report(measured, out=args.out, compare=True, settings=_settings(args, folders))
    print(f"{headline_text(measured)}\n\n{page}")
    return 0


def _ablate(args: argparse.Namespace) -> int:
    from mindvl.cores import num_cores
    from mindvl.routing.ablation import ablate

    _quiet()
    jobs = num_cores() if args.jobs is None else args.jobs
    print(ablate(args.configs, args.out, steps=args.steps, seeds=args.seeds, jobs=jobs, on_start=_quiet, say=_say))
    return 0


def _models(args: argparse.Namespace) -> int:
    from mindvl.routing.families import matchers_table

    print(matchers_table())
    return 0


def _quiet() -> None:
    import logging

    from mindvl.cli.quiet import quiet_lightning, quiet_transformers

    quiet_lightning()
    quiet_transformers()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # "max_steps reached", often


def _measure(args: argparse.Namespace) -> tuple[list[Measured], list[Path]]:
    """All traces, opened before any is measured, so that a wrong path is known at once."""
    from mindvl.routing.measure import measure
    from mindvl.routing.opening import open_routing

    opened: list[tuple[str | None, Path, Routings]] = []
    for given in args.traces:
        name, path = _split(given)
        trace = open_routing(
            path,
            num_experts=args.num_experts,
            moe_layers=args.moe_layers,
            micro_batch_size=args.micro_batch_size,
            partial=args.partial,
        )
        opened.append((name, path, trace))
    names = _names(opened)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two traces are called {name!r}; name them: NAME=TRACE")
    measured = [
        measure(trace, name=name, segment_lengths=args.segment_lengths, domain=args.only_domain, say=_say)
        for name, (_, _, trace) in zip(names, opened, strict=True)
    ]
    return measured, [path for _, path, _ in opened]


def _split(given: str) -> tuple[str | None, Path]:
    """NAME=PATH, or a path alone, which may have an equals sign itself."""
    name, separator, path = given.partition("=")
    if separator and name and path and not Path(given).exists():
        return name, Path(path)
    return None, Path(given)


def _names(opened: Sequence[tuple[str | None, Path, Routings]]) -> list[str]:
    """Given names; otherwise the models', or the folders' where two traces are of one model."""
    models = [_short(trace.meta.model) for _, _, trace in opened]
    if len(set(models)) == len(models):
        return [name or model for (name, _, _), model in zip(opened, models, strict=True)]
    return [name or path.name for name, path, _ in opened]


def _short(model: str) -> str:
    """A hub id as it is; of a folder the last two names."""
    return "/".join(Path(model).parts[-2:])


def _recorded(folder: Path) -> dict[str, Any]:
    """What `mindvl routing record` wrote beside the trace; empty for other traces."""
    for file in (folder / "record.json", folder.parent / "record.json"):
        if folder.is_dir() and (folder / "meta.json").is_file() and file.is_file():
            return json.loads(file.read_text(encoding="utf-8"))
    return {}


def _machine(args: argparse.Namespace, folder: Path) -> Machine | None:
    from mindvl.routing.deployment import GIGABYTE, Machine

    parameters = _recorded(folder).get("expert_parameters")
    expert_bytes = args.expert_bytes if args.expert_bytes is not None else parameters and 2.0 * parameters
    if expert_bytes is None:
        return None
    memory_bytes = None if args.memory_gb is None else args.memory_gb * GIGABYTE
    return Machine(expert_bytes, args.link_gb_s * GIGABYTE, memory_bytes, args.tokens_per_s)


def _settings(args: argparse.Namespace, folders: Sequence[Path]) -> dict[str, str]:
    from mindvl import __version__

    settings = {"mindvl": __version__}
    for folder in folders:
        recorded = _recorded(folder)
        domains = ", ".join(recorded.get("domains", {}))
        how = f"; {recorded['model']} in {recorded['dtype']}, {recorded['samples']}: {domains}" if recorded else ""
        settings[f"trace {folder.name}"] = f"{folder}{how}"
    if args.only_domain:
        settings["domain"] = args.only_domain
    return settings


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
