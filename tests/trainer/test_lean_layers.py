"""Layers that keep less for the backward pass: the same numbers, bit for bit, and nothing left behind."""

from contextlib import nullcontext

import peft
import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from trainer.lean_layers import cast_once, lean_layers

SIZES = {
    "vocab_size": 30, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip


def mixed(is_mixed):
    return torch.autocast("cpu", torch.bfloat16) if is_mixed else nullcontext()


def mixed_inside(model):
    """Let mixed precision begin with the model's forward, as accelerate has it; the function returned ends that."""
    plain = model.forward

    def forward(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            return plain(*args, **kwargs)

    model.forward = forward
    return lambda: vars(model).pop("forward")


def passed(model, is_lean, is_mixed=False, rows=2):
    """Return logits, every gradient, and the bytes kept for the backward pass, of a loss of all logits."""
    model.zero_grad()
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.arange(12 * rows).view(rows, 12) % 25 + 3
    lean = lean_layers(model) if is_lean else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), mixed(is_mixed), lean:
        logits = model(ids, use_cache=False).logits.float()
    (logits * torch.linspace(-1, 1, logits.numel()).view(logits.shape)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return logits.detach(), gradients, sum(size for place, size in kept.items() if place not in weights)


def assert_same(model, is_mixed=False, tolerance=1e-5):
    """Logits are the same bit for bit with lean layers and without, and gradients but for rounding."""
    plain, wanted, _ = passed(model, False, is_mixed)
    lean, gradients, _ = passed(model, True, is_mixed)
    assert torch.equal(lean, plain)
    assert gradients.keys() == wanted.keys()
    for name, one in wanted.items():
        assert (gradients[name] - one).norm() <= tolerance * one.norm() + 1e-6, name


@pytest.mark.parametrize("is_mixed", [False, True], ids=["float32", "mixed"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
def test_logits_are_the_same_bit_for_bit_and_gradients_but_for_rounding(build_policy, kind, is_mixed):
    models = {
        "llama": lambda: build_policy(mlp_bias=True, attention_bias=True),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES)),
    }
    model = models[kind]()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    assert_same(model, is_mixed, 0.03 if is_mixed else 1e-5)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("is_adapted", [False, True])
def test_mixed_precision_may_begin_with_the_models_forward(build_policy, is_adapted):
    model = build_policy(mlp_bias=True)
    if is_adapted:
        settings = peft.LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, settings).get_base_model()
    restore = mixed_inside(model)
    assert_same(model, tolerance=0.05)
    restore()


def test_less_is_kept_for_the_backward_pass(build_policy):
    model = build_policy(hidden_size=64, intermediate_size=192, num_hidden_layers=6)
    plain, lean = (passed(model, is_lean, True, rows=100)[2] for is_lean in (False, True))
    assert lean < 0.75 * plain


def test_what_is_frozen_gets_no_gradient(build_policy):
    model = build_policy()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("q_proj" in name)
    _, wanted, _ = passed(model, False)
    _, gradients, _ = passed(model, True)
    assert list(gradients) == [name for name, _ in model.named_parameters() if "q_proj" in name]
    assert all((gradients[name] - one).norm() <= 1e-5 * one.norm() for name, one in wanted.items())


def test_a_norm_of_another_rule_and_a_watched_layer_are_left_alone(build_policy):
    class OtherRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states):
            return super().forward(hidden_states) + 1e-3

    model = build_policy()
    model.model.norm = OtherRMSNorm(16)
    seen = []
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: seen.append(1))
    with lean_layers(model):
        changed = {name for name, module in model.named_modules() if "forward" in vars(module)}
        model(torch.tensor([[3, 4]]))
    assert changed.isdisjoint({"model.norm", "model.layers.0.mlp"})
    assert {"model.layers.0.input_layernorm", "model.layers.1.mlp"} <= changed
    assert seen == [1]


def test_a_pass_that_is_repeated_or_draws_is_left_alone(build_policy):
    model = build_policy().train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    with lean_layers(model):
        assert not any("forward" in vars(module) for module in model.modules())


def test_forwards_come_back_after_an_error(build_policy):
    model = build_policy()
    with pytest.raises(ZeroDivisionError), lean_layers(model):
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_tensor_is_cast_once_until_it_changes():
    x = torch.randn(3, requires_grad=True) * 1
    cast = cast_once(x, torch.bfloat16)
    assert cast_once(x, torch.bfloat16) is cast
    assert cast.requires_grad
    assert cast_once(x, torch.float16).dtype == torch.float16
    assert cast_once(x, torch.float32) is x
    with torch.no_grad():
        assert not cast_once(x, torch.bfloat16).requires_grad
        x.add_(1)
    assert torch.equal(cast_once(x, torch.bfloat16), x.bfloat16())
    assert cast_once(x, torch.bfloat16).requires_grad


def test_a_linear_layer_of_any_input_computes_as_before():
    layer = nn.Linear(4, 2)
    x = torch.randn(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = layer(x)
        with lean_layers(layer):
            assert torch.equal(layer(x), wanted)
            assert torch.equal(layer(x.bfloat16()), wanted)
