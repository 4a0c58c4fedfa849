"""MindVL: a native-resolution vision tower, a projector and a causal language model (arXiv 2509.11662)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from mindvl.batch import ImageGrid, PackedBatch, VisionInputs
from mindvl.model.attention import register_packed_attention
from mindvl.model.config import MindVLConfig
from mindvl.model.joining import join, placeholder_positions
from mindvl.model.moe import register_grouped_experts, replace_routers
from mindvl.model.operators import replace_operators
from mindvl.model.settings import dtype_of, without_autos
from mindvl.model.sharing import check_tower, own_share, whole_losses
from mindvl.model.towers import build_tower
from mindvl.model.vision import vision_inputs
from mindvl.ops.exchange import sum_over_ranks
from mindvl.ops.loss import cross_entropies, summed_cross_entropy


class PictureBalance(Protocol):
    """What `mindvl.parallel.vision_balance` does for a model."""

    def move(self, vision: VisionInputs | None, device: torch.device) -> Any:
        """This rank's part of a balanced step, `inputs` and `give_back`; None where all ranks keep their own."""

    def report(self) -> dict[str, float]:
        """Numbers to log of the packs since the last report."""


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
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: MindVLConfig):
        super().__init__(config)
        text_config = copy.deepcopy(config.text_config)
        self.vision = build_tower(config.vision_config, image_mean=config.image_mean, image_std=config.image_std)
        self.language_model = AutoModelForCausalLM.from_config(
            text_config,
            attn_implementation=register_packed_attention(),
            experts_implementation=register_grouped_experts(text_config),
        )
        self.context: dist.ProcessGroup | None = None
        """Ranks that share the tokens and patches of each pack."""
        self.picture_balance: PictureBalance | None = None
        """Moves pictures to ranks whose packs hold fewer."""
        replace_operators(self)
        replace_routers(self.language_model)
        self._tied_weights_keys = {
            f"language_model.{name}": f"language_model.{source}"
            for name, source in (getattr(self.language_model, "_tied_weights_keys", None) or {}).items()
        }
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        *,
        vision: str | Path | dict[str, Any] | None = None,
        language: str | Path | dict[str, Any] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        **settings: Any,
    ) -> MindVL:
        """A saved MindVL from its folder, or one assembled of a vision tower and a language model from elsewhere.

        Assembled, `vision` and `language` are hub ids, folders, "random", or fields with `pretrained` among them; see
        `mindvl.model.weights.assembly`. `tokenizer` is the language model's own by default; where that has no vision
        tokens it gets them, as `mindvl.data.tokenizer.load_tokenizer` gives it them, and the embedding grows.

        Every tensor has to be there, in its shape, and no other. `dtype` is as saved, or the language model's, by
        default; `settings` are the pixel fields of MindVLConfig, and what `mindvl.model.settings` lists. Comes back in
        evaluation mode. ValueError says what does not fit, and names what it does not know.
        """
        from mindvl.model.building import assemble, reopen

        wanted, others = dtype_of(dtype, torch_dtype), without_autos(settings)
        if folder is not None and vision is None and language is None:
            return reopen(folder, tokenizer, dtype=wanted, **others)
        if folder is not None or vision is None or language is None:
            raise ValueError("from_pretrained takes either a folder, or both vision=... and language=...")
        return assemble(vision, language, tokenizer, dtype=wanted, **others)

    def _init_weights(self, module: nn.Module) -> None:
        """Both parts have initialised their own weights when they were built."""

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def share_packs(self, context: dist.ProcessGroup | None) -> None:
        """Let each rank of a group compute its part of every pack; all of them must be given the same packs.

        ValueError where the tower cannot.
        """
        if context is not None:
            check_tower(self.vision, dist.get_world_size(context))
        self.context = context

    @property
    def merge(self) -> int:
        """Patches per side of a merge block."""
        return self.config.vision_config.spatial_merge_size

    def embed(self, batch: PackedBatch) -> Float[Tensor, "tokens dim"]:
        """Token embeddings of a pack with visual features in place."""
        embeddings = self.get_input_embeddings()(batch.input_ids)
        moved = None if self.picture_balance is None else self.picture_balance.move(batch.vision, embeddings.device)
        if moved is not None:
            seen = self._blank_picture(embeddings.device) if moved.inputs is None else moved.inputs
            features = self.vision(seen)[: None if moved.inputs is not None else 0]
            return join(embeddings, moved.give_back(features), batch.image_index)
        if batch.vision is not None:
            return join(embeddings, self.vision(batch.vision), batch.image_index)
        several_ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
        if several_ranks or (torch.is_grad_enabled() and not embeddings.requires_grad):
            return embeddings + self._tower_without_pictures(batch.input_ids.device).to(embeddings.dtype)
        return embeddings

    def _tower_without_pictures(self, device: torch.device) -> Float[Tensor, ""]:
        """Zero, from one blank visual token: ranks wait for each other in every module, so all must run the tower.

        Also where the projector alone trains: the loss of a pack without pictures must have a gradient, though it is 0.
        """
        return 0 * self.vision(self._blank_picture(device)).sum()

    def _blank_picture(self, device: torch.device) -> VisionInputs:
        """Of one visual token."""
        vision = self.config.vision_config
        blank = torch.zeros(self.merge**2, vision.in_channels * vision.patch_size**2, dtype=torch.uint8, device=device)
        grid = ImageGrid(1, self.merge, self.merge)
        return vision_inputs(blank, [grid], merge=self.merge, window_tokens=self.config.window_tokens)

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
        each_loss: bool = False,
        **kwargs,
    ) -> ModelOutput:
        """With `packed`: `loss` is the summed cross-entropy of the pack, or with `each_loss` that of each supervised
        position, without gradients. Without: logits of padded rows.

        Ranks that share the pack all get the loss of the whole; backward, each follows its own part of it, and the sum
        of their gradients is the pack's.

        `pixel_values` holds the patches of all rows' pictures and videos in reading order, `image_grid_thw` (images, 3)
        their grids; both are used in the first step of a generation only.
        """
        if packed is not None:
            return CausalLMOutputWithPast(loss=self._packed_loss(packed, each=each_loss))
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

    def _packed_loss(self, batch: PackedBatch, *, each: bool) -> Tensor:
        own = batch if self.context is None else own_share(batch, self.context, merge=self.merge)
        loss_of = cross_entropies if each else summed_cross_entropy
        loss = loss_of(self.hidden_states(own), self.get_output_embeddings(), own.supervised_index, own.targets)
        if self.context is None:
            return loss
        return whole_losses(loss, batch, self.context) if each else sum_over_ranks(loss, self.context)

    def _join_pictures(self, input_ids, embeddings, pixel_values, image_grid_thw):
        grids = [ImageGrid(*grid) for grid in image_grid_thw.tolist()]
        inputs = vision_inputs(pixel_values, grids, merge=self.merge, window_tokens=self.config.window_tokens)
        index = placeholder_positions(
            input_ids,
            grids,
            image_token_id=self.config.image_token_id,
            video_token_id=self.config.video_token_id,
            merge=self.merge,
        )
        return join(embeddings, self.vision(inputs), index)


AutoConfig.register("mindvl", MindVLConfig)
AutoModel.register(MindVLConfig, MindVL)
AutoModelForCausalLM.register(MindVLConfig, MindVL)
