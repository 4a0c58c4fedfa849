"""A file is what its header says, or it is refused with both numbers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mindvl.model.weights.safetensors_file import read_header, read_rows

TENSORS = {
    "a.weight": torch.arange(12.0).reshape(4, 3).add(1),
    "b.weight": torch.arange(6).reshape(3, 2).to(torch.bfloat16).add(1),
    "c.scalar": torch.tensor(7.0),
    "d.flags": torch.tensor([True, False, True]),
}


@pytest.fixture
def file(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_every_tensor_is_read_as_by_the_safetensors_library(file):
    found, expected = read_header(file), load_file(file)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].shape == tuple(tensor.shape) and found[key].dtype == tensor.dtype
        assert torch.equal(read_rows(found[key], 0, tensor.shape[0] if tensor.ndim else 1), tensor), key


def test_rows_are_read_alone(file):
    assert torch.equal(read_rows(read_header(file)["a.weight"], 1, 3), TENSORS["a.weight"][1:3])


@pytest.mark.parametrize(("change", "word"), [(-5, "truncated"), (3, "too long")])
def test_a_file_of_another_length_is_refused_with_both_numbers(change, word, file):
    data = file.read_bytes()
    file.write_bytes(data[:change] if change < 0 else data + bytes(change))
    with pytest.raises(
        ValueError, match=f"{word}: its header says {len(data)} bytes, the file has {len(data) + change}"
    ):
        read_header(file)


def test_a_file_that_ends_within_its_header_is_refused(file):
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"truncated: its header takes \d+ bytes, the file has 20"):
        read_header(file)


def test_a_file_that_shrinks_while_it_is_read_is_noticed(file):
    stored = read_header(file)["a.weight"]
    file.write_bytes(file.read_bytes()[: stored.start_bytes + 8])
    with pytest.raises(ValueError, match=r"ended 40 bytes early"):
        read_rows(stored, 0, 4)


@pytest.mark.parametrize("content", [b"", b"\x04\0\0\0\0\0\0\0[[[[", b"\x02\0\0\0\0\0\0\0[]", b"\x80\x02}q\x00" * 40])
def test_what_is_no_safetensors_file_is_refused(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors is (truncated|no safetensors file)"):
        read_header(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F8_E4M3"}, "dtype F8_E4M3 is not read; known are"),
        ({"shape": [4, 4]}, r"shape \[4, 4\] of F32 does not fill 48 bytes"),
        ({"data_offsets": [4, 52]}, r"a begins at byte \d+, but \d+ is the next free"),
    ],
)
def test_an_entry_that_contradicts_itself_is_refused(change, message, tmp_path):
    entry = {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48], **change}
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\1" * 52)
    with pytest.raises(ValueError, match=message):
        read_header(path)
