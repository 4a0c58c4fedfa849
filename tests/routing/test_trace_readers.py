"""vLLM's and Megatron-Core's own formats, written here field by field, and what is refused in them."""

import base64
import io
import json

import numpy as np
import pytest

from mindvl.routing.sample import TokenKind
from mindvl.routing.trace_readers import read_megatron, read_vllm, vllm_recording


def choices(tokens, layers=3, k=2, num_experts=8, *, seed=0):
    """Random distinct experts, (tokens, layers, k)."""
    random = np.random.default_rng(seed)
    return random.permuted(np.tile(np.arange(num_experts), (tokens, layers, 1)), axis=-1)[..., :k]


def npy_base64(array):
    with io.BytesIO() as stream:
        np.save(stream, array)
        return base64.b64encode(stream.getvalue()).decode()


def response(ids, *, prompt=None, usage=None, name="cmpl-1"):
    """What the server answers; the fields that the reader uses and some that it does not."""
    one = {"id": name, "object": "text_completion", "model": "m", "usage": usage or {}, "prompt_routed_experts": prompt}
    return one | {"choices": [{"index": 0, "text": "...", "finish_reason": "length", "routed_experts": ids}]}


@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint16", "int32"])
def test_arrays_of_any_integer_type_are_read_from_npz_in_order(dtype, tmp_path):
    arrays = {"b": choices(5, seed=1).astype(dtype), "a": choices(9, seed=2).astype(dtype)}
    np.savez(tmp_path / "run.npz", **arrays)
    recording = read_vllm(tmp_path / "run.npz", num_experts=8)
    assert [recording.sample(number).key for number in range(2)] == ["b", "a"]
    assert all(np.array_equal(*pair) for pair in zip(recording, arrays.values(), strict=True))
    assert recording.meta.layers == ("layers.0", "layers.1", "layers.2") and recording.meta.k == 2
    assert recording.sample(0).ids.dtype == np.int16
    np.save(tmp_path / "one.npy", arrays["a"])
    assert np.array_equal(read_vllm(tmp_path / "one.npy", num_experts=8).sample(0).ids, arrays["a"])


