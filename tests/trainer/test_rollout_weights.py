"""Rollouts leave every weight bit for bit as it was, and compute with copies: an adapter merged, types cast once."""

import copy
from contextlib import nullcontext

import peft
import pytest
import torch
from torch.nn import functional

from trainer.adapted_linear import affine_of
from trainer.merged_adapter import merged_adapter
from trainer.packed_linear import packed_linears, packs_adapters
from trainer.rollout import Sampler

PROMPTS = [[3, 6, 4], [3, 6, 7, 8, 9, 4]]
KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True, "lora_alpha": 7},
    "dora": {"use_dora": True},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.fixture(params=KINDS)
def adapted(request, policy):
    settings = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **KINDS[request.param]}
    model = peft.get_peft_model(policy, peft.LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.3)
    return model


def state(model) -> dict:
    return {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}


def is_same(before: dict, after: dict) -> bool:
    return before.keys() == after.keys() and all(
        before[name][0] == after[name][0] and torch.equal(before[name][1], after[name][1]) for name in before
    )


def merged_layers(model) -> list:
    return [module for module in model.modules() if getattr(module, "merged", False)]


# -- An adapter ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_mixed", [False, True])
def test_an_adapter_is_split_off_again_bit_for_bit(adapted, tokenizer, is_mixed):
    before = state(adapted)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            Sampler(tokenizer, (1,), 5, 8).sample(adapted, PROMPTS, 2, 1.0)
    assert is_same(before, state(adapted))
    assert merged_layers(adapted) == []
    assert trained == {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}


def test_what_is_sampled_is_the_adapted_model(adapted, tokenizer):
    sampler = Sampler(tokenizer, (), 8, 8)
    groups = sampler.sample(adapted, PROMPTS, 1, 0)
    with torch.no_grad():
        for prompt, [completion] in zip(PROMPTS, groups, strict=True):
            logits = adapted(torch.tensor([[*prompt, *completion.token_ids]])).logits[0]
            assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == list(completion.token_ids)


def test_the_adapter_is_in_the_weights_meanwhile(adapted):
    inputs = torch.tensor([PROMPTS[1]])
    with torch.no_grad():
        beside = adapted(inputs).logits
        with merged_adapter(adapted):
            assert len(merged_layers(adapted)) > 0
            assert torch.allclose(adapted(inputs).logits, beside, atol=1e-4)


def test_mixed_precision_merges_as_float32_does(policy):
    model = peft.get_peft_model(policy, peft.LoraConfig(target_modules=["down_proj"], init_lora_weights=False))
    down = model.get_base_model().model.layers[0].mlp.down_proj
    with merged_adapter(model):
        wanted = down.weight.clone()
    with torch.autocast("cpu", torch.bfloat16):
        with merged_adapter(model):
            assert torch.equal(down.weight, wanted)
        assert packs_adapters(model)
        assert torch.equal(affine_of(down).merged(), wanted)


def test_an_adapter_that_is_off_stays_off(adapted, tokenizer):
    sampler = Sampler(tokenizer, (1,), 8, 8)
    base = copy.deepcopy(adapted).unload()
    with adapted.disable_adapter():
        without = sampler.sample(adapted, PROMPTS, 1, 0)
    assert without == sampler.sample(base, PROMPTS, 1, 0)


def test_a_failure_in_the_middle_leaves_nothing_merged(adapted, tokenizer):
    before = state(adapted)

    def fail(start, groups):
        raise RuntimeError("the judge is gone")

    with pytest.raises(RuntimeError, match="judge is gone"):
        Sampler(tokenizer, (1,), 5, 8).sample(adapted, PROMPTS, 2, 1.0, on_chunk=fail)
    assert is_same(before, state(adapted))
    assert merged_layers(adapted) == []
    assert all("forward" not in vars(module) for module in adapted.modules())


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # peft says so of every such model
def test_virtual_tokens_before_a_prompt_are_kept(policy, tokenizer):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(policy, config)
    groups = Sampler(tokenizer, (1,), 5, 8).sample(model, PROMPTS, 2, 1.0)
    assert [len(group) for group in groups] == [2, 2]


