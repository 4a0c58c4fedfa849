"""How a tokenizer gets the tokens that mark pictures and videos, where it has none.

DeepSeek-V3's has 129,280 tokens. Behind them come, in the order of Qwen's vocabulary,

    <|vision_start|> 129280    <|vision_end|> 129281    <|image_pad|> 129282    <|video_pad|> 129283

so that data that one machine has packed means the same to the model that another has built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindvl.batch import IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def add_vision_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Give a tokenizer the tokens that mark pictures and videos, unless it has those of pictures; the new ids.

    A tokenizer that knows pictures and no videos stays as it is: its model reads no videos.
    """
    known = tokenizer.get_vocab()
    if all(token in known for token in (VISION_START, VISION_END, IMAGE_PAD)):
        return {}
    from tokenizers import AddedToken

    missing = [token for token in (VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD) if token not in known]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True)
    return {token: tokenizer.convert_tokens_to_ids(token) for token in missing}
