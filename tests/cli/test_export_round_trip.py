"""In, trained for no step, and out again: the language model that leaves is the one that came, to the bit."""

import pytest
import torch

from mindvl.cli.export_job import export
from mindvl.model.mindvl import MindVL


@pytest.mark.parametrize("family", ["qwen3-tied", "qwen3-untied", "qwen3_moe", "deepseek_v3", "llama"])
def test_a_split_export_holds_both_sources_to_the_bit(
    family, make_language, make_vision, tensors_of, tokenizer, tmp_path
):
    language, vision = make_language(family, dtype=torch.bfloat16), make_vision(dtype=torch.bfloat16)
    model = MindVL.from_pretrained(vision=str(vision), language=str(language))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", to="split")
    folders = sorted(folder for folder in (tmp_path / "out").iterdir() if folder.is_dir())
    came, left = tensors_of(language), [tensors_of(folder) for folder in folders if list(folder.glob("*.safetensors"))]
    (text,) = [tensors for tensors in left if "model.embed_tokens.weight" in tensors]
    assert text.keys() == came.keys()
    for name, tensor in came.items():
        assert torch.equal(text[name].to(tensor.dtype), tensor), name
    (tower,) = [tensors for tensors in left if tensors is not text]
    sources = {name: it for name, it in tensors_of(vision).items() if "visual." in name}
    assert len(tower) == len(sources)
    for name, tensor in sources.items():
        assert torch.equal(tower[next(own for own in tower if name.endswith(own.removeprefix("vision.")))], tensor), (
            name
        )
