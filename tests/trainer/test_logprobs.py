"""Log-probabilities of completions: the right token at the right place, whatever the padding and the architecture."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
)

from trainer.logprobs import completion_logprobs, in_parts, logprobs_in_batches
from trainer.policy import without_dropout
from trainer.rollout import pad_sequences

PROMPTS = [[3, 6, 7, 4], [3, 8, 4], [3, 9, 10, 11, 12, 13, 4]]
COMPLETIONS = [[6, 7, 1], [20, 21, 22, 23, 24, 1], [9]]


def batch(*rows: int):
    return pad_sequences([PROMPTS[i] for i in rows], [COMPLETIONS[i] for i in rows], 0, torch.device("cpu"))


@torch.no_grad()
def token_by_token(model, prompt: list[int], completion: list[int]) -> float:
    """log pi(a|s) the slow way: one forward pass per token on the text so far, without padding, mask or cache."""
    total = 0.0
    for t, token in enumerate(completion):
        logits = model(torch.tensor([prompt + completion[:t]])).logits[0, -1]
        total += float(torch.log_softmax(logits.double(), dim=0)[token])
    return total


def build_gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=28, n_embd=16, n_layer=2, n_head=2, n_positions=64))


def build_neox():
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=28, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, attention_dropout=0.5, hidden_dropout=0.5,
        )
    )  # fmt: skip


def build_bloom():
    # Takes no position ids: it derives positions from the mask.
    return BloomForCausalLM(BloomConfig(vocab_size=28, hidden_size=16, n_layer=2, n_head=2))


class Plain(LlamaForCausalLM):
    """A model whose forward knows nothing of positions, cache or logits_to_keep."""

    def forward(self, input_ids, attention_mask=None):
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0) if attention_mask is not None else None
        return super().forward(input_ids, attention_mask=attention_mask, position_ids=positions)


ARCHITECTURES = {
    "llama": lambda build: build(),
    "llama with tied embeddings": lambda build: build(tie_word_embeddings=True),
    "gpt2": lambda build: build_gpt2(),
    "gpt-neox": lambda build: build_neox(),
    "bloom": lambda build: build_bloom(),
    "a forward of two arguments": lambda build: Plain(build().config),
}


@pytest.fixture(params=ARCHITECTURES)
def model(request, build_policy):
    torch.manual_seed(3)
    return ARCHITECTURES[request.param](build_policy).eval()


def test_a_padded_batch_gives_what_one_token_at_a_time_gives(model):
    found = completion_logprobs(model, batch(0, 1, 2))
    wanted = [token_by_token(model, p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-3)


def test_longer_neighbours_change_neither_value_nor_gradient_of_a_row(model):
    def value_and_gradient(*rows):
        model.zero_grad()
        value = completion_logprobs(model, batch(*rows))[0]
        value.backward()
        return value.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    # Row 1 has the longest completion, row 2 the longest prompt: padding on both sides of row 0.
    alone, gradient_alone = value_and_gradient(0)
    for rows in ((0, 1), (0, 2), (0, 1, 2)):
        together, gradient_together = value_and_gradient(*rows)
        assert together == pytest.approx(alone, abs=1e-4)
        assert torch.allclose(gradient_together, gradient_alone, atol=1e-4)


@pytest.mark.parametrize("most_tokens", [1, 14, 64])
def test_batches_give_the_same_in_the_order_of_the_rows(policy, most_tokens):
    whole = completion_logprobs(policy, batch(0, 1, 2)).detach()
    parts = in_parts(policy, batch(0, 1, 2), most_tokens)
    assert torch.allclose(logprobs_in_batches(policy, batch(0, 1, 2), parts), whole, atol=1e-5)


def test_what_stands_behind_the_end_of_sequence_does_not_count(policy):
    short = batch(0, 1)
    other_padding = type(short)(
        short.prompt_ids_NP,
        short.prompt_mask_NP,
        torch.where(short.completion_mask_NT, short.completion_ids_NT, 17),
        short.completion_mask_NT,
    )
    assert torch.equal(completion_logprobs(policy, short), completion_logprobs(policy, other_padding))


def test_an_empty_completion_has_log_probability_zero(policy):
    sequences = pad_sequences([PROMPTS[0], PROMPTS[1]], [[], [7, 1]], 0, torch.device("cpu"))
    assert completion_logprobs(policy, sequences)[0] == 0


def test_raising_the_log_probability_for_150_steps_raises_the_likelihood_of_the_text(build_policy):
    # The bug that this guards against gathers each token from its own position. Its objective rises to 0 all the same,
    # so only a likelihood that is computed in another way tells.
    model = build_policy()
    sequences, optimizer = batch(1), torch.optim.SGD(model.parameters(), lr=0.02)
    before = token_by_token(model, PROMPTS[1], COMPLETIONS[1])
    for _ in range(150):
        optimizer.zero_grad()
        (-completion_logprobs(model, sequences).sum()).backward()
        optimizer.step()
    after = token_by_token(model, PROMPTS[1], COMPLETIONS[1])
    assert before < -12  # six tokens at random from 28 would have -20
    assert after > -0.5
    assert completion_logprobs(model, sequences).item() == pytest.approx(after, abs=1e-3)


def test_half_precision_weights_give_float32_sums(build_policy):
    assert completion_logprobs(build_policy().to(torch.bfloat16), batch(0, 1)).dtype == torch.float32


@pytest.mark.parametrize("attribute", ["module", "_orig_mod"])
def test_every_forward_goes_through_the_wrapper(policy, attribute):
    calls = []

    class Wrapper(torch.nn.Module):  # as DistributedDataParallel and torch.compile do it
        def __init__(self):
            super().__init__()
            setattr(self, attribute, policy)

        def forward(self, *arguments, **named):
            calls.append(named)
            return policy(*arguments, **named)

    found, wanted = completion_logprobs(Wrapper(), batch(0, 1)), completion_logprobs(policy, batch(0, 1))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert calls


def test_without_dropout_two_passes_in_training_mode_agree(model):
    without_dropout(model)
    model.train()
    first, second = (completion_logprobs(model, batch(0, 1, 2)) for _ in range(2))
    assert torch.equal(first, second)


def test_dropout_that_attention_keeps_as_a_number_is_switched_off(build_policy):
    model = build_policy(attention_dropout=0.5).train()
    assert not torch.equal(completion_logprobs(model, batch(0)), completion_logprobs(model, batch(0)))
    without_dropout(model)
    assert torch.equal(completion_logprobs(model, batch(0)), completion_logprobs(model, batch(0)))


def test_gradient_checkpointing_changes_no_gradient(build_policy):
    gradients = []
    for checkpointing in (False, True):
        model = build_policy().double().train()  # attention is computed in another way: exact, in another order
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        completion_logprobs(model, batch(0, 1, 2)).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*gradients, atol=1e-6)
