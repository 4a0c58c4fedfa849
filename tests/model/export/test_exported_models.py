"""An exported model is the model: in transformers' own classes, without custom code, to the last digit they allow.

Logits of up to 4 differ by less than 1e-5 because three operators round otherwise: RMSNorm, rotary embeddings and
experts. With these alike the difference is exactly 0. From a picture's bytes it is up to twice as much: the patch
embedding is a matrix product then, a convolution there, which alone is off by 1e-5 against fp64.
"""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from mindvl.cli.export_job import export, probe
from mindvl.model.export.verifying import pixel_values
from mindvl.model.mindvl import MindVL
from mindvl.model.weights.assembly import Part, normalisation
from mindvl.ops.table import using
from mindvl.phases.answering import Answerer, Prompt
from mindvl.phases.decoding import Decoding

KINDS = ["qwen3", "llama", "qwen3_moe", "deepseek_v3"]
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def made(make_model, backbones, tokenizer, tmp_path_factory):
    """A saved model of a backbone and its export, each made once."""
    found = {}

    def make(kind, *, tied=True, to="hf"):
        root = tmp_path_factory.getbasetemp() / f"{kind}-{tied}"
        if not (root / "model").is_dir():
            model = make_model(language={**backbones[kind], "tie_word_embeddings": tied})
            model.save_pretrained(root / "model")
            tokenizer.save_pretrained(root / "model")
        if (root, to) not in found:
            found[root, to] = export(root / "model", root / to, to=to)
        return root / "model", root / to, found[root, to]

    return make


def opened(folder, auto=AutoModelForImageTextToText, **options):
    model, info = auto.from_pretrained(folder, attn_implementation="sdpa", output_loading_info=True, **options)
    return model.eval(), info


@torch.inference_mode()
def logits(model, asked, pixels):
    return model(input_ids=asked.input_ids, pixel_values=pixels, image_grid_thw=asked.grid, use_cache=False).logits


@TIED
@pytest.mark.parametrize("kind", KINDS)
def test_every_key_finds_its_place_and_logits_differ_by_at_most_1e_5(kind, tied, made, tokenizer):
    source, folder, exported = made(kind, tied=tied)
    stock, info = opened(folder)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    ours = MindVL.from_pretrained(source).eval()
    asked = probe(ours.config, tokenizer)
    pixels = pixel_values(asked.patches, ours.config)
    assert 0 < (logits(ours, asked, pixels) - logits(stock, asked, pixels)).abs().max() <= 1e-5
    assert 0 < exported.verified.difference <= 1e-5
    # As it trains: bytes, and a matrix product. Half of what this adds is the convolution's own rounding in fp32.
    difference = float((logits(ours, asked, asked.patches) - logits(stock, asked, pixels)).abs().max())
    assert exported.verified.as_trained == pytest.approx(difference, rel=0.5) and difference <= 2e-5
    assert exported.verified.remarks == () and exported.not_finite == ()


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_the_same_pixel_values_differ_by_at_most_1e_5_whatever_the_weights(
    kind, seed, make_model, backbones, tokenizer, tmp_path
):
    model = make_model(seed=seed, language={**backbones[kind], "tie_word_embeddings": seed % 2 == 0})
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    found = export(tmp_path / "model", tmp_path / "out").verified
    assert 0 < found.difference <= 1e-5 and found.as_trained <= 3e-5 and found.largest_logit > 1


@TIED
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_exactly_equal_where_the_operators_are(kind, tied, made, tokenizer):
    source, folder, _ = made(kind, tied=tied)
    ours, (stock, _) = MindVL.from_pretrained(source).eval(), opened(folder)
    for language in (ours.language_model, stock.model.language_model):
        if kind in ("qwen3_moe", "deepseek_v3"):
            language.set_experts_implementation("eager")
    asked = probe(ours.config, tokenizer)
    pixels = pixel_values(asked.patches, ours.config)
    with using(dict.fromkeys(("patch_embed", "rms_norm", "rotary"), "reference")):
        theirs = logits(stock, asked, pixels)
        assert (logits(ours, asked, pixels) - theirs).abs().max() == 0
    assert theirs.std() > 0.1  # and it is no comparison of nothing with nothing


@TIED
def test_tied_embeddings_stay_tied_and_are_written_once(tied, made):
    _, folder, _ = made("qwen3", tied=tied)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in file.keys()) != tied  # noqa: SIM118
    stock, _ = opened(folder)
    assert (stock.lm_head.weight is stock.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_bit_equal_experts_included(kind, made):
    source, folder, _ = made(kind, tied=False)
    ours, (stock, _) = MindVL.from_pretrained(source), opened(folder)
    theirs = stock.state_dict()
    for name, tensor in ours.state_dict().items():
        name = name.replace("vision.", "model.visual.", 1) if name.startswith("vision.") else name
        name = name.removeprefix("language_model.") if "lm_head" in name else name
        name = name.replace("language_model.model.", "model.language_model.", 1)
        assert torch.equal(theirs.pop(name), tensor), name
    assert not theirs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ["hf-hyperclovax", "vllm", "split"])
def test_other_targets_give_the_same_logits(to, kind, made):
    _, _, exported = made(kind, tied=kind != "llama", to=to)
    assert exported.verified.difference <= 1e-5 and exported.verified.largest_logit > 1


