"""Recorded routing on disk: a folder that can be appended to, is read without being loaded, and knows when it is cut.

    trace/
      meta.json       format and version, model, part, num_experts, k, layers, shared_experts, columns and their types
      ids.bin         int16 (int32 beyond 32,768 experts), little endian, tokens x layers x k, samples end to end
      kinds.bin       uint8, one per token (`TokenKind`)
      weights.bin     float32, tokens x layers x k; only when weights were recorded
      samples.jsonl   one line per sample, in order: {"tokens", "key", "domain", "crc32"}; last {"end": samples}

A sample's index line is written after its data, and the end line when the writer closes. So a trace without its end
line was cut, by a crash or by a copy that stopped; which samples are whole is then known from the sizes. Such a trace
is refused with that number, or read up to it with `partial=True`; never in silence.

A token of a model with 16 MoE layers and k = 8 takes 257 bytes: the paper's 11.5 million tokens (arXiv 2505.16056,
section 4) are 3.0 GB, and a reader holds only the pages it looks at.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mindvl.routing.sample import Routings, RoutingSample, TraceMeta, checked, id_dtype

FORMAT, VERSION = "mindvl routing trace", 1
_FLUSH_BYTES = 1 << 23


class TraceWriter:
    """Appends samples to a trace; a context manager. Data reach the files every 8 MB, index lines after their data.

    Args:
        folder: of the trace; made when it is not there.
        meta: what all samples share.
        weights: whether samples have weights; all or none.
        append: continue a trace of the same meta. Without it a folder that holds a trace is refused.
        recover: with `append`, cut a damaged trace back to its last whole sample first, instead of refusing it.
    """

    def __init__(
        self, folder: str | Path, meta: TraceMeta, *, weights: bool = False, append: bool = False, recover: bool = False
    ):
        self.folder, self.meta = Path(folder), meta
        self.num_samples = 0
        self._columns = _columns(meta, weights)
        self._lines: list[str] = []
        self._waiting_bytes = 0
        if (self.folder / "meta.json").exists():
            if not append:
                raise ValueError(f"{self.folder} already holds a trace; give append=True to continue it")
            self._continue(weights, recover)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (*self._columns, "samples"):
                _path(self.folder, name).write_bytes(b"")
            header = {"format": FORMAT, "version": VERSION, **asdict(meta)}
            header["columns"] = {name: dtype.str for name, (dtype, _) in self._columns.items()}
            (self.folder / "meta.json").write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        self._files: dict[str, BinaryIO] = {
            name: _path(self.folder, name).open("ab") for name in (*self._columns, "samples")
        }

    def _continue(self, weights: bool, recover: bool) -> None:
        """Check that a trace goes on as it began, and take its end line off."""
        try:
            old = Trace(self.folder, partial=recover)
        except ValueError as error:
            raise ValueError(f"cannot append to {self.folder}; recover=True cuts it back first. {error}") from error
        if old.meta != self.meta:
            different = {
                name: (value, asdict(self.meta)[name])
                for name, value in asdict(old.meta).items()
                if value != asdict(self.meta)[name]
            }
            words = "; ".join(f"{name} is {there!r} there, {here!r} here" for name, (there, here) in different.items())
            raise ValueError(f"cannot append to {self.folder}: {words}")
        if old.has_weights != weights:
            raise ValueError(f"cannot append to {self.folder}: weights are {old.has_weights} there, {weights} here")
        self.num_samples = len(old)
        index = old._index[: len(old)]
        tokens = int(old._starts[-1])
        del old
        for name, (dtype, shape) in self._columns.items():
            with _path(self.folder, name).open("r+b") as file:
                file.truncate(tokens * dtype.itemsize * int(np.prod(shape)))
        with _path(self.folder, "samples").open("r+b") as file:
            file.truncate(sum(len(line) for line in index))

    def add(self, sample: RoutingSample) -> None:
        """Append one sample. Raises ValueError when its shape or ids do not fit the trace."""
        (sample,) = checked([sample], self.meta)
        if (sample.weights is not None) != ("weights" in self._columns):
            raise ValueError(f"{self.folder}: samples have weights, all or none; see TraceWriter(weights=...)")
        arrays = {"ids": sample.ids, "kinds": sample.kinds, "weights": sample.weights}
        checksum = 0
        for name, (dtype, _) in self._columns.items():
            data = np.ascontiguousarray(arrays[name], dtype).tobytes()
            checksum = zlib.crc32(data, checksum)
            self._files[name].write(data)
            self._waiting_bytes += len(data)
        line = {"tokens": len(sample), "key": sample.key, "domain": sample.domain, "crc32": checksum}
        self._lines.append(json.dumps(line, ensure_ascii=False))
        self.num_samples += 1
        if self._waiting_bytes > _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system, data before the index lines that name them."""
        for name in self._columns:
            self._files[name].flush()
        self._files["samples"].write("".join(f"{line}\n" for line in self._lines).encode())
        self._files["samples"].flush()
        self._lines.clear()
        self._waiting_bytes = 0

    def close(self) -> None:
        """Write the end line: from now on the trace is whole."""
        if self._files["samples"].closed:
            return
        self._lines.append(json.dumps({"end": self.num_samples}))
        self.flush()
        self._close_files()

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        """After an error the samples so far are kept, but the trace stays without its end line."""
        if error is None:
            self.close()
        else:
            self.flush()
            self._close_files()


