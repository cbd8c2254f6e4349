"""Several tasks in one step: each by its own judges, loss and settings, none disturbed by what befalls another."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from trainer import RemoteJudge, Task
from trainer import scoring as scoring_module
from trainer.errors import JudgeOutage
from trainer.logprobs import completion_logprobs
from wire import JudgeClient, Verdict, VerdictError

LEARNING_RATE = 0.05


def parameters(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class EvenLength:
    def judge(self, prompts, completions):
        return [len(completion) % 2 == 0 for completion in completions]


class HasNoB:
    def judge(self, prompts, completions):
        return ["b" not in completion for completion in completions]


class IsLong:
    def judge(self, prompts, completions):
        return [len(completion) > 3 for completion in completions]


class Fails:
    """Says `EvenLength`'s verdict, but fails at every second call where it is broken; a call is one completion."""

    def __init__(self, is_broken: bool, retryable: bool = False) -> None:
        self.is_broken = is_broken
        self.error = VerdictError(type="upstream", detail="gone", retryable=retryable)

    def judge(self, prompts, completions):
        unknown = Verdict(judge="Fails", outcome="unknown", error=self.error)
        verdicts = EvenLength().judge(prompts, completions)
        return [unknown if self.is_broken and i % 2 else verdict for i, verdict in enumerate(verdicts)]


def four_tasks(rows, judge, **weights):
    """Four judges, three optimizers, and K, KL_max, temperature and length of each task's own."""
    settings = {
        "even": {"mixture_of_judges": [EvenLength()], "k": 4, "kl_threshold": 50.0},
        "no_b": {"mixture_of_judges": [HasNoB()], "rlhf_optimizer": "codpo", "k": 6, "temperature": 0.9},
        "long": {"mixture_of_judges": [IsLong()], "rlhf_optimizer": "crraft", "k": 4, "max_new_tokens": 5},
        "failing": {"mixture_of_judges": [judge], "k": 8, "kl_threshold": 20.0, "weight": 0.5},
    }
    return [Task(name=n, train_dataset=rows[i:], batch_size=2, **s) for i, (n, s) in enumerate(settings.items())]


def build(build_trainer, tasks, **config):
    settings = {
        "per_device_train_batch_size": 8, "max_steps": 1, "optim": "sgd", "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "max_unknown_fraction": 0.6,
    }  # fmt: skip
    return build_trainer({**settings, **config}, tasks=tasks, train_dataset=None, mixture_of_judges=())


def gradients(trainer) -> dict[str, torch.Tensor]:
    """Each task's own gradient in the step that was made, weight included, at the weights before it."""
    iteration, found = trainer._iteration, {}
    for name, weight in trainer._weights.items():
        _, factor_N = iteration.linearized(0, len(iteration.rows), {name: weight})
        trainer.ref_model.requires_grad_(True)
        with torch.enable_grad():
            total = (factor_N * completion_logprobs(trainer.ref_model, iteration.sequences)).sum()
            found[name] = torch.cat([g.flatten() for g in torch.autograd.grad(total, trainer.ref_model.parameters())])
        trainer.ref_model.requires_grad_(False)
    return found


# -- One judge fails ----------------------------------------------------------------------------------------------


@pytest.fixture
def with_and_without(build_trainer, rows):
    """The same step twice: with a judge that fails at half of its calls, and with one that never does."""
    made = []
    for is_broken in (True, False):
        trainer = build(build_trainer, four_tasks(rows, Fails(is_broken)))
        before = parameters(trainer.model).clone()
        trainer.train()
        made.append((trainer, parameters(trainer.model) - before))
    return made


def test_a_judge_that_fails_at_half_of_its_calls_leaves_the_other_tasks_gradients_as_they_were(with_and_without):
    (broken, _), (whole, _) = with_and_without
    assert [r.index for r in broken._iteration.rows] == [r.index for r in whole._iteration.rows]
    with_failures, without = gradients(broken), gradients(whole)
    for name in ("even", "no_b", "long"):
        assert with_failures[name].abs().max() > 1e-4
        assert torch.equal(with_failures[name], without[name])
    assert not torch.allclose(with_failures["failing"], without["failing"], atol=1e-4)


def test_the_update_is_the_sum_of_the_tasks_gradients(with_and_without):
    for trainer, update in with_and_without:
        assert set(trainer._weights) == {"even", "no_b", "long", "failing"}
        total = sum(gradients(trainer).values())
        assert torch.allclose(update, -LEARNING_RATE * total, atol=1e-5)