def test_hyperclovax_opens_with_the_auto_classes(made, tokenizer):
    _, folder, _ = made("qwen3", to="hf-hyperclovax")
    stock, info = opened(folder)
    assert type(stock).__name__ == "HyperCLOVAXVisionV2ForConditionalGeneration"
    assert not (info["missing_keys"] or info["unexpected_keys"])
    assert stock.config.text_config.logits_scaling == 1.0
    assert AutoProcessor.from_pretrained(folder).tokenizer.get_vocab() == tokenizer.get_vocab()


def test_the_parts_of_a_split_open_on_their_own_and_make_the_whole(made, tokenizer):
    source, folder, _ = made("deepseek_v3", tied=False, to="split")
    (tower, of_tower), (language, of_language) = (
        opened(folder / "vision", AutoModel),
        opened(folder / "language", AutoModelForCausalLM),
    )
    for info in (of_tower, of_language):
        assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    assert type(language).__name__ == "DeepseekV3ForCausalLM"
    assert "merger.mlp.2.weight" in tower.state_dict()
    assert AutoTokenizer.from_pretrained(folder / "language").chat_template == tokenizer.chat_template
    text = torch.tensor([tokenizer("a text alone")["input_ids"]])
    with torch.inference_mode():
        ours = MindVL.from_pretrained(source).eval()(input_ids=text, use_cache=False).logits
        assert (language(input_ids=text, use_cache=False).logits - ours).abs().max() <= 1e-5


def prompts_of(count, conversation):
    """Short questions, every other one with a picture."""
    made = []
    for number in range(count):
        sizes = ((28 * (1 + number % 3), 28 * (1 + number % 4)),) if number % 2 else ()
        messages, images = conversation(f"{number * 7919 % 1000}?", None, sizes, seed=number)
        made.append(Prompt(messages, tuple(images)))
    return made


def stock_answers(folder, prompts):
    """What a user of transformers gets, in batches of 25."""
    from mindvl.data.images import open_image

    stock, _ = opened(folder)
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    answers = []
    for start in range(0, len(prompts), 25):
        batch = []
        for prompt in prompts[start : start + 25]:
            pictures = iter([open_image(data) for data in prompt.images])
            (message,) = prompt.messages
            content = [
                {**part, "image": next(pictures)} if part["type"] == "image" else part for part in message["content"]
            ]
            batch.append([{"role": "user", "content": content}])
        inputs = processor.apply_chat_template(
            batch,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        output = stock.generate(**inputs, max_new_tokens=NEW_TOKENS)
        answers += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


@pytest.mark.parametrize(("kind", "count"), [("qwen3", 100), ("llama", 8), ("qwen3_moe", 8), ("deepseek_v3", 8)])
def test_greedy_generations_are_identical(kind, count, made, conversation, tokenizer):
    source, folder, _ = made(kind)
    prompts = prompts_of(count, conversation)
    ours = Answerer(MindVL.from_pretrained(source).eval(), tokenizer).answer(
        prompts, Decoding(max_new_tokens=NEW_TOKENS)
    )
    assert stock_answers(folder, prompts) == [answer.text for answer in ours]
    assert len({answer.text for answer in ours}) > 0.8 * count


def test_the_folders_own_padding_leaves_the_answers_of_a_batch_those_of_its_prompts(made, conversation):
    _, folder, _ = made("qwen3")
    assert AutoTokenizer.from_pretrained(folder).padding_side == "left"
    prompts = prompts_of(6, conversation)
    alone = [stock_answers(folder, [prompt])[0] for prompt in prompts]
    assert stock_answers(folder, prompts) == alone and len(set(alone)) > 4


def test_a_split_tower_that_is_read_again_keeps_its_mean_and_deviation(make_model, tokenizer, tmp_path):
    model = make_model(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", to="split")
    read = normalisation(Part.of("vision", str(tmp_path / "out" / "vision")))
    assert read == {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out" / "vision", backend="pil")
    assert list(processor.image_std) == [0.4, 0.5, 0.6]


def test_shards_and_their_index_agree(made, tmp_path):
    source, _, _ = made("qwen3_moe", tied=False)
    exported = export(source, tmp_path / "out", to="hf", max_shard_bytes=150_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    held = {}
    for path in sorted((tmp_path / "out").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            held |= dict.fromkeys(file.keys(), path.name)
        assert path.stat().st_size < 150_000 + 20_000  # the header
    assert index["weight_map"] == held and len(set(held.values())) == exported.num_files > 2
    assert any(".mlp.experts.7.gate_proj.weight" in name for name in held)
    ours, (stock, info) = MindVL.from_pretrained(source), opened(tmp_path / "out")
    assert not (info["missing_keys"] or info["unexpected_keys"])
    assert torch.equal(stock.lm_head.weight, ours.language_model.lm_head.weight)


def test_a_bf16_model_stays_bf16_and_its_router_bias_fp32(make_model, backbones, tokenizer, tmp_path):
    model = make_model(language=backbones["deepseek_v3"]).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    exported = export(tmp_path / "model", tmp_path / "out")
    assert exported.verified.difference < 1e-4 * exported.verified.largest_logit
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert stock.dtype == torch.bfloat16 and stock.config.dtype == torch.bfloat16
    biases = [tensor.dtype for name, tensor in stock.state_dict().items() if "correction_bias" in name]
    assert biases == [torch.float32]
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds == {"BF16", "F32"}


def test_nothing_in_a_folder_is_a_pickle_or_code(made):
    for to in ("hf", "hf-hyperclovax", "vllm", "split"):
        _, folder, _ = made("qwen3", to=to)
        kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
        assert kinds <= {".safetensors", ".json", ".jinja", ".md"}
        assert "auto_map" not in "".join(path.read_text() for path in folder.rglob("*.json"))
