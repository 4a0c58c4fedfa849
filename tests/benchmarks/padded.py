"""The rival: an ordinary transformers training loop over batches that are padded to their longest conversation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from mindvl.data.sample import EncodedSample
from mindvl.model.mindvl import MindVL


@dataclass
class PaddedBatch:
    """What a processor and a collator make of a few conversations, before the clock starts."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    is_image: Tensor
    pixel_values: Tensor | None
    grid_thw: Tensor | None


class PaddedLoop:
    """Stock tower and stock language model, both with sdpa, holding the weights of a MindVL."""

    def __init__(self, model: MindVL):
        config = copy.deepcopy(model.config)
        self.config = config
        self.tower = Qwen2_5_VisionTransformerPretrainedModel._from_config(
            config.vision_config, attn_implementation="sdpa"
        ).train()
        self.language = AutoModelForCausalLM.from_config(config.text_config, attn_implementation="sdpa").train()
        self.tower.load_state_dict(model.vision.state_dict(), strict=True)
        self.language.load_state_dict(model.language_model.state_dict(), strict=True)

    def batches(self, samples: Sequence[EncodedSample], *, batch_size: int) -> list[PaddedBatch]:
        """Batches in the order of the samples, as a shuffling DataLoader hands them out."""
        starts = range(0, len(samples), batch_size)
        return [self._collate(samples[start : start + batch_size]) for start in starts]

    def step(self, batch: PaddedBatch) -> float:
        """Forward and backward pass; gradients are added up. Returns the summed loss."""
        embeddings = self.language.get_input_embeddings()(batch.input_ids)
        if batch.pixel_values is not None:
            features = self.tower(batch.pixel_values, grid_thw=batch.grid_thw).pooler_output
            embeddings = embeddings.masked_scatter(batch.is_image[..., None].expand_as(embeddings), features)
        loss = self.language(
            inputs_embeds=embeddings,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            use_cache=False,
            num_items_in_batch=1,  # transformers' way to ask for the sum
        ).loss
        loss.backward()
        return loss.item()

    def zero_grad(self) -> None:
        self.tower.zero_grad()
        self.language.zero_grad()

    def _collate(self, samples: Sequence[EncodedSample]) -> PaddedBatch:
        longest = max(len(sample.input_ids) for sample in samples)
        ids = np.zeros((len(samples), longest), np.int64)
        mask = np.zeros_like(ids)
        labels = np.full_like(ids, -100)
        for row, sample in enumerate(samples):
            length = len(sample.input_ids)
            ids[row, :length], mask[row, :length] = sample.input_ids, 1
            learnt = np.flatnonzero(sample.targets >= 0)
            labels[row, learnt + 1] = sample.targets[learnt]  # the stock loss shifts labels itself
        patches = [sample.patches for sample in samples]
        grids = [(grid.frames, grid.height, grid.width) for sample in samples for grid in sample.grids]
        ids = torch.from_numpy(ids)
        return PaddedBatch(
            input_ids=ids,
            attention_mask=torch.from_numpy(mask),
            labels=torch.from_numpy(labels),
            is_image=ids == self.config.image_token_id,
            pixel_values=self._normalised(np.concatenate(patches)) if patches else None,
            grid_thw=torch.tensor(grids) if grids else None,
        )

    def _normalised(self, patches: np.ndarray) -> Tensor:
        """Bytes (patches, 3*14*14) as transformers' processor gives them: normalised floats, each picture twice."""
        channels = torch.from_numpy(patches).view(len(patches), 3, -1).float() / 255
        mean, std = (torch.tensor(values)[:, None] for values in (self.config.image_mean, self.config.image_std))
        still = (channels - mean) / std
        return still[:, :, None].expand(-1, -1, 2, -1).reshape(len(patches), -1)
