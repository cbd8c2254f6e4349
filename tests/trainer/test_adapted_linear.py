"""A layer with an adapter as one function: the same output bit for bit, gradients but for rounding, less kept."""

import peft
import pytest
import torch
from torch import nn

from tests.trainer.test_lean_layers import assert_same, passed
from trainer.adapted_linear import affine_of
from trainer.lean_layers import lean_layers

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = {
    "power of two": {"lora_alpha": 16},
    "rslora": {"use_rslora": True, "lora_alpha": 7},
    "some layers": {"target_modules": ["q_proj", "gate_proj"]},
    "down alone": {"target_modules": ["down_proj"]},
    "dora": {"use_dora": True},
    "bias of its own": {"lora_bias": True},
    "dropout, switched off": {"lora_dropout": 0.5},
}


def adapted(model, **changes):
    model = peft.get_peft_model(
        model, peft.LoraConfig(**{"r": 4, "target_modules": ALL, "init_lora_weights": False, **changes})
    )
    return model.eval()


def changed(model):
    with lean_layers(model.get_base_model()):
        return {name for name, module in model.get_base_model().named_modules() if "forward" in vars(module)}


@pytest.mark.parametrize("is_mixed", [False, True], ids=["float32", "mixed"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_same_bit_for_bit_and_gradients_but_for_rounding(build_policy, kind, is_mixed):
    model = adapted(build_policy(mlp_bias=True, attention_bias=True), **KINDS[kind]).get_base_model()
    assert_same(model, is_mixed, 0.05 if is_mixed else 1e-5)


def test_weights_that_train_beside_an_adapter_get_their_gradients(build_policy):
    model = adapted(build_policy(mlp_bias=True)).get_base_model()
    model.requires_grad_(True)
    assert_same(model)


def test_less_is_kept_for_the_backward_pass(build_policy):
    model = adapted(build_policy(hidden_size=64, intermediate_size=192, num_hidden_layers=6)).get_base_model()
    plain, lean = (passed(model, is_lean, True, rows=100)[2] for is_lean in (False, True))
    assert lean < 0.65 * plain


def test_the_reference_is_the_layer_below(build_policy):
    model = adapted(build_policy())
    ids = torch.arange(3, 15)[None]
    with torch.no_grad(), model.disable_adapter():
        wanted = model(ids).logits
        with lean_layers(model.get_base_model()):
            assert torch.equal(model(ids).logits, wanted)
    with torch.no_grad(), lean_layers(model.get_base_model()):
        assert not torch.equal(model(ids).logits, wanted)


def test_what_is_more_than_a_product_is_left_to_peft(build_policy):
    layer = "model.layers.0.mlp.down_proj"
    assert layer in changed(adapted(build_policy()))
    for kind in ("dora", "bias of its own"):
        assert layer not in changed(adapted(build_policy(mlp_bias=True, attention_bias=True), **KINDS[kind]))
    assert layer not in changed(adapted(build_policy(), lora_dropout=0.5).train())

    two = adapted(build_policy())
    two.add_adapter("other", peft.LoraConfig(r=2, target_modules=ALL))
    two.base_model.set_adapter(["default", "other"])
    assert layer not in changed(two)

    watched = adapted(build_policy())
    watched.get_base_model().get_submodule(layer).lora_A["default"].register_forward_hook(lambda *_: None)
    assert layer not in changed(watched)


def test_an_adapter_on_its_way_out_of_the_weight_is_left_to_peft(build_policy):
    model = adapted(build_policy())
    down = model.get_base_model().get_submodule("model.layers.0.mlp.down_proj")
    model.merge_adapter()
    assert affine_of(down).lora_A is None
    down.enable_adapters(False)
    assert affine_of(down) is None


def test_other_layers_are_none_of_it():
    assert affine_of(nn.Bilinear(2, 2, 2)) is None
    assert affine_of(nn.Linear(2, 3)).tensors[2:] == (None, None)
