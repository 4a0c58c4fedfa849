"""README.md of an exported folder: what it is, how it is opened, where it comes from. Only what was found is said."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mindvl.model.config import MindVLConfig
from mindvl.model.export.classes import TARGETS, VLLM_KEYS
from mindvl.model.export.processor import PICTURES_ALONE
from mindvl.model.export.verifying import Verified


@dataclass(frozen=True)
class Stage:
    """A run, or an average of several (`sources`, with their weights); None and empty where nothing is known."""

    where: str
    phase: str | None
    steps: int | None = None
    sequence_length: int | None = None
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    start_from: str | None = None
    sources: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a card says of an export."""

    checkpoint: str
    to: str
    config: MindVLConfig
    dtype: str
    parameters: Mapping[str, int]
    """Numbers of parameters: vision, projector, language."""
    processor: str | None
    verified: Verified | None
    not_finite: Sequence[str]
    stages: Sequence[Stage]


def card(facts: Facts) -> str:
    """The text of README.md."""
    parts = [_front_matter(facts.to), _what(facts), _how(facts), _proof(facts), _origin(facts), _versions()]
    return "\n\n".join(parts) + "\n"


def _front_matter(to: str) -> str:
    return "\n".join(
        ["---", "library_name: transformers", *([] if to == "split" else ["pipeline_tag: image-text-to-text"]), "---"]
    )


def _what(facts: Facts) -> str:
    config, number = facts.config, facts.parameters
    return (
        "# A MindVL model\n\n"
        f"A vision tower ({config.vision_config.model_type}, {number['vision']:,} parameters), a projector "
        f"({number['projector']:,}) and a language model ({config.text_config.model_type}, {number['language']:,}), in "
        f"{facts.dtype}, exported as {TARGETS[facts.to]}.\n\n"
        f"Pictures keep their aspect ratio; they are brought between {config.min_pixels:,} and {config.max_pixels:,} "
        f"pixels, the budget of training, with sides that are multiples of {config.pixel_factor}."
    )


_WHOLE = """```python
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(FOLDER{options})
processor = AutoProcessor.from_pretrained(FOLDER)
processor.image_processor = AutoImageProcessor.from_pretrained(FOLDER, backend="pil")
messages = [
    {{"role": "user", "content": [{{"type": "image", "path": PICTURE}}, {{"type": "text", "text": QUESTION}}]}}
]
inputs = processor.apply_chat_template(
    [messages], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=64)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```"""

_SPLIT = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

language = AutoModelForCausalLM.from_pretrained(FOLDER + "/language")
tokenizer = AutoTokenizer.from_pretrained(FOLDER + "/language")
```"""


def _how(facts: Facts) -> str:
    lines = ["## Opening it", ""]
    if facts.to == "split":
        lines += [
            "`language` is a language model as any text engine reads it. `vision` holds the tower and, as its merger, "
            "the projector; its output takes the place of the embeddings of "
            f"token {facts.config.image_token_id}.",
            "",
            _SPLIT,
        ]
        return "\n".join(lines)
    options = f", key_mapping={VLLM_KEYS!r}" if facts.to == "vllm" else ""
    lines += [
        "`FOLDER` is this folder, `PICTURE` a file, `QUESTION` a text. No custom code is run.",
        "",
        _WHOLE.format(options=options),
        "",
        '`backend="pil"` resizes as training did; without that line, transformers resizes with torchvision where it is '
        "installed, whose bicubic filter rounds otherwise. Special tokens that a question spells are special to this "
        "processor; MindVL's own reads them as text. Greyscale pictures of 16 bits keep their upper byte in MindVL; "
        "this processor shows all above 255 as white, so convert them first.",
    ]
    if facts.processor == PICTURES_ALONE:
        lines += [
            "",
            f"The processor class is {facts.processor}, which joins Qwen2-VL's image processor to any tokenizer and "
            "takes pictures alone; `mindvl export --videos` names the class's own, which wants torchvision.",
        ]
    else:
        lines += ["", f"The processor class is {facts.processor}; it wants torchvision."]
    if facts.to == "vllm":
        lines += [
            "",
            "The names are those that vLLM's HCXVisionV2ForCausalLM reads in its source; vLLM itself was not run.",
        ]
    return "\n".join(lines)


def _proof(facts: Facts) -> str:
    lines = ["## How it was checked", ""]
    found = facts.verified
    if found is None:
        lines.append("It was **not** checked: the export was made with `--skip-verification`.")
    else:
        lines.append(
            f"transformers opened the folder; {found.num_tensors:,} tensors equal those of the checkpoint bit for bit, "
            f"and the logits of a probe differ from MindVL's by at most {found.difference:.2g} in fp32 (the largest is "
            f"{found.largest_logit:.3g})."
        )
        if found.as_trained is not None:
            lines.append(
                "Both models read the same pixel values there. MindVL as it is trained reads the picture's bytes, "
                f"whose normalisation is a part of its patch embedding; its logits differ by at most "
                f"{found.as_trained:.2g}."
            )
        lines += [f"{remark[0].upper()}{remark[1:]}." for remark in found.remarks]
    if facts.not_finite:
        lines += [
            "",
            f"**{len(facts.not_finite)} tensors hold values that are not finite**, as in the checkpoint; the first is "
            f"`{facts.not_finite[0]}`.",
        ]
    return "\n".join(lines)


def _origin(facts: Facts) -> str:
    lines = ["## Where it comes from", "", f"Exported from `{facts.checkpoint}`."]
    if not facts.stages:
        lines.append("No record of a run was found beside it.")
    for stage in facts.stages:
        lines += ["", *_stage_lines(stage)]
    return "\n".join(lines)


def _stage_lines(stage: Stage) -> list[str]:
    if stage.sources:
        sources = ", ".join(f"`{path}` ({weight:.4g})" for path, weight in stage.sources)
        return [f"- `{stage.where}`: {stage.phase} of {sources}."]
    known = {
        "phase": stage.phase,
        "optimizer steps": stage.steps,
        "sequence length": stage.sequence_length,
        "started from": stage.start_from and f"`{stage.start_from}`",
    }
    facts = "; ".join(f"{name} {value}" for name, value in known.items() if value is not None)
    lines = [f"- `{stage.where}`: {facts or 'its config names nothing'}."]
    if stage.data:
        lines += [
            "",
            "  | source | samples | drawn | epochs | tokens | learnt | images |",
            "  |---|---|---|---|---|---|---|",
        ]
        keys = ("samples", "drawn", "epochs", "tokens", "supervised_tokens", "images")
        lines += [
            f"  | {name} | {' | '.join(_number(its.get(key)) for key in keys)} |" for name, its in stage.data.items()
        ]
    return lines


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else "?"


def _versions() -> str:
    import torch
    import transformers

    from mindvl import __version__

    versions = {"mindvl": __version__, "transformers": transformers.__version__, "torch": torch.__version__}
    return (
        "Versions of the export: "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + (f", Python {platform.python_version()}.")
    )
