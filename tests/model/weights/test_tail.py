"""A file whose end is zero is refused where no whole file ends so, and is read where one may."""

import pytest
import torch
from safetensors.torch import save_file

from mindvl.model.weights.safetensors_file import read_header


def ones(*shape, zero_from=None, dtype=torch.float32):
    """Ones; zero from a place of the flattened tensor on."""
    tensor = torch.ones(shape, dtype=dtype)
    if zero_from is not None:
        tensor.view(-1)[zero_from:] = 0
    return tensor


def written(path, tensors, *, zero_bytes=0):
    """The file of a copy that reserved its space and lacks its last bytes."""
    save_file(tensors, path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - zero_bytes] + bytes(zero_bytes))
    return path


WIDE = {"layers.0.proj.weight": ones(4, 2048), "layers.1.proj.weight": ones(4, 2048), "norm.weight": ones(2048)}


@pytest.mark.parametrize("zero_bytes", [512, 4096, 8192, 12288, 20000, 40000, 70000])
def test_a_copy_that_was_cut_is_refused_however_little_is_gone(zero_bytes, tmp_path):
    path = written(tmp_path / "model.safetensors", WIDE, zero_bytes=zero_bytes)
    with pytest.raises(
        ValueError,
        match=r"model.safetensors ends in zeros, the last 512 of 8192 bytes of norm.weight among .*; fetch it again",
    ):
        read_header(path)


@pytest.mark.parametrize("behind", [0, 32], ids=["at the end", "before a bias"])
@pytest.mark.parametrize("zero_bytes", [512, 4096, 9000])
@pytest.mark.parametrize("key", ["proj.weight", "lm_head.weight", "embed_tokens.weight"])
def test_a_row_that_breaks_off_is_refused_also_in_a_vocabulary(key, zero_bytes, behind, tmp_path):
    tensors = {"a.weight": ones(4, 4), key: ones(64, 2048)} | ({"z.bias": ones(8)} if behind else {})
    path = written(tmp_path / "model.safetensors", tensors, zero_bytes=zero_bytes + behind)
    with pytest.raises(ValueError, match=f"ends in zeros, the last 512 of 524288 bytes of {key} among them"):
        read_header(path)


def test_a_vocabulary_may_lack_an_eighth_and_no_more(tmp_path):
    heads = {used: {"lm_head.weight": ones(64, 128, zero_from=128 * used)} for used in (56, 55)}
    assert read_header(written(tmp_path / "56.safetensors", heads[56]))
    with pytest.raises(ValueError, match=r"ends in zeros, the last 512 of 32768 bytes of lm_head.weight"):
        read_header(written(tmp_path / "55.safetensors", heads[55]))


def test_a_file_of_zeros_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ends in zeros"):
        read_header(written(tmp_path / "model.safetensors", WIDE, zero_bytes=73728))


FRAMES = ones(6, 3, 2, 14, 14)
FRAMES[:, :, 1] = 0
COLUMNS = ones(8, 512)
COLUMNS[:, 256:] = 0


@pytest.mark.parametrize(
    "tensors",
    [
        {"lm_head.weight": ones(64, 64, zero_from=60 * 64)},
        {"lm_head.weight": ones(64, 2048, zero_from=60 * 2048), "lm_head.z_bias": ones(64, zero_from=60)},
        {"a.weight": ones(8, 8), "z.bias": torch.zeros(1000)},
        {"a.weight": ones(8, 800), "z.bias": ones(1000, zero_from=300)},
        {"only.bias": torch.zeros(1000)},
        {"a.weight": ones(8, 800), "a_proj.lora_B.default.weight": torch.zeros(800, 8)},
        {
            "a.weight": ones(8, 800),
            "b.mask": torch.zeros(64, 64, dtype=torch.bool),
            "c.index": torch.zeros(64, 64).int(),
        },
        {"a.weight": ones(8, 800), "mask_token": torch.zeros(1, 1, 800)},
        {"patch_embed.proj.weight": FRAMES},
        {"up_proj.weight": COLUMNS},
        {
            "a.weight": ones(8, 800),
            "layers.0.input_layernorm.weight": torch.zeros(800),
            "norm.weight": torch.zeros(800),
        },
        {"a.weight": ones(8, 800), "norm.weight": ones(800, zero_from=700)},
        {"a.weight": ones(8, 8, dtype=torch.bfloat16), "norm.weight": torch.ones(8)},
    ],
    ids=[
        *("unused words", "unused words and their biases", "a bias", "half a bias", "nothing but a bias"),
        *("adapters as they start", "masks and indexes", "a token of no use", "a kernel of one frame", "dead columns"),
        *("norms about one", "the end of a norm", "small ones"),
    ],
)
def test_what_is_zero_by_right_is_read(tensors, tmp_path):
    assert read_header(written(tmp_path / "model.safetensors", tensors)).keys() == tensors.keys()


def test_norms_about_one_do_not_hide_a_cut_before_them(tmp_path):
    tensors = {"a.norm.weight": torch.zeros(800), "b.weight": ones(8, 800), "c.norm.weight": torch.zeros(800)}
    assert read_header(written(tmp_path / "whole.safetensors", tensors))
    with pytest.raises(ValueError, match=r"ends in zeros, the last 512 of 25600 bytes of b.weight among them"):
        read_header(written(tmp_path / "cut.safetensors", tensors, zero_bytes=3200 + 600))
