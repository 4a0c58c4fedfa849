"""Small real things that tests share: a byte tokenizer, a MindVL of 107,000 parameters, pictures, a rendered corpus,
and folders as they come from the hub, written by transformers itself."""

from __future__ import annotations

import io
import json
import runpy
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from PIL import Image

# Shapes and types of every call into the two packages are checked under tests only; an int may stand for a float.
install_import_hook(
    ["mindvl", "mindvl_callbacks"], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)
torch.set_num_threads(1)


def pytest_configure(config):
    for ours_to_ignore in (
        "ignore:.*LeafSpec.*:FutureWarning",  # Lightning's own, about torch's pytree
        "ignore:.*does not have many workers.*",  # a loader of whole packs needs one
    ):
        config.addinivalue_line("filterwarnings", ours_to_ignore)


VISION = {
    "depth": 3,
    "hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 40,
    "fullatt_block_indexes": [1],
    "window_size": 56,  # 2x2 visual tokens, so that small pictures have several windows
}
LANGUAGE = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
CORPUS = {
    "cell_pixels": 28,
    "samples_per_shard": 20,
    "sources": {
        "ocr": {"family": "ocr_line", "train": 40, "validation": 8, "word_length_chars": [2, 5], "line_words": [1, 2]},
        "counting": {"family": "counting", "train": 20, "validation": 4},
        "text": {
            "family": "ocr_line",
            "text_only": True,
            "train": 20,
            "word_length_chars": [2, 5],
            "line_words": [1, 2],
        },
    },
}
SOURCE_SIZES = {
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 272,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 257,
}
SOURCE_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 12}
SOURCE_DEEPSEEK = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "num_nextn_predict_layers": 0,
}
SOURCES = {
    "qwen3-tied": {"model_type": "qwen3", "head_dim": 12, "tie_word_embeddings": True},
    "qwen3-untied": {"model_type": "qwen3", "head_dim": 12, "tie_word_embeddings": False},
    "qwen3_moe": {"model_type": "qwen3_moe", **SOURCE_EXPERTS},
    "deepseek_v3": {"model_type": "deepseek_v3", **SOURCE_DEEPSEEK},
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
}
SOURCE_TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 40,
    "fullatt_block_indexes": [1],
    "window_size": 56,
    "out_hidden_size": 48,
}


@pytest.fixture(scope="session")
def tokenizer():
    from mindvl.data.tokenizer import byte_tokenizer

    return byte_tokenizer()


@pytest.fixture(scope="session")
def encoder(tokenizer):
    from mindvl.data.chat import ChatEncoder

    return ChatEncoder(tokenizer)


@pytest.fixture(scope="session")
def make_spec():
    """A tiny ModelSpec; keywords replace whole fields, `language` and `vision` are merged into the tiny ones."""
    from mindvl.phases import ModelSpec

    def make(*, language: dict | None = None, vision: dict | None = None, **fields) -> ModelSpec:
        return ModelSpec(
            vision={**VISION, **(vision or {})},
            language={**LANGUAGE, **(language or {})},
            **{"min_pixels": 28 * 28, "max_pixels": 64 * 28 * 28, **fields},
        )

    return make


@pytest.fixture(scope="session")
def make_config(make_spec, tokenizer):
    from mindvl.phases.model_spec import config_of

    return lambda **fields: config_of(make_spec(**fields), tokenizer)


@pytest.fixture(scope="session")
def enlivened():
    """A model in evaluation mode whose weights are large enough that every part of it matters to the result."""

    def draw(model, *, seed: int = 0):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(std=1 / parameter[0].numel() ** 0.5)
                else:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return model.eval()

    return draw


@pytest.fixture(scope="session")
def make_model(make_config, enlivened):
    """A tiny MindVL that is `enlivened`."""
    from mindvl.model.mindvl import MindVL

    return lambda *, seed=0, **fields: enlivened(MindVL(make_config(**fields)), seed=seed)


@pytest.fixture(scope="session")
def run_ranks():
    """Runs a script as two ranks; see tests/ranks.py."""
    return runpy.run_path(str(Path(__file__).with_name("ranks.py")))["run_ranks"]


@pytest.fixture(scope="session")
def picture():
    """PNG bytes of noise, height x width pixels."""

    def draw(height: int, width: int, *, seed: int = 0, format: str = "PNG") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        with io.BytesIO() as stream:
            Image.fromarray(pixels).save(stream, format)
            return stream.getvalue()

    return draw


