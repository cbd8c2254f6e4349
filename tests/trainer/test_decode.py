"""Decoding: token for token what `generate` gives, whoever leaves the batch first; drawn from the same distribution."""

import math
from collections import Counter

import pytest
import torch
from transformers import (
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.cache_utils import DynamicLayer

from trainer.batch import Sequences
from trainer.decode import BLOCK, RoomyLayer, can_decode, decode, draw
from trainer.rollout import Completion, Sampler, in_order, pad_sequences

SIZES = {
    "vocab_size": 28,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "initializer_range": 0.3,
}


def _llama(build_policy):
    return build_policy()


def _gpt2(build_policy):
    config = GPT2Config(vocab_size=28, n_embd=16, n_layer=2, n_head=2, n_positions=512, bos_token_id=1, eos_token_id=1)
    return GPT2LMHeadModel(config)


def _gemma(build_policy):  # soft-capping, layers with and without a window, a scaled embedding, a tied head
    settings = {**SIZES, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8, "bos_token_id": 2}
    return Gemma2ForCausalLM(Gemma2Config(**settings))


def _mistral(build_policy):
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6))


def _qwen(build_policy):
    return Qwen2ForCausalLM(Qwen2Config(**SIZES))


@pytest.fixture(params=[_llama, _gpt2, _gemma, _mistral, _qwen], ids=lambda build: build.__name__[1:])
def model(request, build_policy):
    torch.manual_seed(0)
    model = request.param(build_policy).eval()
    for parameter in model.parameters():  # some initialise so flat that one token wins everywhere
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def prompts_of_many_lengths(count: int = 14) -> list[list[int]]:
    torch.manual_seed(5)
    return [torch.randint(3, 28, (length % 9 + 1,)).tolist() for length in range(count)]


def padded(prompts: list[list[int]]) -> Sequences:
    return pad_sequences(prompts, [[]] * len(prompts), 0, torch.device("cpu"))


@torch.no_grad()
def decoded(model, prompts, k, num_tokens, eos_ids, temperature=0.0) -> list[list[int]]:
    parts = decode(model, padded(prompts), k, num_tokens, eos_ids, temperature)
    rows = dict(pair for part in parts for pair in part)
    return [rows[i] for i in range(len(prompts) * k)]


