"""A parser's tree of complaints as one line: the innermost cause, its dotted key, and what was perhaps meant.

jsonargparse says of `--data.train.mine.wieght=2`, below fifty lines of usage:

    Parser key "data":
      Does not validate against any of the Union subtypes
      Subtypes: [<class 'mindvl.data.module.PackedShards'>, <class 'NoneType'>]
      Errors:
        - Problem with given class_path 'mindvl.data.module.PackedShards':
            Parser key "train":
              Problem with given class_path 'mindvl.data.mixture.Source':
                Option 'wieght' is not accepted
        - Expected a <class 'NoneType'>
      Given value type: <class 'jsonargparse._util.NestedArg'>
      Given value: NestedArg(key='train.mine.wieght', val='2')

It becomes `there is no key data.train.mine.wieght; did you mean weight?`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mindvl.cli.known_names import arguments_of, did_you_mean, near_key, subclass_names

_FRAME = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value( type)?:|Expected a path but|Not a valid subclass of|"
    r"Subclass types expect one of|a (class path|dict) |a dict$|Expected a <class 'NoneType'>$"
)
_UNKNOWN = re.compile(
    r"(?:Option '(?P<option>[^']+)' is not accepted|(?:Subcommand|Group) '(?P<group>[^']+)' does not accept option "
    r"'(?P<inner>[^']+)'|unrecognized arguments: --(?P<argument>[^\s=]+))"
)
_NO_CLASS = re.compile(
    r"(Expected a dot import path string: |Unexpected import path format: |No module named |"
    r"module '[^']+' has no attribute )"
)
_EXPECTED = re.compile(r"Expected an? (?P<type><class .*?>|typing\..*\])(?:\. Got value: (?P<value>.*))?$")


@dataclass(frozen=True)
class Leaf:
    """A complaint, the keys that lead to it, and the class that is to be made there."""

    text: str
    keys: tuple[str, ...]
    owner: str | None

    @property
    def rank(self) -> tuple[int, int]:
        """The larger, the more it says: an unknown key more than a type, the inner more than the outer."""
        kind = 2 if _UNKNOWN.match(self.text) else 0 if _EXPECTED.match(self.text) else 1
        return len(self.keys) + (kind == 2 and self.owner is not None), kind


def one_line(message: str, *, known: Iterable[str] = (), configs: Sequence[tuple[str, dict]] = ()) -> str:
    """The innermost cause of a complaint of jsonargparse.

    `known` are the dotted keys of the verb, `configs` the names and contents of the config files that were read: a key
    that is written in one of them is told with that file.
    """
    leaves = list(_leaves(message))
    if not leaves:
        return " ".join(message.split())
    rank = max(leaf.rank for leaf in leaves)
    told = [leaf for leaf in leaves if leaf.rank == rank]
    first, given = told[0], _given_key(message)
    if unknown := _UNKNOWN.match(first.text):
        return _unknown_key(unknown, first, given, known=list(known), configs=configs)
    key = _longer(".".join(first.keys), given)
    value = _value(message, leaves)
    if any(_NO_CLASS.match(leaf.text) for leaf in told):
        return _no_class(key, value, message)
    if _EXPECTED.match(first.text):
        return f"{_place(key, configs, value)}: {_wrong_type(value, told)}"
    if required := re.match(r"the following arguments are required: (.*)", first.text):
        names = [name.partition(".")[2] or name for name in required[1].split(", ")]
        return f"{' and '.join(names)} are missing: give a config with -c CONFIG"
    if stray := re.match(r"unrecognized arguments: (.*)", first.text):
        return f"{stray[1]} is no option; one is written --KEY=VALUE, such as --trainer.max_steps=100"
    said = "; ".join(dict.fromkeys(leaf.text for leaf in told))
    return f"{_place(key, configs, value)}: {said}" if key else said


def _leaves(message: str) -> Iterable[Leaf]:
    """The complaints of the tree that say anything, in its order."""
    above: list[tuple[int, str, str]] = []
    for line in filter(str.strip, message.splitlines()):
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text.startswith("- "):
            text, indent = text[2:], indent + 1
        above = [entry for entry in above if entry[0] < indent]
        if named := re.match(r'Parser key "([^"]+)":?\s*(.*)', text):
            above.append((indent, "key", named[1]))
            text = named[2]
        elif owner := re.match(r"Problem with given class_path '([^']+)'", text):
            above.append((indent, "class", owner[1]))
            continue
        if text and not _FRAME.match(text):
            owners = [name for _, kind, name in above if kind == "class"]
            keys = tuple(name for _, kind, name in above if kind == "key")
            yield Leaf(text, keys, owners[-1] if owners else None)


def _given_key(message: str) -> str:
    """The key as the command line has it: `data.train.mine.wieght`; nothing where a file or a whole value holds it."""
    top = re.match(r'Parser key "([^"]+)"', message)
    nested = re.findall(r"Given value: NestedArg\(key='([^']+)'", message)
    return f"{top[1]}.{nested[-1]}" if top and nested else ""


def _longer(inner: str, given: str) -> str:
    """jsonargparse leaves names of mappings out, the command line what lies inside of a value."""
    return given if given.count(".") >= inner.count(".") and given else inner


def _unknown_key(
    unknown: re.Match[str], leaf: Leaf, given: str, *, known: list[str], configs: Sequence[tuple[str, dict]]
) -> str:
    option = unknown["option"] or unknown["argument"] or unknown["inner"]
    if leaf.owner is None:
        return f"there is no key {_place(option, configs)}{did_you_mean(near_key(option, known))}"
    within = option if unknown["group"] is None else f"{unknown['group']}.{option}"
    key = _longer(".".join((*leaf.keys, within)), given)
    meant, names = arguments_of(leaf.owner, within)
    hint = did_you_mean(meant) or (f"; there are {', '.join(names)}" if 0 < len(names) <= 20 else "")
    return f"there is no key {_place(key, configs)}{hint}"


def _no_class(key: str, value: str | None, message: str) -> str:
    if value is None:  # a key below one that holds a bare word
        named = re.findall(r"Expected a dot import path string: (\S+)", message)
        outer, _, inner = key.rpartition(".")
        return f"{outer} is {named[-1]}, which has no {inner}: name a class there first" if named else key
    hint = did_you_mean(near_key(value.rpartition(".")[2], subclass_names(message)))
    return f"{key}: there is neither a class nor a file {value}{hint}"


def _wrong_type(value: str | None, told: Sequence[Leaf]) -> str:
    types = [wanted["type"] for leaf in told if (wanted := _EXPECTED.match(leaf.text))]
    words: list[str] = []
    for text in types:
        named = re.fullmatch(r"<class '(?:.*\.)?(\w+)'>", text)
        if text.startswith("typing.Literal"):
            words += [repr(each) for each in ast.literal_eval(text.removeprefix("typing.Literal"))]
        else:
            words.append(named[1] if named else text)
    words = list(dict.fromkeys(words))
    hint = did_you_mean(near_key(str(value), [word.strip("'") for word in words]))
    return f"{value} is no {words[0]}" if len(words) == 1 else f"{value} is none of {', '.join(words)}{hint}"


def _value(message: str, leaves: Sequence[Leaf]) -> str | None:
    """The value that is complained of: the innermost one, or that of the command line."""
    for leaf in leaves:
        if (wanted := _EXPECTED.match(leaf.text)) and wanted["value"] is not None:
            return wanted["value"]
    values = re.findall(r"Given value: (.*)", message)
    nested = re.fullmatch(r"NestedArg\(key='[^']+', val='(.*)'\)", values[0]) if values else None
    if nested and not any(_NO_CLASS.match(leaf.text) and leaf.owner is None for leaf in leaves):
        return nested[1]
    plain = [value for value in values if not value.startswith("NestedArg(")]
    classes = re.findall(r"Problem with given class_path '([^']+)'", message)
    if plain and plain[0].startswith("{") and classes:
        return classes[-1]
    return plain[0] if plain else None


def _place(key: str, configs: Sequence[tuple[str, dict]], value: str | None = None) -> str:
    """The key as a config file has it, with the file, if that has the value too: `data.train.ocr.wieght (fit.yaml)`."""
    parts = key.split(".")
    for name, content in configs:
        for path, written in _entries(content):
            plain = [part for part in path if part != "init_args"]
            same = plain[-1] == parts[-1] and plain[0] == parts[0] and set(parts) <= set(plain)
            if same and value in (None, str(written)):
                return f"{'.'.join(plain)} ({name})"
    return key


def _entries(value: object, above: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], object]]:
    """(keys, value) of all that a nested mapping holds, mappings themselves too."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*above, str(key)), each
        yield from _entries(each, (*above, str(key)))