@pytest.fixture(scope="session")
def conversation(picture):
    """Messages and picture files of one exchange about pictures of the given sizes."""

    def make(question: str, answer: str | None, sizes: tuple[tuple[int, int], ...] = (), *, seed: int = 0):
        content = [{"type": "image"} for _ in sizes] + [{"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return messages, [picture(*size, seed=seed + number) for number, size in enumerate(sizes)]

    return make


@pytest.fixture(scope="session")
def make_sample(conversation, encoder):
    """An encoded sample from a question, an answer and picture sizes."""
    from mindvl.data.sample import PixelBudget, encode_sample

    def make(question: str, answer: str, sizes: tuple[tuple[int, int], ...] = (), *, seed: int = 0):
        messages, images = conversation(question, answer, sizes, seed=seed)
        budget = PixelBudget(28 * 28, 64 * 28 * 28)
        return encode_sample(f"key {question}", "made", messages, images, encoder, budget, supervise="answers")

    return make


@pytest.fixture(scope="session")
def pack():
    """Encoded samples as one pack."""
    from mindvl.data.pack import pack_samples

    return lambda *samples: pack_samples(samples, token_budget=4096, merge=2, window_tokens=2)


@pytest.fixture(scope="session")
def samples(make_sample):
    """Four documents: unequal pictures, two pictures in one document, and none."""
    return [
        make_sample("read it", "abc", ((56, 140),), seed=1),
        make_sample("no picture here", "so be it"),
        make_sample("which is larger?", "the second", ((28, 56), (112, 84)), seed=2),
        make_sample("?", "x", ((84, 28),), seed=5),
    ]


@pytest.fixture(scope="session")
def record():
    """JSON bytes of a conversation of `turns` exchanges with `images` pictures in its first."""

    def make(question: str = "?", answer: str = "a", *, images: int = 0, turns: int = 1) -> bytes:
        messages = []
        for turn in range(turns):
            content = [{"type": "image"}] * (images if turn == 0 else 0) + [{"type": "text", "text": question}]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        return json.dumps({"messages": messages}).encode()

    return make


@pytest.fixture(scope="session")
def write_tar():
    """A tar of (name, bytes) members at a path."""

    def write(path: Path, members: list[tuple[str, bytes]]) -> str:
        with tarfile.open(path, "w") as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return str(path)

    return write


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder of rendered shards: `train/{ocr,counting,text}-*.tar`, `validation/{ocr,counting}-*.tar`."""
    from mindvl.data.render.writer import render

    folder = tmp_path_factory.mktemp("corpus")
    render(CORPUS, folder, workers=1)
    return folder


def randomise(model, seed: int) -> None:
    """Values that differ everywhere: a fresh model's norms and biases are all alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for n, b in model.named_buffers() if n.endswith("correction_bias"))]:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)


@pytest.fixture(scope="session")
def make_language(tmp_path_factory, tokenizer):
    """Folder of a small causal language model; made once per set of arguments, so do not write into it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    made: dict[str, Path] = {}

    def make(family: str, *, dtype: torch.dtype = torch.float32, shards: bool = False, **fields) -> Path:
        key = json.dumps([family, str(dtype), shards, fields])
        if key not in made:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SOURCE_SIZES | SOURCES[family] | fields))
            randomise(model, seed=len(made))
            made[key] = tmp_path_factory.mktemp(family)
            model.to(dtype).save_pretrained(made[key], max_shard_size="60KB" if shards else "50GB")
            tokenizer.save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def make_vision(tmp_path_factory):
    """Folder of a small Qwen2.5-VL whose language model nobody asks for."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    made: dict[str, Path] = {}

    def make(*, dtype: torch.dtype = torch.float32, **fields) -> Path:
        key = json.dumps([str(dtype), fields])
        if key not in made:
            vision = {**SOURCE_TOWER, **fields}
            text = {**SOURCE_SIZES, "hidden_size": vision["out_hidden_size"], "pad_token_id": None}
            text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
            model = Qwen2_5_VLForConditionalGeneration(
                Qwen2_5_VLConfig(vision_config=vision, text_config=text, image_token_id=262, video_token_id=264)
            )
            randomise(model, seed=100 + len(made))
            made[key] = tmp_path_factory.mktemp("qwen2_5_vl")
            model.to(dtype).save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def tensors_of():
    """All tensors of a folder, by safetensors' own reader."""
    from safetensors.torch import load_file

    return lambda folder: {
        key: it for file in sorted(folder.glob("*.safetensors")) for key, it in load_file(file).items()
    }


@pytest.fixture(scope="session")
def asset():
    """The folder of a real tokenizer or model that `make assets` has fetched."""

    def find(name: str) -> Path:
        folder = Path(__file__).parents[1] / ".assets" / name
        if not folder.is_dir():
            pytest.skip(f"no {folder}: run `make assets`")
        return folder

    return find
