"""Samples per second of our loader, beside its physical limit and two rivals, on the same shards with two workers.

The limit decodes pictures, resizes them bicubically to the model's grid and throws them away: no loader on these
libraries can be faster. The rivals do all that ours does: read, decode, resize, cut into patches, render the chat
template, tokenize, mask, pack to 4096 tokens and 16384 patches, and hand tensors to the training process.

    contender    order of samples             packs                                 transport
    ours         whole epoch shuffled         planned over the epoch, best fit      PackedShards' loader
    webdataset   shards, then 200 samples     closed when the next does not fit     WebLoader
    energon      shards, then 200 samples     first fit over 200 samples            get_loader

Ours also makes what the vision tower needs (window order, rotary positions) and can resume at any pack; the rivals run
with their libraries' defaults and keep no checkpoints. All have two workers with one thread each, four packs of
prefetch per worker, and files in the page cache.

Checksums of the ids, labels, positions and pixels of some 200 conversations must agree before anything is timed. Then
the contenders take turns; a value is the median over rounds of ours divided by theirs in the same round. Packs that
wait in a queue when a turn begins are not counted, and the first round, with the start of the workers, is dropped.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from tests.benchmarks.loader_corpus import CORPUS, loader_corpus
from tests.benchmarks.loader_rivals.energon_environment import ENERGON, energon_python, prepare_shards
from tests.benchmarks.rows import Row

ROWS = ("loader_vs_decode_ratio", "loader_vs_webdataset_ratio", "loader_vs_energon_ratio")
WORKERS, SEQUENCE_LENGTH, PATCH_BUDGET, PREFETCH_PACKS = 2, 4096, 16384, 4
ROUNDS, TURN_S, GRACE_S = 6, 4.0, 15.0
COMPARED_DOCUMENTS, LEAST_IN_COMMON = 400, 100


class Contender:
    """A process that loads when it is told to (`loader_rivals/turns.py`); what it prints goes to a log file."""

    def __init__(self, module: str, *, python: str = sys.executable, arguments: tuple[int, ...] = ()):
        self.module = module
        self._log: IO[bytes] = (CORPUS / f"{module}.log").open("w+b")
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [python, "-m", f"tests.benchmarks.loader_rivals.{module}", str(CORPUS), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | one_thread | {"TOKENIZERS_PARALLELISM": "false"},
        )

    def ask(self, *request: Any) -> Any:
        """The answer to a request. Raises RuntimeError with the end of the log when the process has died."""
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._log.seek(0)
            raise RuntimeError(f"{self.module} has died:\n{self._log.read()[-3000:].decode(errors='replace')}")
        return json.loads(answer)

    def samples_per_second(self) -> float:
        """Over one turn."""
        turn = self.ask("run", TURN_S)
        return turn["samples"] / turn["seconds"]

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # it ends by itself and takes its workers with it
        try:
            self._process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def measure() -> list[Row]:
    loader_corpus()
    python = energon_python()
    prepare_shards(CORPUS / "shards")
    settings = (WORKERS, SEQUENCE_LENGTH, PATCH_BUDGET, PREFETCH_PACKS)
    with ExitStack() as stack:
        contenders = {
            "ours": Contender("ours", arguments=settings),
            "decode": Contender("decode_only", arguments=(WORKERS,)),
            "webdataset": Contender("webdataset_pipeline", arguments=settings),
            "energon": Contender("energon_pipeline", python=python, arguments=settings),
        }
        for contender in contenders.values():
            stack.enter_context(contender)
        _check_same_documents({name: it for name, it in contenders.items() if name != "decode"})
        rounds = [{name: it.samples_per_second() for name, it in contenders.items()} for _ in range(1 + ROUNDS)][1:]
    rates = {name: statistics.median(rates[name] for rates in rounds) for name in contenders}
    ratios = {name: statistics.median(rates["ours"] / rates[name] for rates in rounds) for name in contenders}
    what = {
        "decode": "decoding and resizing alone in as many workers",
        "webdataset": "a webdataset pipeline that makes the same tensors",
        "energon": f"{ENERGON} making the same tensors with its packing hooks",
    }
    return [
        Row(
            f"loader_vs_{name}_ratio",
            ratios[name],
            "ratio",
            f"{text}, {WORKERS} workers: {rates[name]:.0f} samples/s, ours {rates['ours']:.0f}",
        )
        for name, text in what.items()
    ]


def _check_same_documents(loaders: dict[str, Contender]) -> None:
    """Refuse to compare speeds of different work: tensors of the same conversation must be equal."""
    found = {name: loader.ask("documents", COMPARED_DOCUMENTS) for name, loader in loaders.items()}
    ours = found.pop("ours")
    for name, theirs in found.items():
        common = ours.keys() & theirs.keys()
        if len(common) < LEAST_IN_COMMON:
            raise ValueError(f"{len(common)} conversations were seen by us and by {name}, needed are {LEAST_IN_COMMON}")
        different = [key for key in sorted(common) if ours[key] != theirs[key]]
        if different:
            raise ValueError(f"{len(different)} of {len(common)} conversations differ from {name}'s: {different[:3]}")
