"""A tokenizer has the tokens of pictures, or gets them in a fixed order behind its last id."""

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mindvl.data.tokenizer import byte_tokenizer
from mindvl.vision_tokens import add_vision_tokens


def test_four_tokens_follow_the_last_id_once():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    added = {"<|vision_start|>": 2, "<|vision_end|>": 3, "<|image_pad|>": 4, "<|video_pad|>": 5}
    assert add_vision_tokens(tokenizer) == added and len(tokenizer) == 6
    assert tokenizer("a<|image_pad|>b")["input_ids"] == [0, 4, 1]
    assert add_vision_tokens(tokenizer) == {} and len(tokenizer) == 6


def test_a_tokenizer_that_knows_pictures_stays_as_it_is():
    tokenizer = byte_tokenizer()
    before = tokenizer.get_vocab()
    assert add_vision_tokens(tokenizer) == {} and tokenizer.get_vocab() == before
