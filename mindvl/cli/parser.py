"""LightningCLI's parser, whose complaints are one line, and which knows our strategy by its short name.

jsonargparse prints the whole usage, fifty lines, and a tree of the types that a value is not of; and it takes
`--trainer.max_step` for `--trainer.max_steps`. Here a key is spelt in full, and what is wrong with it is one line
(`mindvl.cli.complaints`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from mindvl.cli.complaints import one_line
from mindvl.cli.config_files import read_configs

STRATEGY = "--trainer.strategy"
STRATEGIES = {"mindvl": "mindvl.parallel.MindVLStrategy"}


class OneLineParser(LightningArgumentParser):
    """Raises ValueError in one line where jsonargparse would print its usage and leave; knows no abbreviations."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within a parser, whose complaint is a part of the outer one's
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        known = [action.dest for action in parser._actions]
        raise ValueError(one_line(message, known=known, configs=read_configs(getattr(self, "args", ())))) from ex


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """Command line with our strategy's class in place of its name where arguments of it follow.

    `--trainer.strategy=mindvl --trainer.strategy.context=2`: Lightning knows the name, jsonargparse only classes.
    """
    if not any(argument.startswith(f"{STRATEGY}.") for argument in arguments):
        return list(arguments)
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=")
        if equals and option == STRATEGY:
            argument = f"{option}={STRATEGIES.get(value, value)}"
        elif before == STRATEGY:
            argument = STRATEGIES.get(argument, argument)
        found.append(argument)
    return found
