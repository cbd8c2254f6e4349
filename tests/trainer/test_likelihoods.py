"""Which log-probabilities a step computes, how often, and what it keeps of them for the update."""

import json
from contextlib import nullcontext
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig

from trainer import likelihoods as likelihoods_module
from trainer import update as update_module
from trainer.batch import Sequences
from trainer.likelihoods import Likelihoods, Models
from trainer.loss import LossSettings
from trainer.losses import codpo, crraft


class EvenLength:
    def judge(self, prompts, completions):
        return [len(completion) % 2 == 0 for completion in completions]


@pytest.fixture
def counted(monkeypatch):
    """Members of each forward pass, by what it is for: kept with its graph, without gradient, in the update."""
    seen = {"kept": [], "plain": [], "update": []}
    kept, plain, update = (
        likelihoods_module.completion_logprobs, likelihoods_module.logprobs_in_batches, update_module.weighted_sum,
    )  # fmt: skip

    def count(kind, parts):
        seen[kind].extend(n for rows in parts for row in rows for n in row)

    def watched_kept(model, sequences, rows, keep):
        count("kept", [rows])
        return kept(model, sequences, rows, keep)

    def watched_plain(model, sequences, parts):
        count("plain", parts)
        return plain(model, sequences, parts)

    def watched_update(model, sequences, rows, factor_N):
        count("update", [rows])
        return update(model, sequences, rows, factor_N)

    monkeypatch.setattr(likelihoods_module, "completion_logprobs", watched_kept)
    monkeypatch.setattr(likelihoods_module, "logprobs_in_batches", watched_plain)
    monkeypatch.setattr(update_module, "weighted_sum", watched_update)
    return seen


def run(build_trainer, name, peft_config=None, **config):
    settings = {"rlhf_optimizer": name, "max_steps": 1, "per_device_train_batch_size": 8, **config}
    trainer = build_trainer(settings, mixture_of_judges=[EvenLength()], peft_config=peft_config)
    trainer.train()
    return trainer


def written(trainer) -> list[dict]:
    (path,) = sorted((Path(trainer.args.output_dir) / "completions").glob("train-*.parquet"))
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "adapter"])
def test_a_step_within_the_budget_has_one_forward_pass_of_the_policy(build_trainer, counted, adapter):
    peft_config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM") if adapter else None
    run(build_trainer, "crpg", peft_config, update_tokens=2048)
    assert sorted(counted["kept"]) == list(range(32))
    assert sorted(counted["plain"]) == list(range(32))  # the reference
    assert counted["update"] == []


def test_beyond_the_budget_only_the_first_part_is_kept(build_trainer, counted):
    run(build_trainer, "crpg", update_tokens=48)
    kept, update = set(counted["kept"]), set(counted["update"])
    assert kept
    assert update
    assert kept.isdisjoint(update)
    assert len(counted["plain"]) == 32 + (32 - len(kept))


@pytest.mark.parametrize(
    "config",
    [
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"disable_dropout": False},
        {"activation_checkpointing": True},
        {"balance_task_gradients": True},
    ],
    ids=lambda config: next(iter(config)),
)
def test_nothing_is_kept_where_the_update_needs_another_pass(build_trainer, build_policy, counted, config):
    model = build_policy(attention_dropout=0.5)
    settings = {"rlhf_optimizer": "crpg", "max_steps": 1, "per_device_train_batch_size": 8, **config}
    build_trainer(settings, mixture_of_judges=[EvenLength()], model=model).train()
    assert counted["kept"] == []
    assert counted["update"]


@pytest.mark.parametrize("is_here", [False, True], ids=["elsewhere", "on this processor"])
@pytest.mark.parametrize(("name", "most"), [("codpo", 16), ("crraft", 8), ("raft", 8), ("online_dpo", 16)])
def test_only_what_the_plan_uses_is_computed_and_one_of_each_prompt(build_trainer, counted, name, most, is_here):
    trainer = build_trainer(
        {"rlhf_optimizer": name, "max_steps": 1, "per_device_train_batch_size": 8, "update_tokens": 2048},
        mixture_of_judges=[EvenLength()],
    )
    assert trainer.scoring.reward_model.is_here
    trainer.scoring.reward_model.is_here = is_here
    trainer.train()
    kept, firsts = counted["kept"], list(range(0, 32, 4))
    assert 0 < len(kept) == len(set(kept)) <= most
    assert counted["update"] == []
    known = [row["logratio"] is not None for row in written(trainer)]
    assert {n for n in range(32) if known[n]} == {*firsts, *kept}
    # Found while the reward model works elsewhere, firsts that are trained on go forward again; else they are left for
    # the pass behind it, by policy and reference.
    others = [n for n in firsts if n not in kept]
    passes = [others, kept, others] if is_here else [firsts, firsts, kept]
    assert sorted(counted["plain"]) == sorted(n for one in passes for n in one)


