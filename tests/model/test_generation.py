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


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


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
