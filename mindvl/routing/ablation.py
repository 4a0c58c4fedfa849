"""The paper's ablation in small: toys that differ in one thing each, and whether their order is the paper's.

    runs/routing_toy/
      texts/                     train and held-out texts, made once
      tokenizer/
      baseline-seed0/
        trace/                   routing of the held-out texts, for `mindvl routing report`
        result.json              settings and numbers; a run that has it is not run again
      table.md, table.json

The paper's toys have 1.43 B parameters and saw 20 B tokens; these have 3.7 M and see 1.6 M. Values cannot agree, orders
may. Intervals are bootstrap intervals over held-out samples: they say how well a model was measured, not how another
seed would turn out; with several seeds they span those of all.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mindvl.cores import num_cores
from mindvl.routing.ablation_table import RHOS, rank_agreement, table_row, table_text
from mindvl.routing.published import SEGMENT_LENGTH, SOURCE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mindvl.routing.toy import ToySettings

TRAIN_CHARS, HELD_OUT_CHARS = 600_000, 60_000
HELD_OUT_SAMPLES = 24
"""Of each domain."""


def ablate(
    configs: Sequence[Path],
    out: Path,
    *,
    steps: int | None = None,
    seeds: int = 1,
    jobs: int = 1,
    on_start: Callable[[], None] | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> str:
    """Train and measure what is not there yet; write and return the table.

    Args:
        steps: optimizer steps instead of the configs'.
        seeds: runs of each config.
        jobs: runs at once, each in a process of its own with its share of the cores. Such small models gain little from
            a second core, so two runs on one core each are the faster way to use two.
        on_start: called first in each of these processes.
        say: hears what is going on; of several jobs, only what starts.

    Raises ValueError for configs that cannot be read or have one name, and for results of other settings in `out`.
    """
    from mindvl.routing.toy import read_toy, settings_record

    toys = [read_toy(path, steps=steps) for path in configs]
    names = [toy.name for toy in toys]
    if len(set(names)) < len(names):
        raise ValueError(f"two configs have one name: {', '.join(sorted(names))}")
    if seeds < 1 or jobs < 1:
        raise ValueError(f"there are {seeds} seeds and {jobs} jobs; at least one of each is needed")
    runs = [(toy, seed) for seed in range(seeds) for toy in toys]
    for toy, seed in runs:  # before the first hour is spent
        _finished(out / f"{toy.name}-seed{seed}", settings_record(toy))
    tokenizer = _prepare(out, say)
    missing = []
    for toy, seed in runs:
        if _finished(out / f"{toy.name}-seed{seed}", settings_record(toy)) is None:
            missing.append((toy, seed))
        else:
            say(f"{toy.name}, seed {seed}: finished before")
    if jobs == 1 or len(missing) < 2:
        for toy, seed in missing:
            _run(toy, out, tokenizer, seed, say)
    else:
        _run_side_by_side(missing, out, tokenizer, jobs, on_start)
    results = {toy.name: [_result(out / f"{toy.name}-seed{seed}") for seed in range(seeds)] for toy in toys}
    rows = [table_row(name, found) for name, found in results.items()]
    rows.sort(key=lambda row: -row["srp"][0])
    agreement = {name: rank_agreement(rows, name) for name in ("srp", "balance")}
    table = table_text(rows, agreement)
    (out / "table.md").write_text(table + "\n", encoding="utf-8")
    record = {"rows": rows, "agreement": agreement, "published": SOURCE}
    (out / "table.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return table


def _result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def _finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The result in a folder, None when there is none. Raises ValueError for that of other settings."""
    if not (folder / "result.json").is_file():
        return None
    result = _result(folder)
    for key, value in settings.items():
        if result["settings"].get(key) != value:
            raise ValueError(
                f"{folder} was made with {key}={result['settings'].get(key)}, now it is {value}; "
                "take another folder, or remove this one"
            )
    return result


def _prepare(out: Path, say: Callable[[str], None]) -> PreTrainedTokenizerBase:
    """Texts and tokenizer of all runs, made when they are not there. Both appear whole or not at all."""
    from transformers import AutoTokenizer

    from mindvl.routing.toy import train_tokenizer
    from mindvl.routing.toy_text import make_texts

    texts = out / "texts"
    if not texts.exists():
        say("making texts")
        temporary = out / f".texts.{os.getpid()}"
        make_texts(temporary, train_chars=TRAIN_CHARS, held_out_chars=HELD_OUT_CHARS)
        temporary.rename(texts)
    if not (out / "tokenizer").exists():
        say("training the tokenizer")
        temporary = out / f".tokenizer.{os.getpid()}"
        train_tokenizer(sorted((texts / "train").glob("*.jsonl"))).save_pretrained(temporary)
        temporary.rename(out / "tokenizer")
    return AutoTokenizer.from_pretrained(out / "tokenizer")