def test_the_mean_logratio_is_that_of_each_prompts_first(build_trainer):
    trainer = run(build_trainer, "codpo", max_steps=2, learning_rate=0.1)
    first = [
        row["logratio"] for row in pq.read_table(sorted(Path(trainer.args.output_dir).rglob("train-*"))[-1]).to_pylist()
    ][::4]
    lines = (Path(trainer.args.output_dir) / "metrics.jsonl").read_text().splitlines()
    (mean,) = [line["kl/mean"] for line in map(json.loads, lines) if line["step"] == 2 and "loss" in line]
    assert mean == pytest.approx(sum(first) / len(first), abs=1e-5)


def test_an_evaluation_computes_all(build_trainer, rows, counted):
    trainer = build_trainer(
        {"rlhf_optimizer": "codpo", "eval_k": 4}, mixture_of_judges=[EvenLength()], eval_dataset=rows
    )
    trainer.evaluate()
    assert len(counted["plain"]) == 2 * 32
    assert counted["kept"] == []


def test_a_step_that_learns_nothing_drops_its_graph(build_trainer, counted):
    class Never:
        def judge(self, prompts, completions):
            return [False] * len(completions)

    trainer = build_trainer({"rlhf_optimizer": "crpg", "max_steps": 1}, mixture_of_judges=[Never()])
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert counted["kept"]
    assert trainer._iteration.likelihoods.take_kept() is None
    assert all(torch.equal(p, q) for p, q in zip(trainer.model.parameters(), before, strict=True))


# -- A plan that reads log-ratios ---------------------------------------------------------------------------------


def test_crraft_takes_the_best_until_its_logratio_is_known_to_be_too_large(build_scored):
    settings = LossSettings(kl_threshold=5.0)
    scores = [[3.0, 2.0, 1.0]]
    unknown = float("nan")
    for logratios, chosen in (
        ([unknown, unknown, unknown], [True, False, False]),
        ([1.0, unknown, unknown], [True, False, False]),
        ([9.0, unknown, unknown], [False, True, False]),
        ([9.0, 9.0, unknown], [False, False, True]),
        ([9.0, 9.0, 9.0], [False, False, False]),
    ):
        plan = crraft.plan(build_scored(scores, logratios=[logratios]), settings)
        assert plan.used_BK.tolist() == [chosen]
        assert bool(plan.baseline_weights_B[0]) is not any(chosen)


@pytest.mark.parametrize("module", [codpo, crraft])
def test_an_unknown_logratio_leaves_no_nan_in_a_plan(build_scored, module):
    plan = module.plan(build_scored([[3.0, 2.0, 1.0]], logratios=[[float("nan")] * 3]), LossSettings(kl_threshold=5.0))
    assert not plan.weights_BK.isnan().any()
    assert not plan.rewards_BK.isnan().any()


def test_of_equal_models_the_logratio_is_exactly_zero_whatever_is_kept(build_policy):
    model = build_policy()
    ids = torch.randint(6, 20, (6, 9))
    sequences = Sequences(ids[:, :4], torch.ones(6, 4).bool(), ids[:, 4:], torch.ones(6, 5).bool())
    models = Models(model, lambda: nullcontext(model), nullcontext, 2048, 24, lambda number: number)
    found = Likelihoods(models, sequences, keep=True)
    found.find(torch.ones(6).bool(), torch.ones(6).bool())
    kept = found.take_kept()
    assert 0 < sum(len(row) for row in kept.rows) < 6
    assert torch.equal(found.logprobs_N, found.ref_logprobs_N)
    assert found.is_known_N.all()
    assert kept.logprobs_N.requires_grad
    assert not found.logprobs_N.requires_grad