class Trace(Routings):
    """A trace on disk, memory-mapped: `for ids in trace`, `trace.sample(i)`, `trace.domains`, `trace.select(...)`.

    Args:
        folder: written by `TraceWriter`.
        partial: read a cut trace up to its last whole sample; `missing` then says what is not there.
    """

    def __init__(self, folder: str | Path, *, partial: bool = False):
        self.folder = Path(folder)
        self.meta, columns = _read_meta(self.folder)
        self.has_weights = "weights" in columns
        self._index, self._rows, self.missing = _read_index(self.folder)
        lengths = [row["tokens"] for row in self._rows]
        self._starts = np.cumsum([0, *lengths])
        for name, (dtype, shape) in columns.items():
            self._fit(name, dtype.itemsize * int(np.prod(shape)), open_ended=bool(self.missing))
        if self.missing and not partial:
            raise ValueError(
                f"trace {self.folder} was cut: {self.missing}; {len(self._rows)} samples with {self._starts[-1]} "
                "tokens are whole, partial=True reads those"
            )
        total = int(self._starts[-1])
        self._data = {
            name: np.memmap(_path(self.folder, name), dtype, "r", shape=(total, *shape))
            if total
            else np.zeros((0, *shape), dtype)
            for name, (dtype, shape) in columns.items()
        }

    def _fit(self, name: str, token_bytes: int, *, open_ended: bool) -> None:
        """Leave out samples whose data are not all there; data behind the last sample are a sign of a cut too."""
        size_bytes = _path(self.folder, name).stat().st_size
        whole = int(np.searchsorted(self._starts, size_bytes // token_bytes, side="right")) - 1
        if whole < len(self._rows):
            expected_bytes = self._starts[-1] * token_bytes
            self.missing = f"{name}.bin has {size_bytes} bytes, its {len(self._rows)} samples take {expected_bytes}"
            self._rows, self._starts = self._rows[:whole], self._starts[: whole + 1]
        elif size_bytes > self._starts[-1] * token_bytes and not open_ended:
            self.missing = f"{name}.bin goes on for {size_bytes - self._starts[-1] * token_bytes} bytes after its end"

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_tokens(self) -> int:
        """Tokens of all samples."""
        return int(self._starts[-1])

    @property
    def domains(self) -> list[str]:
        return [row["domain"] for row in self._rows]

    def sample(self, number: int) -> RoutingSample:
        row = self._rows[number]
        tokens = slice(int(self._starts[number]), int(self._starts[number + 1]))
        weights = self._data["weights"][tokens] if self.has_weights else None
        return RoutingSample(self._data["ids"][tokens], self._data["kinds"][tokens], row["key"], row["domain"], weights)

    def verify(self) -> None:
        """Read everything once and compare checksums. Raises ValueError with the first sample that has changed."""
        for number, row in enumerate(self._rows):
            tokens = slice(int(self._starts[number]), int(self._starts[number + 1]))
            checksum = 0
            for column in self._data.values():
                checksum = zlib.crc32(np.ascontiguousarray(column[tokens]).tobytes(), checksum)
            if checksum != row["crc32"]:
                raise ValueError(
                    f"trace {self.folder}: sample {number} ({row['key']}) has checksum {checksum}, "
                    f"it was written with {row['crc32']}"
                )


def write_trace(
    folder: str | Path, routings: Routings | Iterable[RoutingSample], meta: TraceMeta | None = None
) -> Trace:
    """Write a recording, another trace or, with `meta`, any samples as a new trace, and open it."""
    if isinstance(routings, Routings):
        meta = routings.meta
        samples: Iterable[RoutingSample] = (routings.sample(number) for number in range(len(routings)))
    else:
        samples = routings
    if meta is None:
        raise ValueError("samples alone do not say how many experts there are: give meta")
    writer = None
    for sample in samples:
        writer = writer or TraceWriter(folder, meta, weights=sample.weights is not None)
        writer.add(sample)
    (writer or TraceWriter(folder, meta)).close()
    return Trace(folder)


def _columns(meta: TraceMeta, weights: bool) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape per token of each data file."""
    slots = (len(meta.layers), meta.k)
    columns = {"ids": (id_dtype(meta.num_experts), slots), "kinds": (np.dtype("|u1"), ())}
    return columns | ({"weights": (np.dtype("<f4"), slots)} if weights else {})


def _path(folder: Path, name: str) -> Path:
    return folder / ("samples.jsonl" if name == "samples" else f"{name}.bin")


def _read_meta(folder: Path) -> tuple[TraceMeta, dict[str, tuple[np.dtype, tuple[int, ...]]]]:
    path = folder / "meta.json"
    if not path.exists():
        raise ValueError(f"{folder} is no routing trace: it has no meta.json")
    header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if (header.pop("format", None), header.pop("version", None)) != (FORMAT, VERSION):
        raise ValueError(f"{path} does not say {FORMAT!r}, version {VERSION}")
    stored = header.pop("columns")
    meta = TraceMeta(**header | {"layers": tuple(header["layers"])})
    columns = _columns(meta, "weights" in stored)
    if {name: dtype.str for name, (dtype, _) in columns.items()} != stored:
        raise ValueError(f"{path}: columns are {stored}, version {VERSION} has {list(columns)}")
    return meta, columns


def _read_index(folder: Path) -> tuple[list[bytes], list[dict[str, Any]], str]:
    """Index lines as bytes and parsed, and what is missing at their end (empty for a closed trace)."""
    lines = _path(folder, "samples").read_bytes().splitlines(keepends=True)
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError:
            row = {}
        if "end" in row and line.endswith(b"\n"):
            problem = (
                "" if row["end"] == number == len(lines) - 1 else f"it says {row['end']} samples, {number} are there"
            )
            return lines[:number], rows, problem
        if not line.endswith(b"\n") or "tokens" not in row:
            return lines[:number], rows, f"line {number + 1} of samples.jsonl is not whole"
        rows.append(row)
    return lines, rows, "samples.jsonl has no end line, the writer was not closed"
