"""The head that is fitted to preference pairs on a frozen backbone."""

import math

import pytest
import torch
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from trainer.fitting.pairs import Pair, asked
from trainer.fitting.reward_head import bradley_terry_head, features_of, fit_reward_head


def conversation(prompt: str, answer: str) -> tuple[tuple[str, str], ...]:
    return (("user", prompt), ("assistant", answer))


def test_the_head_is_the_minimum_of_the_formula() -> None:
    # One feature, one pair: chosen 1, rejected -1. std([1, -1]) = sqrt(2), mean 0, so with r = v f / sqrt(2) the loss
    # is log(1 + exp(-sqrt(2) v)) + 0.3 v^2; its derivative at the minimum, -sqrt(2) sigmoid(-sqrt(2) v) + 0.6 v, is 0.
    weight = bradley_terry_head(torch.tensor([[1.0]]), torch.tensor([[-1.0]]), weight_decay=0.3)
    v = weight.item() * math.sqrt(2)
    assert v > 0
    assert -math.sqrt(2) / (1 + math.exp(math.sqrt(2) * v)) + 0.6 * v == pytest.approx(0, abs=1e-4)


def test_features_do_not_depend_on_batch_mates(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    conversations = [conversation("a", "b" * length) for length in (1, 9, 30, 4)]
    together = features_of(reward_model, tokenizer, conversations, batch_size=4)
    alone = features_of(reward_model, tokenizer, conversations, batch_size=1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weight_decay", [0.01, None])
def test_the_saved_head_scores_as_the_report_says(
    reward_model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, weight_decay: float | None
) -> None:
    pairs = [
        Pair(asked(p), (("assistant", f"{p} is good"),), (("assistant", f"{p} is bad"),), "other") for p in "abcdefgh"
    ]
    report, told = fit_reward_head(reward_model, tokenizer, pairs[:6], pairs[6:], weight_decay)
    assert report["pair_accuracy"] == 1.0
    assert (report["pairs"], report["held_out_pairs"]) == (6, 2)

    def score(turns: tuple[tuple[str, str], ...]) -> float:
        messages = [{"role": role, "content": content} for role, content in turns]
        with torch.no_grad():
            return reward_model(**tokenizer.apply_chat_template(messages, return_tensors="pt")).logits.item()

    scores = [[score(turns) for turns in pair.conversations] for pair in pairs]
    assert [told[turns] for turns in pairs[0].conversations] == pytest.approx(scores[0], abs=1e-4)
    assert report["score_mean_chosen"] == pytest.approx(sum(chosen for chosen, _ in scores) / 8, abs=1e-4)
    assert report["held_out_pair_accuracy"] == sum(chosen > rejected for chosen, rejected in scores[6:]) / 2
    assert report["held_out_pair_accuracy_by_kind"] == {"other": report["held_out_pair_accuracy"]}


def test_a_model_with_two_labels_is_refused(
    tokenizer: PreTrainedTokenizerFast, reward_model: LlamaForSequenceClassification
) -> None:
    reward_model.config.num_labels = 2
    with pytest.raises(ValueError, match="num_labels=2: load it with num_labels=1"):
        fit_reward_head(reward_model, tokenizer, [], [])
