"""The trace on disk: what comes back, what a cut one says, what is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindvl.routing.sample import Recording, RoutingSample, TokenKind, TraceMeta
from mindvl.routing.trace import Trace, TraceWriter, write_trace

META = TraceMeta("toy", num_experts=8, layers=("layers.1", "layers.3"), k=2, shared_experts=1)


def toy(tokens, *, seed=0, meta=META, weights=False):
    random = np.random.default_rng(seed)
    shape = (tokens, len(meta.layers), meta.k)
    return RoutingSample(
        random.integers(-1, meta.num_experts, shape),
        random.integers(0, 3, tokens, dtype=np.uint8),
        key=f"k{seed}",
        domain=("math", "", "本")[seed % 3],
        weights=random.random(shape, np.float32) if weights else None,
    )


def same(one, other):
    assert np.array_equal(one.ids, other.ids) and np.array_equal(one.kinds, other.kinds)
    assert (one.key, one.domain) == (other.key, other.domain)
    assert (one.weights is None) == (other.weights is None)
    assert one.weights is None or np.array_equal(one.weights, other.weights)


@pytest.fixture
def folder(tmp_path):
    """A closed trace of samples of 3, 0 and 5 tokens."""
    with TraceWriter(tmp_path / "trace", META) as writer:
        for seed, tokens in enumerate((3, 0, 5)):
            writer.add(toy(tokens, seed=seed))
    return tmp_path / "trace"


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(("num_experts", "dtype"), [(8, "<i2"), (32768, "<i2"), (32769, "<i4")])
def test_what_is_written_comes_back_memory_mapped(num_experts, dtype, weights, tmp_path):
    meta = TraceMeta("toy", num_experts, ("a",), 3, part="decoder")
    samples = [toy(tokens, seed=seed, meta=meta, weights=weights) for seed, tokens in enumerate((4, 0, 9))]
    trace = write_trace(tmp_path / "trace", Recording(meta, samples))
    assert trace.meta == meta and len(trace) == 3 and trace.num_tokens == 13
    for number, sample in enumerate(samples):
        same(trace.sample(number), sample)
    assert trace.sample(0).ids.dtype == np.dtype(dtype) and isinstance(trace.sample(2).ids.base, np.memmap)
    assert (tmp_path / "trace" / "ids.bin").stat().st_size == 13 * 3 * np.dtype(dtype).itemsize
    assert [len(ids) for ids in trace] == [4, 0, 9] and trace.domains == ["math", "", "本"]
    same(write_trace(tmp_path / "copy", trace).sample(2), samples[2])


def test_a_trace_grows_and_grown_in_parts_equals_written_at_once(folder, tmp_path):
    with TraceWriter(folder, META, append=True) as writer:
        writer.add(toy(4, seed=3))
    write_trace(tmp_path / "at once", [toy(n, seed=seed) for seed, n in enumerate((3, 0, 5, 4))], META)
    for name in ("ids.bin", "kinds.bin", "samples.jsonl", "meta.json"):
        assert (folder / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()


def test_selecting_a_kind_gives_runs_of_true_neighbours():
    ids = np.arange(7)[:, None, None] % 8 * np.ones((1, 2, 2), int)
    text, picture = TokenKind.TEXT, TokenKind.PICTURE
    kinds = np.array([picture, picture, text, text, picture, text, picture], np.uint8)
    recording = Recording(META, [RoutingSample(ids, kinds, domain="a"), RoutingSample(ids[:1], kinds[:1], domain="b")])
    runs = [run[:, 0, 0].tolist() for run in recording.select(kind="picture")]
    assert runs == [[0, 1], [4], [6], [0]]
    assert [run[:, 0, 0].tolist() for run in recording.select(kind="picture", domain="a", join=True)] == [[0, 1, 4, 6]]
    assert [len(run) for run in recording.select(kind="generated", join=True)] == [0, 0]
    assert [len(run) for run in recording.select(domain="b")] == [1]


def test_padding_to_one_array_keeps_lengths(folder):
    padded, lengths = Trace(folder).padded()
    assert padded.shape == (3, 5, 2, 2) and lengths.tolist() == [3, 0, 5]
    assert np.array_equal(padded[0, :3], toy(3).ids) and (padded[0, 3:] == -1).all() and (padded[1] == -1).all()


def cut(path, size_bytes):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - size_bytes if size_bytes > 0 else -size_bytes)


@pytest.mark.parametrize(
    ("name", "size_bytes", "whole", "words"),
    [
        ("samples.jsonl", 11, 3, "samples.jsonl has no end line, the writer was not closed"),
        ("samples.jsonl", 1, 3, "line 4 of samples.jsonl is not whole"),
        ("samples.jsonl", 30, 2, "line 3 of samples.jsonl is not whole"),
        ("ids.bin", 1, 2, "ids.bin has 63 bytes, its 3 samples take 64"),
        ("ids.bin", 41, 0, "ids.bin has 23 bytes, its 3 samples take 64"),
        ("kinds.bin", 5, 2, "kinds.bin has 3 bytes, its 3 samples take 8"),
    ],
)
def test_a_cut_trace_is_refused_with_what_is_whole_and_read_on_request(name, size_bytes, whole, words, folder):
    cut(folder / name, size_bytes)
    tokens = (0, 3, 3, 8)[whole]
    with pytest.raises(ValueError, match=f"was cut: {words}.*{whole} samples with {tokens} tokens are whole"):
        Trace(folder)
    trace = Trace(folder, partial=True)
    assert len(trace) == whole and words in trace.missing
    for number in range(whole):
        same(trace.sample(number), toy((3, 0, 5)[number], seed=number))
    with pytest.raises(ValueError, match=r"recover=True cuts it back first.*was cut"):
        TraceWriter(folder, META, append=True)
    with TraceWriter(folder, META, append=True, recover=True) as writer:
        writer.add(toy(6, seed=9))
    mended = Trace(folder)
    mended.verify()
    assert len(mended) == whole + 1
    same(mended.sample(whole), toy(6, seed=9))


def test_data_behind_the_end_and_lines_behind_the_end_are_signs_of_damage(folder):
    with (folder / "ids.bin").open("ab") as file:
        file.write(b"12345678")
    with pytest.raises(ValueError, match=r"ids\.bin goes on for 8 bytes after its end"):
        Trace(folder)
    cut(folder / "ids.bin", 8)
    Trace(folder)
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join([*lines[1:]]))
    with pytest.raises(ValueError, match="it says 3 samples, 2 are there"):
        Trace(folder)


def test_a_changed_byte_is_found_by_its_checksum(folder):
    Trace(folder).verify()
    data = bytearray((folder / "ids.bin").read_bytes())
    data[40] ^= 1
    (folder / "ids.bin").write_bytes(data)
    with pytest.raises(ValueError, match=r"sample 2 \(k2\) has checksum \d+, it was written with \d+"):
        Trace(folder).verify()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts": 16}, "num_experts is 8 there, 16 here"),
        ({"k": 4}, "k is 2 there, 4 here"),
        ({"layers": ("layers.1",)}, r"layers is \('layers.1', 'layers.3'\) there, \('layers.1',\) here"),
        ({"part": "encoder"}, "part is 'model' there, 'encoder' here"),
    ],
)
def test_a_trace_of_another_model_is_not_appended(changes, words, folder):
    with pytest.raises(ValueError, match=words):
        TraceWriter(folder, TraceMeta(**vars(META) | changes), append=True)
    with pytest.raises(ValueError, match="weights are False there, True here"):
        TraceWriter(folder, META, append=True, weights=True)
    with pytest.raises(ValueError, match="already holds a trace; give append=True"):
        TraceWriter(folder, META)
    assert len(Trace(folder)) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": np.zeros((3, 2, 3), int)}, r"sample bad has ids of shape \(3, 2, 3\).*2 layers and k = 2"),
        ({"ids": np.full((3, 2, 2), 8)}, "expert ids from 8 to 8, toy has experts 0 to 7, and -1 where none ran"),
        ({"ids": np.full((3, 2, 2), -2)}, "expert ids from -2 to -2"),
        ({"ids": np.zeros((3, 2, 2))}, "ids of type float64, expert ids are integers"),
        ({"kinds": np.zeros(4, np.uint8)}, "has 3 tokens, but 4 kinds"),
        ({"weights": np.zeros((3, 2, 1), np.float32)}, r"weights of shape \(3, 2, 1\), ids of shape \(3, 2, 2\)"),
        ({"weights": np.zeros((3, 2, 2), np.float32)}, "weights, all or none"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_and_leaves_no_byte(change, words, folder):
    before = (folder / "ids.bin").read_bytes()
    with TraceWriter(folder, META, append=True) as writer, pytest.raises(ValueError, match=words):
        writer.add(RoutingSample(**vars(toy(3)) | {"key": "bad"} | change))
    assert (folder / "ids.bin").read_bytes() == before and len(Trace(folder)) == 3


def test_a_folder_that_is_no_trace_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match=r"is no routing trace: it has no meta\.json"):
        Trace(tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"version": 2}))
    with pytest.raises(ValueError, match="does not say 'mindvl routing trace', version 1"):
        Trace(folder)
    (folder / "meta.json").write_text(json.dumps(meta | {"columns": {"ids": "<i8", "kinds": "|u1"}}))
    with pytest.raises(ValueError, match="columns are"):
        Trace(folder)
    with pytest.raises(ValueError, match="k is 9, but a layer has 8 experts"):
        TraceMeta("toy", 8, ("a",), 9)
    with pytest.raises(ValueError, match="a trace of no layer"):
        TraceMeta("toy", 8, (), 2)
    with pytest.raises(ValueError, match="give meta"):
        write_trace(tmp_path / "new", [toy(1)])
    assert len(write_trace(tmp_path / "empty", [], META)) == 0


def test_the_metrics_take_a_trace_as_it_is(tmp_path):
    from mindvl.routing import segment_routing

    random = np.random.default_rng(0)
    arrays = [random.permuted(np.tile(np.arange(8), (tokens, 2, 1)), axis=-1)[..., :2] for tokens in (9, 5)]
    arrays[0][4, 1, 1] = -1
    samples = [RoutingSample(ids, np.zeros(len(ids), np.uint8)) for ids in arrays]
    options = {"num_experts": 8, "segment_length": 3, "allow_dropped": True}
    from_disk = segment_routing(write_trace(tmp_path / "trace", samples, META), **options)
    np.testing.assert_array_equal(from_disk.srp, segment_routing(arrays, **options).srp)
    assert (from_disk.srp > 0).all()


KILLED = """
import os, sys, numpy as np
from mindvl.routing.sample import RoutingSample, TraceMeta
from mindvl.routing.trace import TraceWriter
meta = TraceMeta("toy", 8, tuple("abcdefgh"), 8)
writer = TraceWriter(sys.argv[1], meta)
number = 0
while True:
    ids = np.full((2000, 8, 8), number % 8)
    writer.add(RoutingSample(ids, np.zeros(2000, np.uint8), str(number)))
    number += 1
    if number == 100:
        print("far enough", flush=True)
