"""MindVL: a native-resolution vision tower, a projector and a causal language model (arXiv 2509.11662)."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from mindvl.batch import ImageGrid, PackedBatch
from mindvl.model.attention import register_packed_attention
from mindvl.model.config import MindVLConfig
from mindvl.model.joining import join, placeholder_positions
from mindvl.model.moe import register_grouped_experts, replace_routers
from mindvl.model.operators import replace_operators
from mindvl.model.vision import VisionTower, vision_inputs
from mindvl.ops.loss import summed_cross_entropy


class MindVL(PreTrainedModel, GenerationMixin):
    """A forward pass in four sentences.

    1. The tower turns the patches of all pictures into one feature per 28x28 pixels, whatever their sizes.
    2. The token embeddings at placeholder positions are replaced by these features.
    3. The language model reads the result with 1-D positions, each document on its own.
    4. In training, the summed cross-entropy of supervised positions comes back; in generation, logits.
    """

    config_class = MindVLConfig
    base_model_prefix = "mindvl"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["Qwen2_5_VLVisionBlock"]  # noqa: RUF012

    def __init__(self, config: MindVLConfig):
        super().__init__(config)
        text_config = copy.deepcopy(config.text_config)
        self.vision = VisionTower(config.vision_config, image_mean=config.image_mean, image_std=config.image_std)
        self.language_model = AutoModelForCausalLM.from_config(
            text_config,
            attn_implementation=register_packed_attention(),
            experts_implementation=register_grouped_experts(text_config),
        )
        replace_operators(self)
        replace_routers(self.language_model)
        self._tied_weights_keys = {
            f"language_model.{name}": f"language_model.{source}"
            for name, source in (getattr(self.language_model, "_tied_weights_keys", None) or {}).items()
        }
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Both parts have initialised their own weights when they were built."""

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    @property
    def merge(self) -> int:
        """Patches per side of a merge block."""
        return self.config.vision_config.spatial_merge_size

    def embed(self, batch: PackedBatch) -> Float[Tensor, "tokens dim"]:
        """Token embeddings of a pack with visual features in place."""
        embeddings = self.get_input_embeddings()(batch.input_ids)
        if batch.vision is not None:
            return join(embeddings, self.vision(batch.vision), batch.image_index)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return embeddings + self._tower_without_pictures(batch.input_ids.device).to(embeddings.dtype)
        return embeddings

    def _tower_without_pictures(self, device: torch.device) -> Float[Tensor, ""]:
        """Zero, from one blank visual token: ranks wait for each other in every module, so all must run the tower."""
        vision = self.config.vision_config
        blank = torch.zeros(self.merge**2, vision.in_channels * vision.patch_size**2, dtype=torch.uint8, device=device)
        grid = ImageGrid(1, self.merge, self.merge)
        inputs = vision_inputs(blank, [grid], merge=self.merge, window_tokens=self.config.window_tokens)
        return 0 * self.vision(inputs).sum()

    def hidden_states(self, batch: PackedBatch) -> Float[Tensor, "tokens dim"]:
        """Last hidden states of the language model over a pack."""
        return self.language_model.base_model(
            inputs_embeds=self.embed(batch)[None],
            position_ids=batch.position_ids[None],
            use_cache=False,
            segment_lengths=batch.doc_lengths,
        ).last_hidden_state[0]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values=None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        packed: PackedBatch | None = None,
        **kwargs,
    ) -> ModelOutput:
        """With `packed`: `loss` is the summed cross-entropy of the pack. Without: logits of padded rows.

        `pixel_values` holds the patches of all rows' pictures in reading order, `image_grid_thw` (images, 3) their
        grids; both are used in the first step of a generation only.
        """
        if packed is not None:
            loss = summed_cross_entropy(
                self.hidden_states(packed), self.get_output_embeddings(), packed.supervised_index, packed.targets
            )
            return CausalLMOutputWithPast(loss=loss)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            if pixel_values is not None:
                inputs_embeds = self._join_pictures(input_ids, inputs_embeds, pixel_values, image_grid_thw)
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def _join_pictures(self, input_ids, embeddings, pixel_values, image_grid_thw):
        grids = [ImageGrid(*grid) for grid in image_grid_thw.tolist()]
        inputs = vision_inputs(pixel_values, grids, merge=self.merge, window_tokens=self.config.window_tokens)
        index = placeholder_positions(input_ids, grids, image_token_id=self.config.image_token_id, merge=self.merge)
        return join(embeddings, self.vision(inputs), index)


AutoConfig.register("mindvl", MindVLConfig)
AutoModel.register(MindVLConfig, MindVL)
AutoModelForCausalLM.register(MindVLConfig, MindVL)