def test_a_servers_response_is_read_and_prompt_told_from_generated_tokens(tmp_path):
    ids = choices(9).astype(np.uint8)
    usage = {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}  # the last token has no row
    lines = [
        response(npy_base64(ids), usage=usage, name="whole"),
        response(npy_base64(ids[6:]), prompt=npy_base64(ids[:6]), usage=usage, name="in two parts"),
        response(ids[6:].tolist(), prompt=ids[:6].tolist(), name="nested lists"),
        response(npy_base64(ids[6:]), usage=usage, name="generated only"),
    ]
    (tmp_path / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recording = read_vllm(tmp_path / "run.jsonl", num_experts=8)
    for number in range(3):
        one = recording.sample(number)
        assert one.key == f"{lines[number]['id']}/0" and np.array_equal(one.ids, ids)
        assert one.kinds.tolist() == [TokenKind.TEXT] * 6 + [TokenKind.GENERATED] * 3
    assert np.array_equal(recording.sample(3).ids, ids[6:])
    (tmp_path / "one.json").write_text(json.dumps(lines[0]))
    assert np.array_equal(read_vllm(tmp_path / "one.json", num_experts=8).sample(0).ids, ids)


def test_layers_of_zeros_are_refused_until_the_moe_layers_are_named():
    ids = choices(5, layers=4)
    ids[:, [0, 2]] = 0
    with pytest.raises(ValueError, match=r"request 0: layers \[0, 2\] hold only zeros.*moe_layers"):
        vllm_recording([ids], num_experts=8)
    recording = vllm_recording([ids], num_experts=8, moe_layers=[1, 3])
    assert recording.meta.layers == ("layers.1", "layers.3")
    assert np.array_equal(recording.sample(0).ids, ids[:, [1, 3]])
    with pytest.raises(ValueError, match="layer 4 was asked for, the array has 4 layers"):
        vllm_recording([ids], num_experts=8, moe_layers=[1, 4])


def test_vllm_output_that_cannot_be_right_is_refused(tmp_path):
    good = choices(5)
    repeated = good.copy()
    repeated[3, 1] = 6
    for arrays, words in (
        ([good, choices(4, layers=2)], r"request 1 has 2 layers and k = 2, requests before it had \(3, 2\)"),
        ([good, choices(4, k=3)], r"request 1 has 3 layers and k = 3"),
        ([repeated], r"token 3 lists an expert twice in layer 1: \[6, 6\]"),
        ([good.astype(float)], r"integers \(tokens, layers, k\), got float64 \(5, 3, 2\)"),
        ([good[:, 0]], r"got int64 \(5, 2\)"),
        ([], "no request with routed experts"),
    ):
        with pytest.raises(ValueError, match=words):
            vllm_recording(arrays, num_experts=8)
    with pytest.raises(ValueError, match=r"expert ids from 0 to 7, vllm has experts 0 to 5"):
        vllm_recording([good], num_experts=6)
    path = tmp_path / "run.jsonl"
    for text, words in (
        (json.dumps(response(None)) + "\n", r"run\.jsonl: cmpl-1/0 has no routed_experts"),
        (json.dumps(response("!!")) + "\n", r"no base64 of a \.npy file"),
        (json.dumps(response([[[1, 2]], [[1]]])) + "\n", "tokens differ in their layers or experts"),
        (json.dumps(response(good.tolist()))[:-20], "line 1 is no whole JSON record, the file ends inside it"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_vllm(path, num_experts=8)
    (tmp_path / "one.json").write_text("{")
    with pytest.raises(ValueError, match=r"one\.json is no whole JSON"):
        read_vllm(tmp_path / "one.json", num_experts=8)
    with pytest.raises(ValueError, match=r"read from \.npy, \.npz, \.json or \.jsonl"):
        read_vllm(tmp_path / "run.txt", num_experts=8)


def record(step, layer, ids, *, rank=0, **more):
    ids = np.asarray(ids)
    one = {"step": step, "stage": "pre_dispatch", "block": "decoder", "layer": layer, "rank": rank}
    return one | {"num_tokens": len(ids), "topk": ids.shape[1], "top_indices": ids.tolist()} | more


def write(path, records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def test_megatron_records_become_one_sample_per_step_and_micro_batch(tmp_path):
    ids = choices(12).reshape(4, 3, 3, 2)  # four micro-batches of three tokens
    records = []
    for step in range(2):
        for chunk in ((1,), (3, 5)):  # interleaved stages: both micro-batches through layer 1, then through 3 and 5
            for micro_batch in range(2):
                for layer in chunk:
                    number = (1, 3, 5).index(layer)
                    records.append(record(step, layer, ids[2 * step + micro_batch, :, number]))
        records.append(record(step, 1, choices(3, layers=1)[:, 0], block="mtp", mtp_idx=0))
    recording = read_megatron(write(tmp_path / "router_trace_rank0.jsonl", records), num_experts=8)
    assert recording.meta.layers == ("decoder.layers.1", "decoder.layers.3", "decoder.layers.5")
    assert np.array_equal(np.stack(list(recording)), ids)
    assert [recording.sample(n).key for n in range(3)] == ["rank0/step0/0.0", "rank0/step0/1.0", "rank0/step1/0.0"]
    mtp = read_megatron(tmp_path / "router_trace_rank0.jsonl", num_experts=8, block="mtp")
    assert mtp.meta.layers == ("mtp.layers.0.1",) and len(mtp) == 2


def test_a_folder_of_older_records_is_read_rank_by_rank_and_rows_are_untangled(tmp_path):
    ids = choices(12).reshape(2, 6, 3, 2)
    for rank in (10, 2):
        old = [record(0, layer, ids[int(rank == 10), :, layer], rank=rank) for layer in range(3)]
        old = [{name: value for name, value in one.items() if name not in ("stage", "block")} for one in old]
        write(tmp_path / f"router_trace_rank{rank}.jsonl", old)
    recording = read_megatron(tmp_path, num_experts=8, micro_batch_size=2)
    assert [recording.sample(n).key for n in (0, 3)] == ["rank2/step0/0.0", "rank10/step0/0.1"]
    assert np.array_equal(recording.sample(0).ids, ids[0, ::2]) and np.array_equal(
        recording.sample(3).ids, ids[1, 1::2]
    )


def test_steps_of_one_generated_sequence_are_joined(tmp_path):
    ids = choices(7)
    steps = (ids[:5], ids[5:6], ids[6:])
    records = [record(step, layer, part[:, layer]) for step, part in enumerate(steps) for layer in range(3)]
    path = write(tmp_path / "router_trace_rank0.jsonl", records)
    assert [len(one) for one in read_megatron(path, num_experts=8)] == [5, 1, 1]
    one = read_megatron(path, num_experts=8, one_sequence=True).sample(0)
    assert np.array_equal(one.ids, ids) and one.kinds.tolist() == [TokenKind.TEXT] * 5 + [TokenKind.GENERATED] * 2


def test_a_megatron_trace_that_cannot_be_right_is_refused(tmp_path):
    ids = choices(4)
    whole = [record(0, layer, ids[:, layer]) for layer in range(3)]
    path = tmp_path / "router_trace_rank0.jsonl"
    uneven = whole[2] | {"top_indices": [[1, 2], [3], [4, 5], [6, 7]]}
    without = {name: value for name, value in whole[2].items() if name != "topk"}
    for records, words in (
        ([*whole, record(1, 0, ids[:, 0])], r"rank0/step1/0 has no record of layers \[\(1,\), \(2,\)\]"),
        (
            [*whole[:2], record(0, 2, choices(4, k=3)[:, 2])],
            r"different numbers of tokens or k: \[\(4, 2\), \(4, 3\)\]",
        ),
        ([*whole, *(record(1, layer, choices(4, k=3)[:, layer]) for layer in range(3))], r"shape \(4, 3, 3\)"),
        ([*whole[:2], uneven], "line 3 lists different numbers of experts per token"),
        (
            [*whole[:2], whole[2] | {"num_tokens": 5}],
            r"line 3 says \(5, 2\) tokens and experts, top_indices are \(4, 2\)",
        ),
        ([*whole[:2], without], "line 3 has no 'topk'"),
        ([*whole[:2], record(0, 2, ids[:, 2] + 70000)], r"expert ids from 0 to 7\d{4}, megatron has experts 0 to 7"),
        ([], "has no record of the decoder"),
    ):
        with pytest.raises(ValueError, match=words):
            read_megatron(write(path, records), num_experts=8)
    path.write_text("".join(json.dumps(one) + "\n" for one in whole)[:-9])
    with pytest.raises(ValueError, match=r"line 3 is no whole JSON record, the file ends inside it"):
        read_megatron(path, num_experts=8)
    with pytest.raises(ValueError, match="has 4 tokens, no multiple of 3 rows"):
        read_megatron(write(path, whole), num_experts=8, micro_batch_size=3)
    with pytest.raises(ValueError, match=r"holds no router_trace_rank<N>\.jsonl"):
        read_megatron(tmp_path / "..", num_experts=8)
