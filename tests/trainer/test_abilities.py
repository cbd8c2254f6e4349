"""What a model can is found out by asking it; where it cannot, its own logits are used, and prompts are not shared."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from trainer.abilities import abilities
from trainer.logprobs import completion_logprobs, in_parts, logprobs_in_batches, shared_rows, weighted_sum
from trainer.packing import groups
from trainer.rollout import pad_sequences

SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": None,
    "eos_token_id": 1, "initializer_range": 0.3,
}  # fmt: skip


class Shifted(LlamaForCausalLM):
    """Does something to its logits that nobody has heard of."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, logits_to_keep=0, use_cache=None):
        output = super().forward(
            input_ids, attention_mask, position_ids, logits_to_keep=logits_to_keep, use_cache=use_cache
        )
        output.logits = output.logits + torch.linspace(0, 1, output.logits.shape[-1])
        return output


BUILDERS = {
    "llama": lambda: LlamaForCausalLM(LlamaForCausalLM.config_class(**SMALL, tie_word_embeddings=False)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaForCausalLM.config_class(**SMALL, tie_word_embeddings=True)),
    "llama, eager": lambda: LlamaForCausalLM(LlamaForCausalLM.config_class(**SMALL, attn_implementation="eager")),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=2.0, sliding_window=32)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**{**SMALL, "eos_token_id": 1}, logit_scale=0.0625)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=4.0)),
    "phi, a bias": lambda: PhiForCausalLM(PhiConfig(**SMALL)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2)),
    "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, state_size=4)),
    "unknown": lambda: Shifted(LlamaForCausalLM.config_class(**SMALL)),
}
RULES = {"gemma2": (1.0, 2.0), "cohere": (0.0625, None), "granite": (0.25, None), "unknown": None}
DO_NOT_SHARE = {"bloom", "mamba", "unknown"}

PROMPTS = [[3, 6, 7, 4, 9, 9], [3, 8, 4]]
COMPLETIONS = [[6, 7, 1], [20, 21, 22, 23, 24, 1], [9], [17, 18], [5, 5, 5, 1]]


def batch():
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[1]]
    return pad_sequences(prompts, COMPLETIONS, 0, torch.device("cpu"))


@pytest.fixture(params=BUILDERS)
def named_model(request):
    torch.manual_seed(3)
    return request.param, BUILDERS[request.param]().eval()


@torch.no_grad()
def plain(model, sequences) -> list[float]:
    """A forward of each sequence by itself and a log-softmax over the whole vocabulary."""
    found = []
    for n, completion in enumerate(COMPLETIONS):
        prompt = sequences.prompt_ids_NP[n][sequences.prompt_mask_NP[n]].tolist()
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].float()
        rows = torch.log_softmax(logits, dim=1)
        found.append(float(rows[torch.arange(len(completion)), torch.tensor(completion)].sum()))
    return found


def shared(model, sequences):
    """Rows that are shared wherever the model allows it, whatever it costs."""
    pair_cost = None if abilities(model).pair_cost is None else 0.0
    return groups(sequences, range(len(sequences)), pair_cost, 4096)


def test_each_architecture_is_found_out(named_model):
    name, model = named_model
    rule, pair_cost, is_arranged = abilities(model)
    assert is_arranged == (name not in DO_NOT_SHARE | {"llama, eager"} and model.config._attn_implementation == "sdpa")
    wanted = RULES.get(name, (1.0, None))
    assert (rule is None) if wanted is None else ((rule.scale, rule.cap) == pytest.approx(wanted))
    assert (pair_cost is None) == (name in DO_NOT_SHARE)
    assert len(shared(model, batch())) == (5 if name in DO_NOT_SHARE else 2)


def test_packed_padded_and_plain_are_equal_within_1e_5_a_token(named_model):
    _, model = named_model
    sequences = batch()
    lengths = sequences.completion_mask_NT.sum(dim=1)
    wanted = torch.tensor(plain(model, sequences))
    for found in (
        completion_logprobs(model, sequences),
        completion_logprobs(model, sequences, shared(model, sequences)),
    ):
        assert ((found.detach() - wanted).abs() / lengths).max() < 1e-5
    parts = in_parts(model, sequences, 12)
    assert ((logprobs_in_batches(model, sequences, parts) - wanted).abs() / lengths).max() < 1e-5


def test_packed_and_plain_are_equal_within_2e_2_a_token_in_bfloat16(named_model):
    name, model = named_model
    if name == "mamba":
        pytest.skip("its state is summed in another order")
    model, sequences = model.bfloat16(), batch()
    lengths = sequences.completion_mask_NT.sum(dim=1)
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(0.3)  # logits of a language model's noise, not of this one's size
    wanted = torch.tensor(plain(model, sequences))
    for rows in (None, shared(model, sequences)):
        found = completion_logprobs(model, sequences, rows).detach()
        assert ((found - wanted).abs() / lengths).max() < 2e-2


def test_the_gradient_of_shared_rows_is_that_of_rows_apart(named_model):
    _, model = named_model
    sequences, factor = batch(), torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0])
    found = []
    for rows in (shared(model, sequences), [[n] for n in range(5)]):
        for total in (
            weighted_sum(model, sequences, rows, factor),
            (factor * completion_logprobs(model, sequences, rows)).sum(),
        ):
            model.zero_grad()
            total.backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for gradient in found[1:]:
        assert torch.allclose(gradient, found[0], rtol=1e-4, atol=1e-5)


def test_a_sequence_beyond_the_window_of_attention_shares_no_row():
    torch.manual_seed(3)
    model = Gemma2ForCausalLM(Gemma2Config(**SMALL, sliding_window=11)).eval()  # the longest sequence has 12
    assert abilities(model).pair_cost is not None
    assert len(shared_rows(model, batch(), 4096)) == 5


def test_of_a_compiled_model_nothing_is_replaced():
    torch.manual_seed(3)
    assert abilities(torch.compile(BUILDERS["llama"]().eval(), backend="eager")) == (None, None, False)
