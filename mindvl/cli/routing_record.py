"""`mindvl routing record`: a model reads texts, or a MindVL its shards, and every choice of experts goes to a trace.

Teacher-forced: nothing is generated, each sample is read once from its first token on. Beside the trace lies
`record.json`, which says what was read and how large an expert is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindvl.routing.texts import cut_samples, domain_of, read_documents, text_files


@dataclass
class Sources:
    """What is read: files by domain."""

    texts: dict[str, list[Path]] = field(default_factory=dict)
    shards: dict[str, list[str]] = field(default_factory=dict)


def sources_of(texts: Sequence[str], shards: Sequence[str], domains: Sequence[str]) -> Sources:
    """Sort paths into domains. Raises ValueError for paths that name nothing, or NAME=PATH that is none."""
    from mindvl.data.storage import find_shards

    found = Sources()
    for pattern in texts:
        for file in text_files(pattern):
            found.texts.setdefault(domain_of(file), []).append(file)
    for pattern in shards:
        for location in find_shards(pattern):
            found.shards.setdefault(domain_of(Path(location)), []).append(location)
    for given in domains:
        name, separator, pattern = given.partition("=")
        if not (name and separator and pattern):
            raise ValueError(f"--domain is NAME=PATH, got {given!r}")
        if pattern.endswith(".tar"):
            found.shards.setdefault(name, []).extend(find_shards(pattern))
        else:
            found.texts.setdefault(name, []).extend(text_files(pattern))
    if not (found.texts or found.shards):
        raise ValueError("nothing to read: give --texts, --shards or --domain NAME=PATH")
    return found


def record(args: argparse.Namespace) -> int:
    """Run the verb; raises ValueError with one readable line for what cannot be recorded."""
    if (args.out / "meta.json").exists() or (args.out / "encoder").exists():
        raise ValueError(f"{args.out} already holds a trace; choose another folder")
    if args.max_tokens < args.length:
        raise ValueError(f"--max-tokens is {args.max_tokens}, less than one sample of --length {args.length}")
    sources = sources_of(args.texts, args.shards, args.domain)
    from mindvl.cli.quiet import quiet_transformers

    quiet_transformers()
    model, tokenizer = load_model(args.model, trust_remote_code=args.trust_remote_code)
    is_mindvl = model.config.model_type == "mindvl"
    if sources.shards and not is_mindvl:
        raise ValueError(f"--shards are read by a MindVL; {args.model} is a {model.config.model_type}")
    from mindvl.routing.expert_size import expert_parameters
    from mindvl.routing.recorder import RoutingRecorder

    start = time.perf_counter()
    domains = [*sources.texts, *sources.shards]
    quota = max(args.length, args.max_tokens // len(domains))
    rows = {
        name: _samples(name, files, tokenizer, length=args.length, tokens=quota, keep_documents=args.documents)
        for name, files in sources.texts.items()
    }
    with RoutingRecorder(model, folder=args.out) as recorder:
        counts: dict[str, Counter[str]] = {name: Counter() for name in domains}
        for name, samples in rows.items():
            _read_texts(model, recorder, name, samples, counts[name], batch_tokens=args.batch_tokens)
        for name, locations in sources.shards.items():
            _read_shards(model, recorder, tokenizer, name, locations, counts[name], tokens=quota, length=args.length)
    seconds = time.perf_counter() - start
    settings = {
        "model": args.model,
        "length_tokens": args.length,
        "samples": "documents" if args.documents else "documents laid end to end, cut at the length",
        "domains": {name: dict(count) for name, count in counts.items()},
        "files": {name: [str(file) for file in files] for name, files in (sources.texts | sources.shards).items()},
        "expert_parameters": expert_parameters(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "seconds": round(seconds, 1),
    }
    (args.out / "record.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, count in counts.items():
        print(f"{name}: {count['samples']:,} samples, {count['tokens']:,} tokens", end="")
        print("".join(f", {number} {why}" for why, number in count.items() if why not in ("samples", "tokens")))
    tokens = sum(count["tokens"] for count in counts.values())
    print(
        f"{tokens:,} tokens in {seconds:.0f} s are in {args.out}; next: mindvl routing report {args.out} -o report.html"
    )
    return 0


def load_model(name: str, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Model in evaluation mode on this machine's device, and its tokenizer. Raises ValueError when it cannot be had."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    import mindvl.model.mindvl  # noqa: F401  # registers its config
    from mindvl.data.tokenizer import load_tokenizer
    from mindvl.device import device_of
    from mindvl.routing.matchers import find_moe_layers

    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"{name} is no saved model: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = kind.from_pretrained(name, dtype="auto", trust_remote_code=trust_remote_code)
        tokenizer = load_tokenizer(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be loaded: {str(error).splitlines()[0]}") from error
    find_moe_layers(model)
    return model.eval().to(device_of("auto")), tokenizer


def _samples(
    domain: str, files: Sequence[Path], tokenizer: Any, *, length: int, tokens: int, keep_documents: bool
) -> list[list[int]]:
    """The token ids of a domain. Raises ValueError when its texts do not fill one sample."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    seen: list[int] = []

    def counted(text: str) -> list[int]:
        ids = encode(text)
        seen.append(len(ids))
        return ids

    samples = cut_samples(
        read_documents(files),
        counted,
        length=length,
        max_samples=max(1, tokens // length),
        end_token_id=tokenizer.eos_token_id,
        keep_documents=keep_documents,
    )
    if not samples:
        raise ValueError(
            f"domain {domain}: {len(files)} files with {sum(seen)} tokens, less than one sample of {length}; "
            "give more text, a smaller --length, or --documents"
        )
    return samples


def _read_texts(
    model: Any, recorder: Any, domain: str, samples: Sequence[Sequence[int]], count: Counter[str], *, batch_tokens: int
) -> None:
    """Teacher-force samples in batches of rows of one length."""
    import inspect

    import torch

    extra: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        extra["logits_to_keep"] = 1
    batches = list(_batches(samples, batch_tokens))
    for number, (first, rows) in enumerate(batches, 1):
        ids = torch.tensor(rows, device=model.device)
        named = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
        recorder.label(keys=[f"{domain}/{first + row}" for row in range(len(rows))], domains=[domain] * len(rows))
        with torch.inference_mode():
            model(input_ids=ids, **named, **extra)
        count.update(samples=len(rows), tokens=ids.numel())
        _say(f"{domain}: batch {number} of {len(batches)}")


def _batches(samples: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[tuple[int, list[list[int]]]]:
    """(number of the first, neighbouring samples of equal length), so that nothing is padded."""
    rows: list[list[int]] = []
    for number, sample in enumerate(samples):
        if rows and (len(sample) != len(rows[0]) or (len(rows) + 1) * len(sample) > batch_tokens):
            yield number - len(rows), rows
            rows = []
        rows.append(list(sample))
    if rows:
        yield len(samples) - len(rows), rows


def _read_shards(
    model: Any,
    recorder: Any,
    tokenizer: Any,
    domain: str,
    locations: Sequence[str],
    count: Counter[str],
    *,
    tokens: int,
    length: int,
) -> None:
    """A MindVL reads conversations with their pictures, packed; what is too long or broken is counted by its reason."""
    import torch

    from mindvl.data.chat import ChatEncoder
    from mindvl.data.pack import pack_samples
    from mindvl.data.pixels import PixelBudget
    from mindvl.data.reader import read_samples
    from mindvl.data.sample import encode_sample

    config, encoder = model.config, ChatEncoder(tokenizer)
    pixels = PixelBudget.of_model(config)
    waiting: list = []

    def flush() -> None:
        pack = pack_samples(waiting, token_budget=length, merge=pixels.merge, window_tokens=config.window_tokens)
        recorder.label(domains=[domain] * len(waiting))
        with torch.inference_mode():
            model(packed=pack.to(model.device))
        count.update(samples=len(waiting), tokens=pack.num_tokens)
        waiting.clear()
        _say(f"{domain}: {count['tokens']:,} tokens")

    for location in locations:
        for sample in read_samples(location, refused=lambda key, why: count.update({"unreadable": 1})):
            try:
                encoded = encode_sample(
                    sample.key, domain, sample.messages, list(sample.images), encoder, pixels, supervise="text"
                )
            except ValueError as error:
                count[re.sub(r"\d+", "N", str(error))] += 1
                continue
            size = len(encoded.input_ids)
            if size > length:
                count[f"longer than {length} tokens"] += 1
                continue
            waiting_tokens = sum(len(each.input_ids) for each in waiting)
            if waiting and waiting_tokens + size > length:
                flush()
                waiting_tokens = 0
            if count["tokens"] + waiting_tokens >= tokens:
                break
            waiting.append(encoded)
    if waiting:
        flush()
    if not count["samples"]:
        reasons = ", ".join(f"{number} {why}" for why, number in count.items()) or "the shards are empty"
        raise ValueError(f"domain {domain}: no sample could be read: {reasons}")


def _say(words: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{words}\x1b[K", end="", file=sys.stderr, flush=True)
