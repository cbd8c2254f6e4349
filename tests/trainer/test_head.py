"""Log-probabilities by chunks of the head: values and gradients of a log-softmax over the whole vocabulary."""

import pytest
import torch
from torch import nn

from trainer import head as head_module
from trainer.head import LogitRule, token_logprobs, weighted_logprobs

RULES = {"plain": LogitRule(), "scaled": LogitRule(scale=0.25), "capped": LogitRule(cap=3.0)}


def plain(hidden, head, target, rule):
    raw = head(hidden)
    logits = torch.tanh(raw / rule.cap) * rule.cap if rule.cap else raw * rule.scale
    return torch.log_softmax(logits.float(), dim=1).gather(1, target[:, None]).squeeze(1)


def gradients(value, hidden, head):
    tensors = [hidden, *head.parameters()]
    return torch.autograd.grad(value, tensors)


@pytest.fixture(
    params=[(1, 1, 1), (3, 2, 1), (7, 5, 3), (3, 99, 99), (99, 4, 2), (99, 99, 99)],
    ids=["a token a chunk", "three in twos", "seven in fives", "three tokens", "fours in twos", "one chunk"],
)
def chunks(request, monkeypatch):
    names = "MOST_LOGITS", "MOST_MULTIPLIED_LOGITS", "MOST_CACHED_LOGITS"
    for name, tokens in zip(names, request.param, strict=True):
        monkeypatch.setattr(head_module, name, tokens * 29)
    monkeypatch.setattr(head_module, "WORTH_ROWS", 6)  # of the ten: some products are large


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("bias", [False, True], ids=["", "with a bias"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_values_and_gradients_are_those_of_a_full_log_softmax(rule, bias):
    head = nn.Linear(16, 29, bias=bias)
    nn.init.normal_(head.weight)
    hidden, target, factor = torch.randn(10, 16, requires_grad=True), torch.randint(29, (10,)), torch.randn(10)
    wanted = plain(hidden, head, target, rule)
    found = token_logprobs(hidden, head, target, rule)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5)
    total = weighted_logprobs(hidden, head, target, rule, factor)
    assert total.item() == pytest.approx((factor * wanted).sum().item(), abs=1e-4)
    kept = token_logprobs(hidden, head, target, rule, keep=True)
    assert torch.equal(kept, found)
    exact = gradients((factor * wanted).sum() * 2, hidden, head)
    for value in ((factor * found).sum() * 2, (factor * kept).sum() * 2, total * 2):
        for one, other in zip(gradients(value, hidden, head), exact, strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16 weights", "autocast"])
def test_bfloat16_is_that_of_the_head_itself(autocast):
    head, hidden, target = nn.Linear(16, 29, bias=False), torch.randn(10, 16), torch.randint(29, (10,))
    if not autocast:
        head, hidden = head.bfloat16(), hidden.bfloat16()
    hidden.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        wanted = plain(hidden, head, target, LogitRule())
        found = token_logprobs(hidden, head, target, LogitRule())
        kept = token_logprobs(hidden, head, target, LogitRule(), keep=True)
        total = weighted_logprobs(hidden, head, target, LogitRule(), torch.ones(10))
    assert found.dtype == torch.float32
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5)
    for value in (found.sum(), kept.sum(), total):
        for one, other in zip(gradients(value, hidden, head), gradients(wanted.sum(), hidden, head), strict=True):
            assert one.dtype == other.dtype
            assert torch.allclose(one.float(), other.float(), rtol=0, atol=2e-2)
            wanted = plain(hidden, head, target, LogitRule()) if not autocast else _again(hidden, head, target)


def _again(hidden, head, target):
    with torch.autocast("cpu", torch.bfloat16):
        return plain(hidden, head, target, LogitRule())


def test_a_frozen_head_gets_no_gradient():
    head = nn.Linear(16, 29).requires_grad_(False)
    hidden = torch.randn(4, 16, requires_grad=True)
    weighted_logprobs(hidden, head, torch.zeros(4, dtype=torch.long), LogitRule(), torch.ones(4)).backward()
    assert hidden.grad is not None
    assert head.weight.grad is None


def test_logits_too_many_to_keep_are_computed_again(monkeypatch):
    head, hidden, target = nn.Linear(16, 29), torch.randn(4, 16, requires_grad=True), torch.arange(4)
    for most, is_kept in ((4 * 29, True), (4 * 29 - 1, False)):
        monkeypatch.setattr(head_module, "MOST_KEPT_LOGITS", most)
        found = token_logprobs(hidden, head, target, LogitRule(), keep=True)
        assert (found.grad_fn.kept_MV is not None) is is_kept
        once = torch.autograd.grad(found.sum(), hidden, retain_graph=True)[0]
        assert found.grad_fn.kept_MV is None
        assert torch.allclose(torch.autograd.grad(found.sum(), hidden)[0], once, atol=1e-6)
