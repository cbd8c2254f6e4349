"""A scalar reward head fitted to preference pairs on a frozen backbone, whose features are computed once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.fitting.encoding import Advance, encoded, sorted_batches
from trainer.fitting.pairs import Pair, Turns, split_by_prompt

__all__ = ["WEIGHT_DECAYS", "accuracy_report", "bradley_terry_head", "distinct", "features_of", "fit_reward_head"]

WEIGHT_DECAYS = (0.003, 0.03, 0.3)
"""What `fit_reward_head` chooses from where it is told none."""


@torch.inference_mode()
def features_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Turns],
    batch_size: int = 48,
    max_length: int | None = None,
    advance: Advance | None = None,
) -> Tensor:
    """Returns what a sequence classifier's head sees of each conversation: `features_NH` in float32.

    That is the backbone's last hidden state at the last token of the conversation in the model's chat template.
    """
    rows = encoded(tokenizer, conversations, max_length)
    features_NH = torch.empty(len(rows), model.config.hidden_size)
    for chosen, batch in sorted_batches(model, rows, batch_size):
        hidden = model.base_model(**batch, use_cache=False).last_hidden_state
        last = batch["attention_mask"].sum(dim=1) - 1
        features_NH[chosen] = hidden[torch.arange(len(chosen), device=hidden.device), last].float().cpu()
        if advance:
            advance(len(chosen))
    return features_NH


def bradley_terry_head(chosen_NH: Tensor, rejected_NH: Tensor, weight_decay: float, steps: int = 100) -> Tensor:
    """Returns the weight of a linear head, `weight_H`, under which chosen answers score above rejected ones.

    Formula: mean(-log sigmoid(r_chosen - r_rejected)) + weight_decay * |v|^2 + 0.01 * mean(r)^2, where r = f . w and
    w = v / std(f).
    The loss sees differences only, and a head without bias has no other way to place its zero: the last term does.
    Convex, so L-BFGS from zero finds the same head every time.

    Source: Bradley and Terry (1952); as a loss for reward models, Ouyang et al. (2022), eq 1.
    """
    both = torch.cat([chosen_NH, rejected_NH])
    scale = both.std(dim=0).clamp_min(1e-6)
    chosen, rejected, centre = chosen_NH / scale, rejected_NH / scale, both.mean(dim=0) / scale
    v = torch.zeros(chosen.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([v], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -torch.nn.functional.logsigmoid((chosen - rejected) @ v).mean()
        loss = loss + weight_decay * v.square().sum() + 0.01 * (centre @ v).square()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (v / scale).detach()


def fit_reward_head(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    weight_decay: float | None = None,
    batch_size: int = 48,
    max_length: int | None = None,
    advance: Advance | None = None,
) -> tuple[dict[str, Any], dict[Turns, float]]:
    """Sets the head of a one-label sequence classifier from `pairs`; returns a report on `held_out`, and all scores.

    The backbone stays frozen: its features are computed once, so this takes one forward pass per distinct answer.
    Without a weight decay the best of `WEIGHT_DECAYS` is taken, by accuracy on a fifth of the prompts of `pairs`.

    Raises:
        ValueError: The model has another number of labels than one, or no linear head named `score`.
    """
    if model.config.num_labels != 1 or not isinstance(getattr(model, "score", None), torch.nn.Linear):
        raise ValueError(
            f"a reward model has one label and a linear head named `score`; this {type(model).__name__} has "
            f"num_labels={model.config.num_labels}: load it with num_labels=1"
        )
    conversations = distinct([*pairs, *held_out])
    place = {turns: index for index, turns in enumerate(conversations)}
    features_NH = features_of(model, tokenizer, conversations, batch_size, max_length, advance)

    def fitted(to: Sequence[Pair], decay: float) -> Tensor:
        chosen, rejected = ([place[pair.conversations[side]] for pair in to] for side in (0, 1))
        return bradley_terry_head(features_NH[chosen], features_NH[rejected], decay)

    if weight_decay is None:
        inner, tested = split_by_prompt(pairs, 0.2, seed=1)
        scored = {decay: features_NH @ fitted(inner, decay) for decay in WEIGHT_DECAYS}
        # Between equals the largest: the head that trusts its pairs least.
        weight_decay = max(WEIGHT_DECAYS, key=lambda decay: (_accuracy(scored[decay], place, tested), decay))
    with torch.no_grad():
        model.score.weight.copy_(fitted(pairs, weight_decay))
    # Scored with the weight as the model stores it, so that the report is of the model that is saved.
    scores = dict(
        zip(conversations, (features_NH @ model.score.weight[0].detach().float().cpu()).tolist(), strict=True)
    )
    return {**accuracy_report(pairs, held_out, scores), "weight_decay": weight_decay}, scores


def accuracy_report(pairs: Sequence[Pair], held_out: Sequence[Pair], scores: dict[Turns, float]) -> dict[str, Any]:
    """Returns on how many pairs the chosen answer scores higher, and between which numbers the scores lie.

    Args:
        pairs: Those that were fitted to; the ones without scores are left out.
        held_out: Those that were not.
        scores: Of each conversation.
    """
    fitted = [_is_right(pair, scores) for pair in pairs if pair.conversations[0] in scores]
    tested = [(pair.kind, _is_right(pair, scores)) for pair in held_out]
    by_kind = {kind: [ok for k, ok in tested if k == kind] for kind in sorted({kind for kind, _ in tested} - {""})}
    sides = [[scores[pair.conversations[side]] for pair in [*pairs, *held_out] if pair.conversations[side] in scores]
             for side in (0, 1)]  # fmt: skip
    means = [sum(side) / len(side) if side else None for side in sides]
    return {
        "pairs": len(pairs),
        "pair_accuracy": sum(fitted) / len(fitted) if fitted else None,
        "held_out_pairs": len(held_out),
        "held_out_pair_accuracy": sum(ok for _, ok in tested) / len(tested) if tested else None,
        "held_out_pair_accuracy_by_kind": {kind: sum(oks) / len(oks) for kind, oks in by_kind.items()},
        "score_mean_chosen": means[0],
        "score_mean_rejected": means[1],
        "score_min": min(scores.values()),
        "score_max": max(scores.values()),
    }


def distinct(pairs: Sequence[Pair]) -> list[Turns]:
    """Returns every conversation of these pairs once."""
    return list(dict.fromkeys(turns for pair in pairs for turns in pair.conversations))


def _is_right(pair: Pair, scores: dict[Turns, float]) -> bool:
    chosen, rejected = pair.conversations
    return scores[chosen] > scores[rejected]


def _accuracy(scores_N: Tensor, place: dict[Turns, int], pairs: Sequence[Pair]) -> float:
    right = [scores_N[place[p.conversations[0]]] > scores_N[place[p.conversations[1]]] for p in pairs]
    return float(sum(right)) / len(right)
