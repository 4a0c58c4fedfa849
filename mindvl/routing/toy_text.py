"""Six domains of text that every machine with this package has or can make, for toys that learn in minutes.

    python       sources of the standard library
    prose        its documentation (pydoc's topics) and docstrings, of other files than "python"
    packages     descriptions and licences of installed packages
    arithmetic   sums and their results, made
    json         records of orders, made
    chinese      sentences with dates, prices and numbers, made

Texts are split by file (or by the number of a made document) into train and held-out, so nothing held out was seen.
What is installed differs from machine to machine; a run keeps its texts beside its results.
"""

from __future__ import annotations

import ast
import hashlib
import json
import random
import sysconfig
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

HELD_OUT_RATIO = 0.2
MADE_DOCUMENTS = 3000
SPLITS = ("train", "held_out")
_LEFT_OUT = {
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "encodings",
    "lib2to3",
    "turtledemo",
    "ensurepip",
    "pydoc_data",
}


def make_texts(folder: Path, *, train_chars: int, held_out_chars: int) -> None:
    """Write `folder/<split>/<domain>.jsonl`, at most so many characters each. The same on one machine every time.

    Raises ValueError for a domain that this machine has too little of: fewer than a tenth of what was asked for.
    """
    for name, documents in DOMAINS.items():
        kept: dict[str, list[str]] = {split: [] for split in SPLITS}
        room = {"train": train_chars, "held_out": held_out_chars}
        for key, text in sorted(documents(), key=lambda item: _digest(item[0])):
            split = "held_out" if _digest(key) / 2**64 < HELD_OUT_RATIO else "train"
            if room[split] > 0 and text.strip():
                kept[split].append(text[: room[split]])
                room[split] -= len(text)
        for split, size in (("train", train_chars), ("held_out", held_out_chars)):
            found = sum(map(len, kept[split]))
            if found < size / 10:
                raise ValueError(f"domain {name}: {found} characters of {split} text are here, {size} were asked for")
            target = folder / split / f"{name}.jsonl"
            target.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in kept[split])
            target.write_text("".join(lines), encoding="utf-8")


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def _library_files() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if not _LEFT_OUT & set(name.parts[:-1]):
            try:
                yield name.as_posix(), path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue


def _python() -> Iterator[tuple[str, str]]:
    return ((name, text) for name, text in _library_files() if _digest(f"half {name}") % 2)


def _prose() -> Iterator[tuple[str, str]]:
    from pydoc_data.topics import topics

    yield from topics.items()
    for name, text in _library_files():
        if not _digest(f"half {name}") % 2:
            holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, holders))
            yield name, "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def _packages() -> Iterator[tuple[str, str]]:
    for package in metadata.distributions():
        name = package.metadata["Name"] or "unnamed"
        yield name, package.read_text("METADATA") or ""
        for file in package.files or []:
            if "license" in file.name.lower() and file.suffix in ("", ".txt", ".md"):
                try:
                    yield f"{name}/{file}", file.read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError):
                    continue


def _made(kind: str, write: Callable[[random.Random], str]) -> Iterator[tuple[str, str]]:
    for number in range(MADE_DOCUMENTS):
        key = f"{kind} {number}"
        yield key, write(random.Random(key))


def _sums(rng: random.Random) -> str:
    lines = []
    for _ in range(24):
        left, right, sign = rng.randint(0, 999), rng.randint(0, 99), rng.choice("+-*")
        result = {"+": left + right, "-": left - right, "*": left * right}[sign]
        lines.append(f"{left} {sign} {right} = {result}")
    return "\n".join(lines)


def _orders(rng: random.Random) -> str:
    goods = ("apple", "bread", "cable", "desk", "engine", "flute", "glass", "hammer", "ink", "jacket", "kettle", "lamp")
    records = [
        {
            "id": rng.randint(1000, 99999),
            "customer": {
                "name": rng.choice("ABCDEFGH") + rng.choice(("da", "lex", "rin", "tom")),
                "vip": rng.random() < 0.3,
            },
            "items": [
                {"name": rng.choice(goods), "count": rng.randint(1, 9), "price": round(rng.uniform(1, 200), 2)}
                for _ in range(rng.randint(1, 4))
            ],
            "paid": rng.random() < 0.7,
        }
        for _ in range(3)
    ]
    return json.dumps(records, indent=rng.choice((None, 1, 2)))


def _chinese(rng: random.Random) -> str:
    cities = ("北京", "上海", "广州", "成都", "西安", "杭州", "南京", "武汉")
    goods = ("苹果", "茶叶", "书", "衣服", "自行车", "电脑", "椅子", "大米")
    weather = ("晴", "多云", "小雨", "大风", "下雪")
    city, good, number = (lambda: rng.choice(cities)), (lambda: rng.choice(goods)), rng.randint
    sentences: tuple[Callable[[], str], ...] = (
        lambda: f"{number(1990, 2029)}年{number(1, 12)}月{number(1, 28)}日，{city()}{rng.choice(weather)}。",
        lambda: f"他在{city()}买了{number(2, 20)}个{good()}，一共{number(10, 999)}元。",
        lambda: f"从{city()}到{city()}要走{number(2, 30)}个小时。",
        lambda: f"{good()}的价格是多少？{number(1, 99)}块{number(1, 9)}毛。",
        lambda: "".join(rng.choice("零一二三四五六七八九十百千") for _ in range(number(3, 8))) + "。",
    )
    return "".join(rng.choice(sentences)() for _ in range(20))


DOMAINS: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "python": _python,
    "prose": _prose,
    "packages": _packages,
    "arithmetic": lambda: _made("arithmetic", _sums),
    "json": lambda: _made("json", _orders),
    "chinese": lambda: _made("chinese", _chinese),
}
"""Name -> (key, text) of all its documents."""