def generated(model, prompts, num_tokens, eos_ids) -> list[list[int]]:
    """Return the completions of `generate`, cut behind their first stop token."""
    batch = padded(prompts)
    config = GenerationConfig(max_new_tokens=num_tokens, eos_token_id=eos_ids or None, pad_token_id=0)
    model.generation_config = GenerationConfig()
    output = model.generate(
        input_ids=batch.prompt_ids_NP, attention_mask=batch.prompt_mask_NP.long(), generation_config=config
    )
    rows = output[:, batch.prompt_ids_NP.shape[1] :].tolist()
    ends = [next((t + 1 for t, token in enumerate(row) if token in eos_ids), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


# -- The same tokens as `generate` --------------------------------------------------------------------------------


def test_greedy_completions_are_those_of_generate(model):
    prompts = prompts_of_many_lengths()
    assert can_decode(model)
    assert decoded(model, prompts, 1, 24, []) == generated(model, prompts, 24, [])


def test_greedy_completions_are_those_of_generate_when_rows_leave_at_different_times(model):
    prompts = prompts_of_many_lengths()
    free = generated(model, prompts, 24, [])
    # the tokens that the rows end at are chosen so that they end at as many different times as there are
    first = Counter(token for row in free for token in set(row))
    stops = [token for token, rows in first.items() if rows < len(prompts) / 2][:3]
    wanted = generated(model, prompts, 24, stops)
    assert len({len(row) for row in wanted}) >= 3
    assert decoded(model, prompts, 1, 24, stops) == wanted


def test_k_rows_of_a_prompt_are_k_times_the_same_where_nothing_is_random(model):
    prompts = prompts_of_many_lengths(5)
    wanted = [row for row in generated(model, prompts, 12, [7, 9]) for _ in range(3)]
    assert decoded(model, prompts, 3, 12, [7, 9]) == wanted


def test_rows_are_handed_over_as_soon_as_they_end(policy):
    prompts = prompts_of_many_lengths()
    with torch.no_grad():
        parts = list(decode(policy, padded(prompts), 1, 24, [7, 9], 0.0))
    lengths = [[len(tokens) for _, tokens in part] for part in parts]
    assert all(len(set(part)) == 1 for part in lengths)  # each part ended at one moment
    assert [part[0] for part in lengths] == sorted(part[0] for part in lengths)
    assert len(lengths) > 1
    assert sorted(row for part in parts for row, _ in part) == list(range(len(prompts)))


# -- The same distribution ----------------------------------------------------------------------------------------


def chi_square_is_ordinary(found: Counter, wanted: dict, count: int) -> bool:
    """Return whether counts fit probabilities: below the 1 - 1e-5 quantile, cells expected below 5 counted as one."""
    large = {cell: p for cell, p in wanted.items() if p * count >= 5}
    rest = 1 - sum(large.values())
    statistic = sum((found[cell] - p * count) ** 2 / (p * count) for cell, p in large.items())
    if rest * count >= 5:
        num_rest = count - sum(found[cell] for cell in large)
        statistic += (num_rest - rest * count) ** 2 / (rest * count)
    freedom = len(large) - (rest * count < 5)
    # Wilson-Hilferty: (X / f)^(1/3) is normal with mean 1 - 2/(9f) and variance 2/(9f); 4.26 is the quantile of 1e-5.
    limit = freedom * (1 - 2 / (9 * freedom) + 4.26 * math.sqrt(2 / (9 * freedom))) ** 3
    return statistic < limit


@torch.no_grad()
def probabilities_of_completions(model, prompt, stops, temperature) -> dict:
    """Return the probability of every completion of up to two tokens, by plain forward passes."""
    first = torch.softmax(model(torch.tensor([prompt])).logits[0, -1] / temperature, 0)
    after = model(torch.tensor([[*prompt, token] for token in range(len(first))])).logits[:, -1]
    second = torch.softmax(after / temperature, 1)
    cells = {(token,): float(first[token]) for token in stops}
    others = [token for token in range(len(first)) if token not in stops]
    return cells | {(a, b): float(first[a] * second[a, b]) for a in others for b in range(len(first))}


def test_completions_are_drawn_from_the_model_s_distribution(model):
    prompt, stops, count, temperature = [3, 6, 4], [7, 9, 12, 20, 21, 22], 6000, 1.3
    wanted = probabilities_of_completions(model, prompt, stops, temperature)
    # a longer prompt beside it, so that this one is padded
    rows = decoded(model, [prompt, [3, 6, 7, 8, 9, 4]], count, 2, stops, temperature)
    assert chi_square_is_ordinary(Counter(map(tuple, rows[:count])), wanted, count)
    shifted = probabilities_of_completions(model, prompt, stops, temperature * 1.3)
    assert not chi_square_is_ordinary(Counter(map(tuple, rows[:count])), shifted, count)  # the test can tell


@pytest.mark.parametrize("num_tokens", [BLOCK - 1, BLOCK, 2 * BLOCK, 2 * BLOCK + 88])
def test_a_token_of_a_large_vocabulary_is_drawn_with_its_probability(num_tokens):
    logits = 2 * torch.randn(num_tokens)
    logits[::5] = -math.inf
    tokens = draw(logits.expand(8000, -1), 0.9).tolist()
    wanted = dict(enumerate(torch.softmax(logits / 0.9, 0).tolist()))
    assert chi_square_is_ordinary(Counter(tokens), wanted, 8000)
    assert all(wanted[token] > 0 for token in tokens)


def test_a_temperature_of_almost_nothing_takes_the_likeliest_token():
    logits = 1e4 * torch.randn(5, 3 * BLOCK)
    assert torch.equal(draw(logits, 1e-30), draw(logits, 0))


def test_the_same_seed_gives_the_same_completions(model):
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(decoded(model, prompts_of_many_lengths(4), 3, 10, [7], 1.0))
    assert runs[0] == runs[1]
    assert len(set(map(tuple, runs[0]))) > 3


# -- The cache ----------------------------------------------------------------------------------------------------


def test_a_roomy_layer_holds_what_a_growing_one_holds():
    roomy, growing = RoomyLayer(2), DynamicLayer()

    def both_update(rows: int, length: int) -> None:
        keys, values = torch.randn(rows, 2, length, 4), torch.randn(rows, 2, length, 4)
        for one, other in zip(roomy.update(keys, values), growing.update(keys, values), strict=True):
            assert torch.equal(one, other)

    both_update(3, 5)
    for layer in (roomy, growing):
        layer.batch_repeat_interleave(2)
    for _ in range(5):  # two tokens fit, the third makes room anew
        both_update(6, 1)
    for layer in (roomy, growing):
        layer.batch_select_indices(torch.tensor([0, 5, 2, 4]))
    both_update(4, 3)
    assert roomy.get_seq_length() == growing.get_seq_length() == 13


def test_a_prompt_s_cache_without_repetition_makes_room_too():
    layer = RoomyLayer(2)
    layer.update(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4))
    keys, _ = layer.update(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    assert keys[0, 0, :, 0].tolist() == [1, 1, 0]


# -- Models that it does not know ---------------------------------------------------------------------------------


class OwnWay(LlamaForCausalLM):
    """A model that prepares its inputs in a way of its own."""

    def prepare_inputs_for_generation(self, *args, **kwargs):
        return super().prepare_inputs_for_generation(*args, **kwargs)


def test_a_model_with_its_own_way_to_generate_generates_by_it(policy, tokenizer):
    own = OwnWay(policy.config).eval()
    own.load_state_dict(policy.state_dict())
    assert can_decode(policy)
    assert not can_decode(own)
    prompts, sampler = prompts_of_many_lengths(5), Sampler(tokenizer, (1, 7), 8, 6)
    assert sampler.sample(own, prompts, 2, 0) == sampler.sample(policy, prompts, 2, 0)
    own.generation_config.update(repetition_penalty=5.0)
    announced = []
    sampled = sampler.sample(own, prompts, 2, 1.0, on_chunk=lambda start, groups: announced.append((start, groups)))
    assert [start for start, _ in announced] == [0, 3]
    assert [group for _, groups in announced for group in groups] == sampled
    assert [len(group) for group in sampled] == [2] * 5


def test_a_recurrent_model_generates_by_its_own_way(tokenizer):
    config = MambaConfig(vocab_size=28, hidden_size=16, state_size=4, num_hidden_layers=2, eos_token_id=1)
    model = MambaForCausalLM(config).eval()
    assert not can_decode(model)
    groups = Sampler(tokenizer, (1,), 4, 8).sample(model, [[3, 6, 4], [3, 6, 7, 4]], 2, 1.0)
    assert [len(group) for group in groups] == [2, 2]


def test_a_cache_that_holds_more_than_keys_and_values_is_left_alone(policy):
    policy.config.layer_types = ["conv", "full_attention"]
    assert len(DynamicCache(config=policy.config).layers) == 2
    assert not can_decode(policy)


# -- In the order of the prompts ----------------------------------------------------------------------------------


def test_a_prompt_is_announced_when_it_and_all_before_it_are_complete():
    one = [Completion(str(row), (row,), True) for row in range(6)]
    parts = [[(2, one[2])], [(3, one[3]), (0, one[0])], [(1, one[1])], [(5, one[5])], [(4, one[4])]]
    assert list(in_order(parts, 3, 2)) == [[one[0:2], one[2:4]], [one[4:6]]]
