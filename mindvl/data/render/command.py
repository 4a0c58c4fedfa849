"""`mindvl data render OUT`: pictures with exact ground truth, as WebDataset shards.

Without a config every family is drawn in free layouts, which shows what the renderer can do; with one, the config says
what is drawn. The options below replace what the config says.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from mindvl.yaml_file import read_yaml

SPLIT_SHARES = {"validation": 50, "test": 20}  # one validation sample for each 50 of training, one test for each 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments; imports nothing heavy, so that `--help` answers at once."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the shards and render.json")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file, see configs/quickstart/data.yaml")
    parser.add_argument("--seed", type=int, metavar="N", help="another seed draws other documents of the same kind")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    parser.add_argument("--overwrite", action="store_true", help="replace shards that another config has drawn")
    parser.add_argument("--samples", type=int, metavar="N", help="training samples of each source (default 100)")
    parser.add_argument("--families", metavar="A,B", help="only these families, separated by commas")
    parser.add_argument("--preview", type=int, metavar="N", help="also write OUT/preview.png with N samples")


def run(args: argparse.Namespace) -> int:
    """Renders; human errors leave as `ValueError`."""
    from mindvl.data.render.config import check_config
    from mindvl.data.render.writer import render

    config = build_config(args)
    for name in ("workers", "preview"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be at least 1")
    summary = render(config, args.out, workers=args.workers, overwrite=args.overwrite)
    if args.preview:
        from mindvl.data.render.preview import contact_sheet

        contact_sheet(check_config(config), args.preview).save(args.out / "preview.png")
    print(f"{summary['samples']} samples in {len(summary['shards'])} shards under {args.out}", file=sys.stderr)
    return 0


def build_config(args: argparse.Namespace) -> dict[str, Any]:
    """The config from the file or the built-in one, after `--seed`, `--families` and `--samples`."""
    from mindvl.data.render.families import FAMILIES

    config = read_yaml(args.config) if args.config else default_config()
    sources = config.get("sources")
    if args.families and isinstance(sources, dict):
        asked = [name.strip() for name in args.families.split(",") if name.strip()]
        if unknown := [name for name in asked if name not in FAMILIES]:
            raise ValueError(f"unknown family {unknown[0]!r}; known families are {', '.join(FAMILIES)}")
        kept = {n: s for n, s in sources.items() if isinstance(s, dict) and s.get("family") in asked}
        if not kept:
            raise ValueError(f"the config has no source of the families {', '.join(asked)}")
        config["sources"] = kept
    if args.samples is not None:
        if args.samples < 1:
            raise ValueError(f"--samples is {args.samples}; it must be at least 1")
        for source in filter(lambda s: isinstance(s, dict), config["sources"].values()):
            shares = {split: -(-args.samples // share) for split, share in SPLIT_SHARES.items()}
            if args.config:  # a config that leaves a split empty means it
                shares = {split: count for split, count in shares.items() if source.get(split)}
            source.update(train=args.samples, **shares)
    if args.seed is not None:
        config["seed"] = args.seed
    return config


def default_config() -> dict[str, Any]:
    """Every family in free layouts, over photographs now and then where scikit-image has brought some."""
    from mindvl.data.render.families import FAMILIES
    from mindvl.data.render.paper import photo_paths

    sources = {name: {"family": name, "train": 100, "validation": 2, "test": 5} for name in FAMILIES}
    # Written into the config and so into render.json: what was drawn can be told apart later.
    photo_ratio = 0.25 if photo_paths() else 0.0
    return {"cell_pixels": 0, "image_format": "jpg", "photo_ratio": photo_ratio, "sources": sources}
