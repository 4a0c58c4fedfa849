"""Whatever holds routing is opened by what it is, and what holds none is refused in one line."""

import json

import numpy as np
import pytest

from mindvl.routing.opening import open_routing
from mindvl.routing.sample import Recording, RoutingSample, TraceMeta
from mindvl.routing.trace import write_trace

IDS = np.array([[[0, 1], [2, 3]], [[1, 2], [3, 0]]])


@pytest.fixture
def ours(tmp_path):
    meta = TraceMeta("toy", 4, ("a", "b"), 2)
    write_trace(tmp_path / "ours", Recording(meta, [RoutingSample(IDS, np.zeros(2, np.uint8))] * 2))
    return tmp_path / "ours"


def megatron(folder):
    records = [
        {"step": 0, "layer": layer, "rank": 0, "num_tokens": 2, "topk": 2, "top_indices": IDS[:, layer].tolist()}
        for layer in range(2)
    ]
    file = folder / "router_trace_rank0.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_our_own_trace_says_itself_how_many_experts_it_has(ours):
    assert open_routing(ours).meta.num_experts == 4


def test_a_cut_trace_is_read_only_when_that_is_asked_for(ours):
    with (ours / "ids.bin").open("r+b") as file:
        file.truncate(20)
    with pytest.raises(ValueError, match="was cut"):
        open_routing(ours)
    assert len(open_routing(ours, partial=True)) == 1


@pytest.mark.parametrize("kind", ["file", "folder", "npz", "npy"])
def test_foreign_traces_are_told_apart_and_read(kind, tmp_path):
    path = megatron(tmp_path) if kind in ("file", "folder") else tmp_path / f"routing.{kind}"
    if kind == "npz":
        np.savez(path, first=IDS)
    elif kind == "npy":
        np.save(path, IDS)
    found = open_routing(tmp_path if kind == "folder" else path, num_experts=4)
    assert [ids.tolist() for ids in found] == [IDS.tolist()]


def test_a_jsonl_of_responses_is_vllms(tmp_path):
    file = tmp_path / "responses.jsonl"
    file.write_text(json.dumps({"id": "x", "choices": [{"index": 0, "routed_experts": IDS.tolist()}]}) + "\n")
    assert [ids.tolist() for ids in open_routing(file, num_experts=4)] == [IDS.tolist()]


def test_a_cut_line_of_megatron_is_named(tmp_path):
    file = megatron(tmp_path)
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match="line 2 is no whole JSON record"):
        open_routing(file, num_experts=4)


def test_foreign_traces_need_the_number_of_experts(tmp_path):
    with pytest.raises(ValueError, match="foreign trace, which does not say how many experts"):
        open_routing(megatron(tmp_path))


def test_what_is_no_trace_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path, words in (
        (tmp_path / "nowhere", "there is no trace at"),
        (tmp_path, "holds no routing trace: neither meta.json nor"),
        (tmp_path / "notes.txt", "is no routing trace: a folder, or a file of"),
    ):
        with pytest.raises(ValueError, match=words):
            open_routing(path, num_experts=4)


def test_a_folder_of_two_stacks_asks_for_one(ours, tmp_path):
    both = tmp_path / "both"
    for part in ("encoder", "decoder"):
        write_trace(both / part, open_routing(ours))
    with pytest.raises(ValueError, match="holds two traces, encoder and decoder: name one"):
        open_routing(both)
    assert len(open_routing(both / "encoder")) == 2
