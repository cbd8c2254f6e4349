"""The beginning that rows share is computed once, and no score shows it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, MistralForSequenceClassification

from reward_service.model import RewardModel, check_model
from reward_service.prefix import WORTH_TOKENS
from reward_service.settings import RewardSettings

Save = Callable[..., Path]
LONG = "What is up, and what is down? " * 4  # a token a byte, so more than is worth it


def load(folder: Path, **settings: object) -> RewardModel:
    return check_model(RewardSettings(**{"model": str(folder), "dtype": "float32", **settings})).load()


def shapes_of(model: RewardModel) -> list[tuple[int, int]]:
    """Rows and columns of every pass from now on."""
    shapes: list[tuple[int, int]] = []
    model._model.base_model.register_forward_pre_hook(
        lambda _, args, given: shapes.append(tuple((args[0] if args else given["input_ids"]).shape)), with_kwargs=True
    )
    return shapes


def rows_of(model: RewardModel, prompt: str, *answers: str) -> list[list[int]]:
    return [model.encode(prompt, answer).ids for answer in answers]


def test_rows_of_one_prompt_score_as_alone_and_the_prompt_is_computed_once(save: Save) -> None:
    served = load(save())
    rows = rows_of(served, LONG, "yes", "no, it is not", "")
    alone = [served.score([row])[0] for row in rows]
    shapes = shapes_of(served)
    assert served.score(rows) == pytest.approx(alone, abs=1e-4)
    # "<|im_start|>user\n" + prompt + "<|im_end|>\n<|im_start|>assistant\n": control tokens and bytes.
    shared = 1 + 5 + len(LONG) + 1 + 1 + 1 + 10
    assert shapes == [(1, shared), (3, len("no, it is not") + 2)]
    assert served.score(rows[::-1]) == pytest.approx(alone[::-1], abs=1e-4)
    assert len(shapes) == 3  # kept for the next batch


def test_a_batch_that_shares_a_little_more_uses_what_is_kept_and_one_that_shares_less_does_not(save: Save) -> None:
    served = load(save())
    served.score(rows_of(served, LONG, "yes", "no"))
    shapes = shapes_of(served)
    more = rows_of(served, LONG, "the same, and this", "the same, or that")
    less = rows_of(served, LONG[:80], "yes", "no")
    for rows, passes in ((more, 1), (less, 2)):
        shapes.clear()
        assert served.score(rows) == pytest.approx([served.score([row])[0] for row in rows], abs=1e-4)
        assert len(shapes) == passes + len(rows)


def test_the_token_that_a_number_is_read_off_is_never_in_the_shared_part(save: Save) -> None:
    served = load(save())
    beginning = list(range(40, 40 + 2 * WORTH_TOKENS))
    rows = [beginning, [*beginning, 50], [*beginning[:-1], 0, 0], [*beginning, 51, 0]]  # 0 is the pad token
    assert served.score(rows) == pytest.approx([served.score([row])[0] for row in rows], abs=1e-4)


def test_the_templates_own_beginning_is_kept_from_the_start(save: Save, tokenizer: object) -> None:
    tokenizer.chat_template = "{{ 'You are a reward model. ' }}" + tokenizer.chat_template
    served = load(save(tokenizer=tokenizer))
    plain = load(save(tokenizer=tokenizer), share_prefix=False)
    shapes = shapes_of(served)
    for answer in ("yes", "yes " * 40):
        row = served.encode("Hi", answer).ids
        assert served.score([row]) == pytest.approx(plain.score([row]), abs=1e-4)
        # "You are a reward model. <|im_start|>user\n": control tokens and bytes.
        assert shapes.pop() == (1, len(row) - (24 + 1 + 5))
    assert not shapes


def test_a_few_tokens_are_not_worth_a_pass_of_their_own(save: Save) -> None:
    served = load(save())
    shapes = shapes_of(served)
    served.score(rows_of(served, "Hi", "yes", "no"))
    assert len(shapes) == 1


@pytest.mark.parametrize("settings", [{"share_prefix": False}, {}])
def test_nothing_is_shared_where_that_is_not_wanted_or_the_model_forgets_old_tokens(
    save: Save, settings: dict[str, bool]
) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=259, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_labels=1, pad_token_id=0, initializer_range=0.3, sliding_window=32,
    )  # fmt: skip
    served = load(save() if settings else save(MistralForSequenceClassification(config)), **settings)
    rows = rows_of(served, LONG, "yes", "no, it is not")
    alone = [served.score([row])[0] for row in rows]
    shapes = shapes_of(served)
    assert served.score(rows) == pytest.approx(alone, abs=1e-4)
    assert len(shapes) == 1
