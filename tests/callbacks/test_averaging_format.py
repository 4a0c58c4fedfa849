"""Against the safetensors package: it reads what is laid out here, and what it writes is read here."""

import json

import pytest
import torch
from mindvl_callbacks.averaging_format import TensorFacts, plan_layout, read_layout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

STATE = {
    "b.weight": torch.randn(3, 5),
    "a.bias": torch.arange(7, dtype=torch.bfloat16),
    "mask": torch.tensor([True, False, True]),
    "step": torch.tensor(9),
    "nothing": torch.empty(0, 4),
}


def test_the_packages_files_are_read(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file(STATE, path, metadata={"format": "pt"})
    layout, raw = read_layout(path), path.read_bytes()
    assert layout.metadata == {"format": "pt"} and layout.size_bytes == len(raw)
    assert layout.tensors == {key: TensorFacts(tuple(value.shape), value.dtype) for key, value in STATE.items()}
    for key, value in STATE.items():
        if value.numel():
            held = bytearray(raw[layout.starts_bytes[key] :][: layout.tensors[key].num_bytes])
            assert torch.equal(torch.frombuffer(held, dtype=value.dtype).view(value.shape), value)


def test_the_package_reads_what_is_laid_out_here(tmp_path):
    facts = {key: TensorFacts(tuple(value.shape), value.dtype) for key, value in STATE.items()}
    first, layout = plan_layout(facts, {"format": "pt", "tied": "step"})
    content = bytearray(layout.size_bytes)
    content[: len(first)] = first
    for key, value in STATE.items():
        start, own = layout.starts_bytes[key], value.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert start % value.dtype.itemsize == 0
        content[start : start + len(own)] = own
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    loaded = load_file(path)
    assert loaded.keys() == STATE.keys() and all(torch.equal(loaded[key], STATE[key]) for key in STATE)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "tied": "step"}
    assert read_layout(path) == layout


def damaged(raw, how):
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    if how == "cut":
        return raw[:-1]
    if how == "longer":
        return raw + b"\0"
    if how == "header length":
        return (1 << 40).to_bytes(8, "little") + raw[8:]
    if how == "tiny":
        return raw[:5]
    if how == "no json":
        return raw[:8] + b"x" * length + raw[8 + length :]
    if how == "hole":
        header["b.weight"]["data_offsets"][1] += 4
    elif how == "shape":
        header["b.weight"]["shape"] = [3, 6]
    elif how == "dtype":
        header["b.weight"]["dtype"] = "F4"
    text = json.dumps(header).encode()
    if how == "twice":
        text = text[:-1] + b', "step": ' + json.dumps(header["step"]).encode() + b"}"
    return len(text).to_bytes(8, "little") + text + raw[8 + length :]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "the header wants a file of .* bytes, it has"),
        ("longer", "the header wants a file of .* bytes, it has"),
        ("header length", "cannot hold a header of 1099511627776 bytes"),
        ("tiny", "5 bytes cannot hold a header"),
        ("no json", "the header is no safetensors header"),
        ("hole", r"b\.weight is \(3, 5\) torch\.float32, 60 bytes"),
        ("shape", r"b\.weight is \(3, 6\) torch\.float32, 72 bytes"),
        ("dtype", "the header is no safetensors header: 'F4'"),
        ("twice", "step occurs twice"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(how, message, tmp_path):
    path = tmp_path / "m.safetensors"
    save_file(STATE, path)
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(ValueError, match=message) as refused:
        read_layout(path)
    assert str(refused.value).startswith(str(path))
    if how != "twice":  # the package takes the last of two entries
        with pytest.raises(SafetensorError):
            load_file(path)