def test_the_failing_tasks_known_samples_train_as_if_the_unknown_ones_had_never_been_there(with_and_without):
    trainer, _ = with_and_without[0]
    share, experience = next(
        (s, e)
        for s, e in zip(trainer._iteration.shares, trainer._iteration.experiences, strict=True)
        if s.task.name == "failing"
    )
    assert experience.scored.known_BK.sum() == 8  # of 2 prompts with 8 completions each
    # CRPG of a list of samples in which only the known ones stand: eq 5, 8, 11 and 12, one sample after another.
    known = []
    for b, row in enumerate(share.rows):
        baseline = trainer.baselines.of(row)
        (judged,) = trainer.baselines.submit([row])()
        for k, completion in enumerate(share.completions[b]):
            if not experience.judged[b][k].is_known:
                continue
            reward = torch.sigmoid(torch.tensor(experience.judged[b][k].score - judged.score))
            reward = reward if len(completion.text) % 2 == 0 else torch.tensor(0.0)
            ids = torch.tensor([[*row.prompt_ids, *completion.token_ids]])
            known.append((ids, len(row.prompt_ids), reward))
        assert baseline is not None
    mean = torch.stack([reward for *_, reward in known]).mean()  # at the first step every log-ratio is 0, eq 11 is 1
    model = trainer.ref_model.requires_grad_(True)
    loss = torch.tensor(0.0)
    with torch.enable_grad():
        for ids, start, reward in known:
            logprobs = torch.log_softmax(model(ids).logits[0, start - 1 : -1], dim=1)
            logprob = logprobs.gather(1, ids[0, start:, None]).sum()
            loss = loss - (reward - mean) * logprob / len(known)
        plain = torch.cat([g.flatten() for g in torch.autograd.grad(0.5 * loss, model.parameters())])  # weight: 0.5
    model.requires_grad_(False)
    assert plain.abs().max() > 1e-4
    assert torch.allclose(gradients(trainer)["failing"], plain, atol=1e-5)


def test_a_task_with_too_much_unknown_makes_no_update_and_the_others_do(build_trainer, rows, caplog, logs):
    trainer = build(build_trainer, four_tasks(rows, Fails(is_broken=True)), max_unknown_fraction=0.05)
    with caplog.at_level("WARNING", logger="trainer.cgpo_trainer"):
        trainer.train()
    assert set(trainer._weights) == {"even", "no_b", "long"}
    assert "8 of 16 samples of the task failing are unknown, more than max_unknown_fraction=0.05" in caplog.text
    log = logs(trainer)[0]
    applied = {name: log[f"task/{name}/update/applied_rate"] for name in trainer.tasks}
    assert applied == {"even": 1, "no_b": 1, "long": 1, "failing": 0}
    assert log["update/applied_rate"] == 1


def test_a_task_whose_judge_stays_away_is_waited_for_once_and_others_go_on(build_trainer, rows, monkeypatch, caplog):
    pauses = []
    monkeypatch.setattr(scoring_module.time, "sleep", pauses.append)
    config = {"max_unknown_fraction": 0.05, "judge_outage_timeout": 1.5, "max_steps": 3}
    trainer = build(build_trainer, four_tasks(rows, Fails(is_broken=True, retryable=True)), **config)
    trainer.train()
    assert trainer.state.global_step == 3
    assert len(pauses) == 1  # of 1 s; a second one would have been longer than the timeout allows
    assert "the task failing goes without update, the others go on: 8 of 16 samples are unknown" in caplog.text
    everybody = [
        Task(name=n, train_dataset=rows, mixture_of_judges=[Fails(is_broken=True, retryable=True)]) for n in "ab"
    ]
    with pytest.raises(JudgeOutage):
        build(build_trainer, everybody, max_unknown_fraction=0.05, judge_outage_timeout=0.0).train()


# -- Requests -----------------------------------------------------------------------------------------------------


def test_one_request_carries_every_judge_of_a_mixed_batch(build_trainer, rows, judge_url, monkeypatch):
    sent = []
    inner = JudgeClient.submit

    def watched(self, items, *arguments, **named):
        sent.append([(item.judges[0].name, item.judges[0].parameters) for item in items])
        return inner(self, items, *arguments, **named)

    judges = {
        "short": RemoteJudge("word_count", judge_url, max=3, unit="characters"),
        "long": RemoteJudge("word_count", judge_url, min=4, unit="characters"),
        "calm": RemoteJudge("no_repetition", judge_url),
    }
    tasks = [Task(name=n, train_dataset=rows, mixture_of_judges=[judge]) for n, judge in judges.items()]
    trainer = build(build_trainer, tasks, per_device_train_batch_size=6, rlhf_optimizer="codpo")
    trainer.prepare(trainer.train_dataset)
    # Prompts end one by one, and what has ended is sent; here all of them end at once.
    monkeypatch.setattr("trainer.rollout.in_order", lambda rows, number, k: [in_one_piece(rows, number, k)])
    monkeypatch.setattr(JudgeClient, "submit", watched)
    trainer.train()
    (request,) = sent
    assert len(request) == 24
    for name, judge in judges.items():
        own = [parameters for found, parameters in request if (found, parameters) == (judge.name, judge.parameters)]
        assert len(own) == 8, name
    trainer.scoring.close()