"""


def test_a_writer_that_is_killed_leaves_whole_samples_only(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "trace")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    with process:
        assert process.stdout.readline() == b"far enough\n"
        process.send_signal(signal.SIGKILL)
    with pytest.raises(ValueError, match="was cut"):
        Trace(tmp_path / "trace")
    trace = Trace(tmp_path / "trace", partial=True)
    trace.verify()
    assert len(trace) >= 64, "8 MB are 32 of these samples"
    assert all((ids == number % 8).all() for number, ids in enumerate(trace))


STREAMED = """
import resource, sys, numpy as np
from mindvl.routing.sample import RoutingSample, TraceMeta
from mindvl.routing.trace import Trace, TraceWriter
def rss_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = rss_mb()
meta = TraceMeta("toy", 64, ("a", "b"), 4)
random = np.random.default_rng(0)
ids = random.integers(0, 64, (5000, 2, 4), dtype=np.int16)
with TraceWriter(sys.argv[1], meta) as writer:
    for number in range(2000):
        writer.add(RoutingSample(ids, np.zeros(5000, np.uint8)))
written = rss_mb()
trace = Trace(sys.argv[1])
print(len(trace), trace.num_tokens, written - before)
"""


def test_ten_million_tokens_are_written_and_opened_in_little_memory(tmp_path):
    command = [sys.executable, "-c", STREAMED, str(tmp_path / "trace")]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    samples, tokens, grown_mb = run.stdout.split()
    assert (int(samples), int(tokens)) == (2000, 10_000_000)
    assert float(grown_mb) < 60, "160 MB of ids went through"
