"""An export is opened again by transformers' auto classes before anybody sees it, and must be the same model.

Three things are compared. The tensors: every one of the opened model, stacked experts included, with the elements of
the checkpoint that it came from, bit for bit. The inputs: what the folder's processor makes of a conversation with a
picture, with what MindVL trained on. The logits of that conversation, in fp32, twice:

    both models read the processor's pixel values     the models differ by the rounding of a few operators (RMSNorm,
                                                      rotary embeddings, experts), at most 1e-5 for small models
    MindVL reads bytes, as it is trained              the normalisation is folded into a matrix product besides, which
                                                      rounds otherwise than the convolution

`ALLOWED_RATIO` of the largest logit is the most that passes.

One model is in memory at a time: MindVL's logits are kept, then it makes room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mindvl.model.config import MindVLConfig
from mindvl.model.export.classes import VLLM_KEYS, has_stock_tower
from mindvl.model.export.tensors import Given, Run, Weights, Written, blocks, runs_in_files
from mindvl.model.mindvl import MindVL

ALLOWED_RATIO = 1e-4


@dataclass(frozen=True)
class Probe:
    """A conversation with a picture, and what MindVL reads of it.

    `messages` hold the decoded picture. `input_ids` is one row with widened placeholders, `patches` holds bytes, `grid`
    is one row of frames, height and width in patches.
    """

    messages: list[dict[str, Any]]
    input_ids: Tensor
    patches: Tensor
    grid: Tensor


@dataclass(frozen=True)
class Verified:
    """What was found: the largest difference of a logit, the largest logit, and how many tensors were compared."""

    difference: float
    """Of the two models on the same pixel values."""
    largest_logit: float
    num_tensors: int
    remarks: tuple[str, ...] = ()
    as_trained: float | None = None
    """Where MindVL reads the picture as bytes; None for a text."""


@dataclass(frozen=True)
class OwnLogits:
    """MindVL's logits of the probe."""

    same_inputs: Tensor
    """From what the stock model is given too."""
    as_trained: Tensor | None
    """From the picture's bytes; None for a text."""


def filled_model(weights: Weights, runs: Mapping[str, Run], config: MindVLConfig) -> MindVL:
    """The MindVL of a checkpoint in fp32, filled block by block."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = MindVL(config)
    model.tie_weights()  # a part of the initialisation that is left out
    model = model.float().eval()
    state = model.state_dict()
    places = runs_in_files(state)
    with torch.no_grad():
        for name, run in runs.items():
            target, first = state[places[name].source].view(-1), places[name].start
            for start, stop in blocks(run.num_elements):
                target[first + start : first + stop] = weights.read(run.source, run.start + start, run.start + stop)
    return model


@torch.inference_mode()
def mindvl_logits(model: MindVL, probe: Probe, pixels: Tensor | None) -> OwnLogits:
    """MindVL's logits of the probe with its picture as `pixels`, normalised values, and as bytes.

    Without `pixels` they are those of its text alone, with the placeholders read as words.
    """

    def logits(pixels: Tensor | None) -> Tensor:
        pictures = {} if pixels is None else {"pixel_values": pixels, "image_grid_thw": probe.grid}
        return model(input_ids=probe.input_ids, use_cache=False, **pictures).logits.float()

    return OwnLogits(logits(pixels), None if pixels is None else logits(probe.patches))


def verify_whole(
    folder: Path, to: str, probe: Probe, ours: OwnLogits, written: Mapping[str, Written], weights: Weights
) -> Verified:
    """Open a folder with the auto classes for pictures and text. ValueError says what differs."""
    from transformers import AutoModelForImageTextToText

    inputs, remarks = processed(folder, probe)
    keys = {"key_mapping": VLLM_KEYS} if to == "vllm" else {}
    model = _opened(AutoModelForImageTextToText, folder, **keys)
    _check_tensors(model, {loaded_name(name, to): it for name, it in written.items()}, weights)
    with torch.inference_mode():
        logits = model(**inputs, use_cache=False).logits.float()
    return _compared(ours, logits, len(written), remarks)


def verify_split(
    folders: tuple[Path, Path],
    config: MindVLConfig,
    probe: Probe,
    ours: OwnLogits,
    written: tuple[Mapping[str, Written], ...],
    weights: Weights,
) -> Verified:
    """Open tower and language model, each with its auto class, join their outputs by hand, and compare.

    A tower that transformers does not have is compared file against checkpoint; then the probe is its text alone.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    features = None
    if has_stock_tower(config):
        tower = _opened(AutoModel, folders[0])
        _check_tensors(tower, written[0], weights)
        pixels = pixel_values(probe.patches, config)
        with torch.inference_mode():
            features = tower(pixels, grid_thw=probe.grid).pooler_output
        del tower
    else:
        _check_files(folders[0], written[0], weights)
    language = _opened(AutoModelForCausalLM, folders[1])
    _check_tensors(language, written[1], weights)
    with torch.inference_mode():
        embeddings = language.get_input_embeddings()(probe.input_ids)
        if features is not None:
            embeddings[probe.input_ids == config.image_token_id] = features
        logits = language(inputs_embeds=embeddings, use_cache=False).logits.float()
    remarks = () if features is not None else ("the tower was compared tensor by tensor, the logits are of a text",)
    return _compared(ours, logits, sum(map(len, written)), remarks)


