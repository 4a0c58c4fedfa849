"""A verb within a verb, `mindvl data index`, says the same line in its family's list and above its own options."""

from __future__ import annotations

import argparse


def add_sub_verb(verbs: argparse._SubParsersAction, name: str, purpose: str) -> argparse.ArgumentParser:
    """Its parser, to declare arguments on."""
    return verbs.add_parser(name, help=purpose, description=purpose)