def _run_side_by_side(
    runs: Sequence[tuple[ToySettings, int]],
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    jobs: int,
    on_start: Callable[[], None] | None,
) -> None:
    """All runs, `jobs` at once. The first error is raised after the others have finished, which are then kept."""
    threads = max(1, num_cores() // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_start_job, initargs=(threads, on_start)) as pool:
        started = [pool.submit(_run, toy, out, tokenizer, seed, _say_in_job) for toy, seed in runs]
    for run in started:
        run.result()


def _start_job(threads: int, on_start: Callable[[], None] | None) -> None:
    import torch

    torch.set_num_threads(threads)
    if on_start is not None:
        on_start()


def _say_in_job(words: str) -> None:
    if not words.startswith(" "):
        print(words, file=sys.stderr, flush=True)


def _run(
    toy: ToySettings, out: Path, tokenizer: PreTrainedTokenizerBase, seed: int, say: Callable[[str], None]
) -> None:
    """Train, record the held-out texts, measure; the run's folder appears whole or not at all."""
    from mindvl.routing.groups import specialization
    from mindvl.routing.measure import measure
    from mindvl.routing.toy import settings_record, token_stream, train_toy
    from mindvl.routing.trace import write_trace

    say(f"{toy.name}, seed {seed}: {toy.steps} steps")
    start = time.perf_counter()
    folder, texts = out / f"{toy.name}-seed{seed}", out / "texts"
    files = {file.stem: file for file in sorted((texts / "train").glob("*.jsonl"))}
    streams = {name: token_stream(file, tokenizer) for name, file in files.items()}
    module = train_toy(toy, streams=streams, tokenizer=tokenizer, seed=seed, say=say)
    trained_s = time.perf_counter() - start
    recording, loss = _read_held_out(module, texts / "held_out", tokenizer)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    if temporary.exists():
        shutil.rmtree(temporary)
    trace = write_trace(temporary / "trace", recording)
    measured = measure(trace)
    domains, _ = specialization(measured.domains, measured.srp_experts)
    srp = measured.srp[SEGMENT_LENGTH]
    sizes = [min(rho * toy.k, toy.num_experts) for rho in RHOS]
    result = {
        "settings": settings_record(toy),
        "seed": seed,
        "srp": [float(srp.estimate), float(srp.low), float(srp.high)],
        "floor": measured.floor,
        "balance": measured.load_balance_percent,
        "lru": [
            [float(values[size - 1]) for values in (measured.lru.estimate, measured.lru.low, measured.lru.high)]
            for size in sizes
        ],
        "domain_specialization": domains,
        "held_out_loss": loss,
        "held_out_tokens": measured.num_tokens,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "train_s": round(trained_s, 1),
    }
    (temporary / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.rename(folder)
    say(f"{toy.name}, seed {seed}: SRP {100 * srp.estimate:.1f} %, held-out loss {loss:.3f}, {trained_s:.0f} s")


def _read_held_out(module: Any, texts: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, float]:
    """Recorded routing of held-out samples, and their mean loss per token without the balancing term."""
    import torch
    from torch.nn.functional import cross_entropy

    from mindvl.routing.recorder import RoutingRecorder
    from mindvl.routing.toy import token_stream

    length = module.settings.length_tokens
    losses = []
    with RoutingRecorder(module.model) as recorder, torch.inference_mode():
        for file in sorted(texts.glob("*.jsonl")):
            stream = token_stream(file, tokenizer)
            rows = min(HELD_OUT_SAMPLES, len(stream) // length)
            if not rows:
                raise ValueError(f"{file} has {len(stream)} tokens, less than a sample of {length}")
            ids = torch.from_numpy(stream[: rows * length].reshape(rows, length)).to(module.device)
            keys = [f"{file.stem}/{row}" for row in range(rows)]
            recorder.label(keys=keys, domains=[file.stem] * rows)
            logits = module.model(input_ids=ids, use_cache=False).logits
            losses.append(float(cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())))
    return recorder.recording(), float(np.mean(losses))