def loaded_name(name: str, to: str) -> str:
    """The name that the opened model gives to a tensor of the files."""
    renamed = {
        "hf": {},
        "hf-hyperclovax": {
            "model.language_model.lm_head.": "lm_head.",
            "model.vision_projector.": "model.projector.",
        },
        "vllm": {
            "model.language_model.lm_head.": "lm_head.",
            "model.language_model.model.": "model.language_model.",
            "model.mm_projector.": "model.projector.",
        },
    }[to]
    prefix = next((prefix for prefix in renamed if name.startswith(prefix)), None)
    return name if prefix is None else renamed[prefix] + name.removeprefix(prefix)


def pixel_values(patches: Tensor, config: MindVLConfig) -> Tensor:
    """Bytes of still patches as transformers' processor hands them over: normalised, and each frame twice."""
    vision = config.vision_config
    pixels = patches.float().unflatten(1, (3, 1, vision.patch_size**2))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.image_mean, config.image_std))
    return ((pixels / 255 - mean) / std).expand(-1, -1, vision.temporal_patch_size, -1).flatten(1)


def _opened(auto: Any, folder: Path, **options: Any) -> nn.Module:
    """A model in fp32, every tensor of the files in its place and none without."""
    model, found = auto.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True, **options
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[kind]:
            raise ValueError(f"{type(model).__name__} reports {len(found[kind])} {kind}: {sorted(found[kind])[:3]}")
    return model.eval()


def _check_tensors(model: nn.Module, written: Mapping[str, Written], weights: Weights) -> None:
    """Every tensor of an opened model against the checkpoint, which is read again."""
    state = model.state_dict()
    places = runs_in_files(state)
    for name, its in written.items():
        place = places[name]
        held = state[place.source].reshape(-1)[place.start : place.start + place.num_elements]
        _check_equal(name, its, weights, held)


def _check_files(folder: Path, written: Mapping[str, Written], weights: Weights) -> None:
    """Every tensor of a folder's files against the checkpoint, where no class of transformers opens it."""
    from safetensors import safe_open

    found = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (the file's method, it is no mapping)
                _check_equal(name, written[name], weights, tensors.get_tensor(name).reshape(-1))
                found.add(name)
    if found != set(written):
        raise ValueError(f"{folder} lacks {sorted(set(written) - found)[:3]}")


def _check_equal(name: str, its: Written, weights: Weights, held: Tensor) -> None:
    for start, stop in blocks(held.numel()):
        if isinstance(its, Given):
            source = its.value.reshape(-1)[start:stop]
        else:
            source = weights.read(its.source, its.start + start, its.start + stop)
        if not _same(held[start:stop], source.to(held.dtype)):  # widened to fp32 a number keeps its value
            raise ValueError(
                f"{name}: elements {start} to {stop} of the exported tensor are not those of the checkpoint"
            )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all values are equal; NaN is equal to NaN here."""
    missing = one.isnan()
    return torch.equal(one, other) or bool(
        torch.equal(missing, other.isnan()) and torch.equal(one[~missing], other[~missing])
    )


def processed(folder: Path, probe: Probe) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The probe as the folder's own processor makes it, checked against ours, and what could not be looked at."""
    from transformers import AutoImageProcessor, AutoProcessor

    remarks: tuple[str, ...] = ()
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except ImportError:
        remarks = ("its processor was not opened: it takes videos and wants torchvision",)
        pictures = [part["image"] for message in probe.messages for part in message["content"] if "image" in part]
        made = dict(pixels(pictures, return_tensors="pt"), input_ids=probe.input_ids)
    else:
        processor.image_processor = pixels  # also where torchvision is installed, whose filter rounds otherwise
        made = dict(
            processor.apply_chat_template(
                [probe.messages], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        )
    if not torch.equal(made["input_ids"], probe.input_ids):
        raise ValueError(
            f"the folder's processor makes {made['input_ids'].shape[1]} tokens of the probe, "
            f"{made['input_ids'][0, :8].tolist()} ..., MindVL's {probe.input_ids.shape[1]}, "
            f"{probe.input_ids[0, :8].tolist()} ...; the tokenizer adds tokens of its own, or its chat template differs"
        )
    if not torch.equal(made["image_grid_thw"], probe.grid):
        raise ValueError(
            f"the folder's processor cuts the probe's picture into {made['image_grid_thw'].tolist()} patches "
            f"(frames, height, width), MindVL's into {probe.grid.tolist()}"
        )
    return made, remarks


def _compared(ours: OwnLogits, theirs: Tensor, num_tensors: int, remarks: tuple[str, ...]) -> Verified:
    same, trained = ours.same_inputs, ours.as_trained
    finite = same.isfinite()
    if not torch.equal(finite, theirs.isfinite()):
        raise ValueError(f"{int((finite != theirs.isfinite()).sum())} logits are finite in one of the two models alone")
    if not finite.any():
        return Verified(float("nan"), float("nan"), num_tensors, (*remarks, "no logit is finite"))
    largest = float(same[finite].abs().max())
    difference = float((same - theirs)[finite].abs().max())
    as_trained = None if trained is None else float((trained - theirs)[finite].abs().max())
    for found, inputs in ((difference, ""), (as_trained, ", which reads the picture's bytes,")):
        if found is not None and not found <= ALLOWED_RATIO * max(1.0, largest):
            raise ValueError(
                f"logits of the exported model differ from MindVL's{inputs} by up to {found:.3g}; the largest is "
                f"{largest:.3g} and {ALLOWED_RATIO:g} of it is allowed"
            )
    return Verified(difference, largest, num_tensors, remarks, as_trained)