# -- Weights laid out for generation ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_layer_computes_what_autocast_computes(bias, dtype):
    layer = torch.nn.Linear(96, 40, bias=bias)
    inputs = torch.randn(5, 2, 96)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        wanted = layer(inputs)
        with packed_linears(layer, 10):
            assert "forward" in vars(layer)
            found = layer(inputs)
    assert found.dtype == wanted.dtype == dtype
    # one bfloat16 step apart at most: the sums are float32, in another order
    assert torch.allclose(found.float(), wanted.float(), rtol=2**-7, atol=1e-3)
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("adapter", ["none", "merged", "beside"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_layers_that_read_the_same_input_compute_what_they_compute_apart(build_policy, adapter, bias):
    model = build_policy(attention_bias=bias, mlp_bias=bias)
    attention, mlp = model.model.layers[0].self_attn, model.model.layers[0].mlp
    if adapter != "none":
        targets = ["q_proj", "v_proj", "up_proj"]
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, init_lora_weights=False))
    layers = [attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj]
    x, other = torch.randn(3, 2, 16), torch.randn(3, 2, 16)
    mixed = torch.autocast("cpu", torch.bfloat16)
    with torch.no_grad(), mixed, merged_adapter(model):
        wanted = [[layer(one) for layer in layers] for one in (x, other, x + 1)]
    merged = merged_adapter(model) if adapter == "merged" else nullcontext()
    with torch.no_grad(), mixed, merged, packed_linears(model, 6):
        assert "forward" in vars(attention.q_proj)
        found = [[layer(one) for layer in layers] for one in (x, other)]
        turned = [layer(one) for layer in layers for one in (x, other)]  # as if another came between
        x.add_(1)
        found.append([layer(x) for layer in layers])
    for row, wanted_row in zip([*found, turned[::2], turned[1::2]], [*wanted, wanted[0], wanted[1]], strict=True):
        for one, other_one in zip(row, wanted_row, strict=True):
            assert one.shape == other_one.shape
            assert torch.allclose(one.float(), other_one.float(), rtol=2**-7, atol=1e-3)
    assert not any("forward" in vars(module) for module in model.modules())


def test_layers_of_unlike_inputs_or_biases_are_not_joined():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj = torch.nn.Linear(4, 3, bias=False), torch.nn.Linear(4, 3)

    odd = Odd()
    x = torch.randn(2, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = odd.gate_proj(x), odd.up_proj(x)
        with packed_linears(odd, 2):
            found = odd.gate_proj(x), odd.up_proj(x)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_in_the_copies_where_it_is_a_product(policy, kind):
    settings = {"target_modules": "all-linear", "init_lora_weights": False, **KINDS[kind]}
    model = peft.get_peft_model(policy, peft.LoraConfig(**settings))
    assert not packs_adapters(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert packs_adapters(model) == (kind in {"lora", "rslora"})
        with model.disable_adapter():
            assert packs_adapters(model) == (kind != "embedding")


def test_a_layer_in_float32_is_left_as_it_is(policy):
    with packed_linears(policy, 8):
        assert all("forward" not in vars(module) for module in policy.modules())


def test_a_layer_of_another_class_or_with_its_own_forward_is_left_alone():
    class Quantised(torch.nn.Linear):
        pass

    hooked = torch.nn.Linear(4, 4)
    hooked.forward = own = lambda x: functional.linear(x, hooked.weight)
    model = torch.nn.Sequential(Quantised(4, 4), hooked)
    with torch.autocast("cpu", torch.bfloat16), packed_linears(model, 8):
        assert "forward" not in vars(model[0])
        assert hooked.forward is own
    assert hooked.forward is own


def test_mixed_precision_samples_nearly_the_same_distribution(policy, tokenizer):
    # The first token of 4000 samples against float32's probabilities; bfloat16 moves them by about 0.01.
    sampler = Sampler(tokenizer, (1,), 1, 4000)
    with torch.autocast("cpu", torch.bfloat16):
        (group,) = sampler.sample(policy, [PROMPTS[0]], 4000, 1.0)
    found = torch.bincount(torch.tensor([c.token_ids[0] for c in group]), minlength=28) / 4000
    with torch.no_grad():
        wanted = torch.softmax(policy(torch.tensor([PROMPTS[0]])).logits[0, -1], dim=0)
    assert torch.allclose(found, wanted, atol=0.045)


def test_gradients_flow_after_a_rollout_in_the_same_mixed_precision_context(policy, tokenizer):
    with torch.autocast("cpu", torch.bfloat16):
        Sampler(tokenizer, (1,), 4, 8).sample(policy, PROMPTS, 2, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        policy(torch.tensor([PROMPTS[0]])).logits.float().sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())
