"""`mindvl recipe FILE`: run a chain of phases; run it again and it goes on where it stopped."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; nothing heavy is imported."""
    parser.add_argument("recipe", type=Path, metavar="FILE", help="YAML file, see configs/quickstart/recipe.yaml")
    parser.add_argument("--out", metavar="DIR", help="another folder than the recipe's `out`")
    parser.add_argument("--variant", metavar="NAME", help="with the changes that the file lists under `variants`")


def run(args: argparse.Namespace) -> int:
    import json
    from dataclasses import replace

    from mindvl.recipe.loading import load_recipe

    recipe = load_recipe(args.recipe, variant=args.variant)
    if args.out:
        recipe = replace(recipe, out=args.out)
    from mindvl.cli.quiet import quiet_lightning, quiet_transformers
    from mindvl.recipe.stages import prepare, run_stage

    Path(recipe.out).mkdir(parents=True, exist_ok=True)
    quiet_lightning()
    data_s = prepare(recipe)
    quiet_transformers()
    for number, stage in enumerate(recipe.stages, start=1):
        run_stage(recipe, stage, number)
    if recipe.study is not None:
        from mindvl.recipe.study import finish_study

        print(finish_study(recipe))
    if recipe.report is None:
        return 0
    from mindvl.recipe.finish import finish

    page = finish(recipe, data_s=data_s)
    results = json.loads((Path(recipe.out) / "results.json").read_text())
    print(closing_lines(results, page))
    return 0


def closing_lines(results: dict, page: Path) -> str:
    """What the terminal says in the end."""
    scores, blank = results["scores"], results["blank_scores"]
    width = max(len(name) for name in scores)
    lines = [f"{'family':<{width}}  score  blank pictures"]
    lines += [f"{name:<{width}}  {scores[name]:>5.3f}  {blank[name]:>5.3f}" for name in scores]
    singles = ", ".join(f"{name}: {score:.3f}" for name, score in results["singles"].items())
    chosen = results["resolution"]["chosen"]
    lines += [
        "",
        f"checkpoints by sequence length  {singles}; their average: {results['average']:.3f}",
        f"resolution chosen on validation  {chosen['min_pixels']}-{chosen['max_pixels']} pixels: "
        f"{chosen['test_score']:.3f} on test, default {results['resolution']['default']['test_score']:.3f}",
        f"training {results['train_s']:.0f} s, everything {results['total_s']:.0f} s",
        f"report: {page}",
    ]
    return "\n".join(lines)
