"""Attention computed in our own way: the numbers of the model's, forward and backward, and only while it is lent."""

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from trainer import arrangement as arrangement_module
from trainer.abilities import abilities
from trainer.arrangement import arrange, attend, scores
from trainer.attention import is_plain_pass, own_attention
from trainer.decode import RoomyLayer
from trainer.logprobs import completion_logprobs, is_arranged
from trainer.packing import pack
from trainer.rollout import pad_sequences

CPU = torch.device("cpu")
PROMPTS = [[3, 6, 7, 4], [3, 8, 4]]
GROUPS = [(4, [3, 0, 5]), (3, [2])]  # prompts of 4 and 3 tokens; completions of which 3, 0, 5 and 2 are read


def row_of_groups():
    """The same groups as tokens: completions have one more, which is read by nobody."""
    completions = [[5] * 4, [5], [5] * 6, [5] * 3]
    return pad_sequences([PROMPTS[0]] * 3 + [PROMPTS[1]], completions, 0, CPU), [[0, 1, 2], [3]]


def states(dtype=torch.float64):
    torch.manual_seed(1)
    length = sum(prompt + sum(own) for prompt, own in GROUPS)
    return [torch.randn(1, heads, length, width, dtype=dtype) for heads, width in ((6, 8), (2, 8), (2, 4))]


def by_mask(query, key, value, scaling):
    """The same by a mask over all pairs of the row."""
    seen = torch.zeros(query.shape[2], query.shape[2], dtype=torch.bool)
    begin = 0
    for prompt, own in GROUPS:
        first = begin
        begin += prompt
        for length in (0, *own):
            here = range(first, first + prompt) if length == 0 else range(begin, begin + length)
            for i in here:
                seen[i, first : min(first + prompt, i + 1)] = True
                seen[i, here.start : i + 1] = True
            begin += length
    keys, values = key.repeat_interleave(3, dim=1), value.repeat_interleave(3, dim=1)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=scaling).transpose(1, 2)


@pytest.mark.parametrize("most_scores", [1, 6 * 5 * 9 * 3, 2**20], ids=["one", "three", "all"])
def test_an_arrangement_computes_what_a_mask_leaves_of_all_pairs_forward_and_backward(monkeypatch, most_scores):
    monkeypatch.setattr(arrangement_module, "MOST_SCORES", most_scores)
    found = []
    for compute in (lambda *s: attend(*s, arrange(GROUPS, CPU), 0.3), lambda *s: by_mask(*s, 0.3)):
        tensors = [one.requires_grad_() for one in states()]
        output = compute(*tensors)
        weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
        found.append([output, *torch.autograd.grad((output * weight).sum(), tensors)])
    for ours, wanted in zip(*found, strict=True):
        assert torch.allclose(ours, wanted, rtol=0, atol=1e-6)  # the mask, and the sums over completions, are float32


def test_scores_of_bfloat16_states_are_float32():
    # A product of 64 numbers that have 8 bits each: bfloat16 would keep 8 bits of it, an error of up to 2**-9.
    torch.manual_seed(0)
    query, key = torch.randn(3, 40, 64).bfloat16(), torch.randn(3, 50, 64).bfloat16()
    exact = query.double() @ key.double().transpose(1, 2) * 0.125
    assert ((scores(query, key, 0.125) - exact).abs() / (1 + exact.abs())).max() < 2**-14


def test_the_tokens_of_a_row_stand_in_the_order_of_their_groups(build_policy):
    packed = pack(*row_of_groups(), is_arranged=True)
    assert packed.input_ids_RL.tolist() == [[3, 6, 7, 4, 5, 5, 5, 5, 5, 5, 5, 5, 3, 8, 4, 5, 5]]
    assert packed.position_ids_RL.tolist() == [[0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4]]
    assert packed.source_M.tolist() == [3, 4, 5, 6, 3, 3, 7, 8, 9, 10, 11, 14, 15, 16]
    assert packed.mask_R1LL is None


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_a_model_gives_the_same_by_an_arrangement_and_by_its_own_attention(build_policy):
    model, (sequences, rows) = build_policy(num_attention_heads=4, num_key_value_heads=2), row_of_groups()
    assert is_arranged(model, sequences)
    ours = completion_logprobs(model, sequences, rows)
    ours_gradient = gradients(model, ours.sum())
    apart = torch.cat([completion_logprobs(model, sequences.select(slice(n, n + 1))) for n in range(4)])
    model.config._attn_implementation = "eager"
    own = completion_logprobs(model, sequences)
    assert torch.allclose(ours, own, rtol=0, atol=1e-5)
    assert torch.allclose(ours, apart, rtol=0, atol=1e-5)
    assert torch.allclose(ours_gradient, gradients(model, own.sum()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_room", [False, True])
def test_one_new_token_in_bfloat16_attends_as_the_model_does(build_policy, with_room):
    torch.manual_seed(2)
    model = build_policy(num_attention_heads=4, num_key_value_heads=2).bfloat16().eval()
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[1, :2] = 0
    found = []
    for own in (True, False):
        cache = DynamicCache(config=model.config)
        if with_room:
            cache.layers = [RoomyLayer(4) for _ in cache.layers]
        with torch.no_grad():
            for at in (slice(0, 4), slice(4, 5), slice(5, 6)):
                ids = torch.arange(3, 21).view(3, 6)[:, at]
                positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, at]
                named = {"attention_mask": mask[:, : at.stop], "position_ids": positions, "past_key_values": cache}
                if own:
                    with own_attention(model):
                        logits = model(ids, **named).logits
                else:
                    logits = model(ids, **named).logits
        found.append(logits.float())
    assert (found[0] - found[1]).abs().max() < 0.05 * found[1].abs().max()
    assert model.config._attn_implementation == "sdpa"


def test_what_repeats_or_draws_attention_is_no_plain_pass(build_policy):
    model = build_policy().train()
    assert is_plain_pass(model)
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert not is_plain_pass(model)
    assert is_plain_pass(model.eval())
    assert not is_plain_pass(build_policy(attention_dropout=0.5).train())


def test_attention_of_another_kind_is_left_alone(build_policy):
    model = build_policy(attn_implementation="eager")
    assert not abilities(model).is_arranged
    with own_attention(model):
        assert model.config._attn_implementation == "eager"
