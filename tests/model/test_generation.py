"""Generation with a cache and padding against the plain method: the whole sequence again for every token."""

import numpy as np
import pytest
import torch

NEW_TOKENS = 8
PROMPTS = [
    ("which is larger?", ((28, 56), (112, 84))),
    ("no picture", ()),
    ("read", ((56, 140),)),
]
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "head_dim": 4,
    "v_head_dim": 6,  # narrower than the queries: packed attention pads them, the cached path must not
}
FAMILIES = {
    "qwen3": {},
    "llama": {"model_type": "llama"},
    "qwen3_moe": {"model_type": "qwen3_moe", **EXPERTS},
    "deepseek_v3": {"model_type": "deepseek_v3", **LATENT},
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, make_model):
    return make_model(language=FAMILIES[request.param])


@pytest.fixture(scope="module")
def prompts(conversation, encoder):
    """Token ids, patches and grids of each prompt."""
    from mindvl.data.images import open_image, patchify
    from mindvl.data.sample import widen_placeholders

    encoded = []
    for number, (question, sizes) in enumerate(PROMPTS):
        messages, images = conversation(question, None, sizes, seed=10 * number)
        cut = [patchify(open_image(image), min_pixels=28 * 28, max_pixels=64 * 28 * 28) for image in images]
        chat = encoder.encode(messages, generation_prompt=True)
        ids = np.asarray(chat.input_ids)
        tokens = [grid.merged() for _, grid in cut]
        ids, _, _ = widen_placeholders(ids, np.zeros(len(ids), bool), tokens, encoder.image_token_id)
        encoded.append((torch.from_numpy(ids), [torch.from_numpy(p) for p, _ in cut], [grid for _, grid in cut]))
    return encoded


def pictures(*prompts):
    patches = [part for _, parts, _ in prompts for part in parts]
    grids = [(grid.frames, grid.height, grid.width) for _, _, parts in prompts for grid in parts]
    return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor(grids)} if patches else {}


def greedy_by_full_forward(model, prompt):
    ids, given = prompt[0][None], pictures(prompt)
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            logits = model(input_ids=ids, use_cache=False, **given).logits[0, -1]
            ids = torch.cat([ids, logits.argmax().view(1, 1)], dim=1)
    return ids[0, len(prompt[0]) :].tolist()


def generate(model, *prompts):
    longest = max(len(ids) for ids, _, _ in prompts)
    pad = model.config.text_config.pad_token_id
    ids = torch.stack([torch.nn.functional.pad(ids, (longest - len(ids), 0), value=pad) for ids, _, _ in prompts])
    lengths = torch.tensor([len(ids) for ids, _, _ in prompts])
    mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=pad,
        **pictures(*prompts),
    )
    return output[:, longest:].tolist()


@pytest.mark.parametrize("number", range(3))
def test_generation_with_a_cache_equals_greedy_decoding_by_full_forward(number, model, prompts):
    assert generate(model, prompts[number])[0] == greedy_by_full_forward(model, prompts[number])


def test_a_batch_of_prompts_of_unequal_length_and_pictures_equals_one_by_one(model, prompts):
    assert generate(model, *prompts) == [greedy_by_full_forward(model, prompt) for prompt in prompts]


def test_the_answers_of_different_prompts_differ(model, prompts):
    answers = generate(model, *prompts)
    assert len({tuple(answer) for answer in answers}) == len(prompts)


def test_the_full_forward_of_a_prompt_equals_its_pack(model, prompts, samples, pack):
    sample = samples[2]
    grids = [(grid.frames, grid.height, grid.width) for grid in sample.grids]
    with torch.no_grad():
        packed = model.get_output_embeddings()(model.hidden_states(pack(sample)))
        padded = model(
            input_ids=torch.from_numpy(sample.input_ids)[None],
            pixel_values=torch.from_numpy(sample.patches),
            image_grid_thw=torch.tensor(grids),
        ).logits[0]
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)


def logits_in_chunks(model, prompt, chunks):
    """Logits of all positions, read in chunks of the given lengths with one cache; pictures come with the first."""
    given, cache, logits = pictures(prompt), None, []
    for ids in prompt[0].split(chunks):
        with torch.no_grad():
            output = model(input_ids=ids[None], past_key_values=cache, use_cache=True, **given)
        given, cache = {}, output.past_key_values
        logits.append(output.logits[0])
    return torch.cat(logits)


@pytest.mark.parametrize("number", range(3))
def test_logits_with_a_cache_equal_those_of_the_whole_sequence(number, model, prompts):
    prompt = prompts[number]
    length = len(prompt[0])
    with torch.no_grad():
        whole = model(input_ids=prompt[0][None], use_cache=False, **pictures(prompt)).logits[0]
    for chunks in ([length - 3, 1, 1, 1], [length - 6, 5, 1]):  # a token at a time, and several after a beginning
        torch.testing.assert_close(logits_in_chunks(model, prompt, chunks), whole, rtol=1e-5, atol=1e-5)


def test_logits_of_padded_rows_with_a_cache_equal_those_of_each_row_alone(model, prompts):
    longest = max(len(ids) for ids, _, _ in prompts)
    lengths = torch.tensor([len(ids) for ids, _, _ in prompts])
    ids = torch.stack([torch.nn.functional.pad(ids, (longest - len(ids), 0)) for ids, _, _ in prompts])
    mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        first = model(
            input_ids=ids[:, :-2],
            attention_mask=mask[:, :-2],
            position_ids=positions[:, :-2],
            use_cache=True,
            **pictures(*prompts),
        )
        then = [first.logits[:, -1]]
        for place in (longest - 2, longest - 1):
            step = model(
                input_ids=ids[:, place : place + 1],
                attention_mask=mask[:, : place + 1],
                position_ids=positions[:, place : place + 1],
                past_key_values=first.past_key_values,
                use_cache=True,
            )
            then.append(step.logits[:, -1])
        for row, prompt in enumerate(prompts):
            whole = model(input_ids=prompt[0][None], use_cache=False, **pictures(prompt)).logits[0, -3:]
            torch.testing.assert_close(torch.stack([logits[row] for logits in then]), whole, rtol=1e-5, atol=1e-5)