def in_one_piece(rows, number, k):
    ended = {row: completion for some in rows for row, completion in some}
    return [[ended[prompt * k + i] for i in range(k)] for prompt in range(number)]


# -- Metrics, files, evaluation -----------------------------------------------------------------------------------


def test_metrics_and_records_are_told_per_task_and_judge(build_trainer, rows, logs):
    trainer = build(build_trainer, four_tasks(rows, Fails(is_broken=True)))
    trainer.train()
    log = logs(trainer)[0]
    for name, sent, label in (("even", 8, "EvenLength"), ("no_b", 12, "HasNoB"), ("failing", 16, "Fails")):
        of = f"task/{name}"
        assert log[f"{of}/num/sent"] == sent  # 2 prompts, k completions each
        assert log[f"{of}/num/satisfied"] + log[f"{of}/num/violated"] + log[f"{of}/num/unknown"] == sent
        assert f"{of}/constraint/{label}/satisfied_rate" in log
        assert f"{of}/score/mean" in log
    assert (log["num/sent"], log["num/unknown"]) == (44, 8)
    assert not {"score/mean", "reward/mean", "constraint/HasNoB/satisfied_rate"} & set(log)
    assert log["time/generate_s"] > 0
    (path,) = (Path(trainer.args.output_dir) / "completions").glob("train-000001-*.parquet")
    written = pq.read_table(path).to_pylist()
    assert {row["task"] for row in written} == set(trainer.tasks)
    for row in written:
        (verdict,) = row["verdicts"]
        assert verdict["label"] == {
            "even": "EvenLength", "no_b": "HasNoB", "long": "IsLong", "failing": "Fails",
        }[row["task"]]  # fmt: skip


def test_an_evaluation_tells_each_tasks_rates(build_trainer, rows):
    tasks = [
        Task(name="even", train_dataset=rows, eval_dataset=rows[:3], mixture_of_judges=[EvenLength()]),
        Task(name="no_b", train_dataset=rows, eval_dataset=rows[:2], mixture_of_judges=[HasNoB()], k=6),
        Task(name="unseen", train_dataset=rows, mixture_of_judges=[IsLong()], batch_size=4),
    ]
    trainer = build(build_trainer, tasks, eval_k=2, per_device_eval_batch_size=4)
    metrics = trainer.evaluate()
    assert (metrics["eval_task/even/num/sent"], metrics["eval_task/no_b/num/sent"]) == (6, 4)
    assert metrics["eval_num/sent"] == 10
    assert 0 <= metrics["eval_task/no_b/constraint/HasNoB/satisfied_rate"] <= 1
    assert metrics["eval_task/unseen/num/sent"] == 0


# -- Micro-batches and resuming -----------------------------------------------------------------------------------


def test_four_micro_batches_of_two_make_the_update_of_one_batch_of_eight(build_trainer, rows):
    found = []
    for batch, accumulation in ((8, 1), (2, 4)):
        config = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_steps": 3}
        trainer = build(build_trainer, four_tasks(rows, Fails(is_broken=True)), **config)
        start = parameters(trainer.model).clone()
        trainer.train()
        found.append(parameters(trainer.model) - start)
    assert found[0].abs().max() > 1e-3
    assert torch.allclose(*found, atol=1e-5)


@pytest.mark.parametrize("save_at", [3, 4], ids=["middle of an epoch", "end of an epoch"])
def test_a_resumed_run_of_several_tasks_is_the_uninterrupted_one(build_trainer, rows, tmp_path, save_at):
    # The longest task has 8 rows and 2 a step: an epoch has 4 steps. Half of the rows lack a baseline.
    rows = [{"messages": row["messages"][: 1 + i % 2]} for i, row in enumerate(rows)]
    config = {"max_steps": 6, "save_strategy": "steps", "save_steps": save_at, "optim": "adamw_torch"}

    def run(folder, **arguments):
        trainer = build(
            build_trainer, four_tasks(rows, Fails(is_broken=True)), **config, output_dir=str(tmp_path / folder)
        )
        torch.manual_seed(99)  # a fresh process would not go on with these random numbers
        trainer.train(**arguments)
        return trainer

    torch.manual_seed(0)
    whole = run("whole")
    resumed = run("resumed", resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{save_at}"))
    assert torch.equal(parameters(resumed.model), parameters(whole.model))
    lines = [
        [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        for folder in ("whole", "resumed")
    ]
    drawn = [[line["loss"] for line in found if "loss" in line and line["step"] > save_at] for found in lines]
    assert drawn[0] == drawn[1]
