"""The ledger of a run: a line per step, in which everything sent has come back once; and the versions that answered."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.utils import parameters_to_vector
from transformers import TrainerCallback

from trainer import RemoteJudge, Task
from trainer.checkpoints import last_checkpoint
from trainer.config import CGPOConfig
from trainer.errors import ConfigError, LedgerError, VersionChange
from trainer.iteration import Iteration
from trainer.ledger import Ledger
from trainer.versions import Versions
from wire import Verdict


def ledger_of(trainer):
    return [json.loads(line) for line in (Path(trainer.args.output_dir) / "ledger.jsonl").read_text().splitlines()]


class Versioned:
    """Satisfied where the letter a is missing; one judgement in four is an abstention."""

    def __init__(self, version="1"):
        self.version = version
        self.count = 0

    def judge(self, prompts, completions):
        verdicts = []
        for completion in completions:
            self.count += 1
            outcome = "unknown" if self.count % 4 == 0 else "violated" if "a" in completion else "satisfied"
            verdicts.append(Verdict(judge="Versioned", outcome=outcome, version=self.version))
        return verdicts


class TakeVersion(TrainerCallback):
    """Gives a judge another version after a step, as a service that is replaced."""

    def __init__(self, judge, step, version):
        self.judge, self.step, self.version = judge, step, version

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            self.judge.version = self.version


def test_each_step_and_evaluation_has_a_line_that_balances(build_trainer, rows):
    trainer = build_trainer(
        {"max_unknown_fraction": 1.0, "eval_strategy": "steps", "eval_steps": 2},
        mixture_of_judges=[Versioned()],
        eval_dataset=rows[:3],
    )
    trainer.train()
    lines = ledger_of(trainer)
    assert [(line["step"], line["kind"]) for line in lines] == [(1, "train"), (2, "train"), (2, "eval")]
    # 4 prompts with 4 completions each, of which each fourth is unknown; and 3 prompts with one: the 33rd to 35th asked
    # are known (baselines are judged too, and CRPG asks for 4 of them in each of the first steps).
    for line in lines[:2]:
        counts = line["tasks"]["default"]
        assert (counts["sent"], counts["scored"], counts["unscored"]) == (16, 16, 0)
        assert counts["satisfied"] + counts["violated"] + counts["unknown"] == 16
        assert counts["judges"]["Versioned"]["versions"] == ["1"]
        assert counts["judges"]["Versioned"]["unknown"] == counts["unknown"] == 4
        (version,) = line["reward_models"]["reward model"]
        assert version.startswith("LlamaForSequenceClassification ")
    assert lines[2]["tasks"]["default"]["sent"] == 3


def test_tasks_and_rows_with_judges_of_their_own_are_counted_apart(build_trainer, rows, judge_url):
    def task(name, maxima):
        own = [
            {**row, "judges": [{"name": "word_count", "parameters": {"max": most}}]}
            for row, most in zip(rows, maxima, strict=True)
        ]
        return Task(name=name, train_dataset=own, mixture_of_judges=[RemoteJudge("word_count", judge_url)])

    trainer = build_trainer(
        {"max_steps": 1},
        mixture_of_judges=(),
        train_dataset=None,
        tasks=[task("short", [1, 2] * 4), task("long", [9] * 8)],
    )
    trainer.train()
    trainer.scoring.close()
    (line,) = ledger_of(trainer)
    for name, num_versions in (("short", 2), ("long", 1)):
        # two prompts of each task with 4 completions
        assert line["tasks"][name]["judges"]["word_count"]["sent"] == line["tasks"][name]["sent"] == 8
        assert 1 <= len(line["tasks"][name]["judges"]["word_count"]["versions"]) <= num_versions
    # A row's own parameters make another judge, so two versions beside each other are no change.
    named = set(trainer.versions.known)
    assert {f'short/word_count with {{"max": {most}}}' for most in (1, 2)} | {
        'long/word_count with {"max": 9}'
    } <= named


def test_an_answer_too_few_or_too_many_stops_the_run(build_trainer):
    trainer = build_trainer({"max_steps": 1})
    trainer.train()
    kept = trainer._iteration
    experience = kept.experiences[0]
    for spoilt in (lambda group: group[:-1], lambda group: [*group, group[0]]):
        judged = [spoilt(list(experience.judged[0])), *experience.judged[1:]]
        wrong = Iteration(kept.rows, kept.shares, [replace(experience, judged=judged)], kept.sequences, {})
        with pytest.raises(LedgerError, match=r"does not balance: of 16 completions of the task default .*satisfied"):
            Ledger(trainer.args, Versions(accept=False)).enter(2, "train", wrong)


def test_another_version_in_mid_run_ends_it_with_a_checkpoint_and_both_are_named(build_trainer):
    judge = Versioned("1+aaaa")
    config = {"max_unknown_fraction": 1.0, "max_steps": 4}
    trainer = build_trainer(config, mixture_of_judges=[judge], callbacks=[TakeVersion(judge, 2, "1+bbbb")])
    with pytest.raises(VersionChange, match=r"Versioned answers in version 1\+bbbb, .* so far in 1\+aaaa\. .*'accept'"):
        trainer.train()
    assert last_checkpoint(trainer.args.output_dir).name == "checkpoint-2"
    assert ledger_of(trainer)[-1]["tasks"]["default"]["judges"]["Versioned"]["versions"] == ["1+bbbb"]

    with pytest.raises(VersionChange, match=r"Versioned answers in version 1\+bbbb, .* so far in 1\+aaaa"):
        build_trainer(config, mixture_of_judges=[Versioned("1+bbbb")]).train(resume_from_checkpoint=True)

    resumed = build_trainer({**config, "version_change": "accept"}, mixture_of_judges=[Versioned("1+bbbb")])
    resumed.train(resume_from_checkpoint=True)
    assert resumed.versions.known["Versioned"] == ["1+aaaa", "1+bbbb"]
    steps = [(line["step"], line["tasks"]["default"]["judges"]["Versioned"]["versions"]) for line in ledger_of(resumed)]
    assert steps == [(1, ["1+aaaa"]), (2, ["1+aaaa"]), (3, ["1+bbbb"]), (4, ["1+bbbb"])]
    records = pq.read_table(Path(resumed.args.output_dir) / "completions").to_pylist()
    assert {(r["step"] > 2, v["version"]) for r in records for v in r["verdicts"]} == {
        (False, "1+aaaa"), (True, "1+bbbb"),
    }  # fmt: skip


def test_a_run_refused_for_a_version_goes_on_exactly_once_the_former_is_back(build_trainer, tmp_path):
    class Always(Versioned):
        def judge(self, prompts, completions):
            outcomes = ["violated" if "a" in completion else "satisfied" for completion in completions]
            return [Verdict(judge="Always", outcome=outcome, version=self.version) for outcome in outcomes]

    whole = build_trainer({"max_steps": 4, "output_dir": str(tmp_path / "whole")}, mixture_of_judges=[Always()])
    whole.train()
    judge, config = Always(), {"max_steps": 4, "output_dir": str(tmp_path / "broken")}
    with pytest.raises(VersionChange):
        build_trainer(config, mixture_of_judges=[judge], callbacks=[TakeVersion(judge, 2, "2")]).train()
    resumed = build_trainer(config, mixture_of_judges=[Always()])
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(*(parameters_to_vector(one.model.parameters()) for one in (whole, resumed)))


def test_another_reward_model_is_not_gone_on_with_unless_allowed(build_trainer, build_reward_model):
    config = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    build_trainer({**config, "max_steps": 1}).train()
    other = build_reward_model(seed=7)
    with pytest.raises(
        VersionChange, match=r"reward model answers in version Llama.*, and in this run so far in Llama"
    ):
        build_trainer(config, reward_model=other).train(resume_from_checkpoint=True)
    accepting = build_trainer({**config, "version_change": "accept"}, reward_model=other)
    accepting.train(resume_from_checkpoint=True)
    # Scores of two models have no common scale: the baselines were scored anew.
    scores = {one.score for one in accepting.baselines._judged.values()}
    fresh = build_trainer({**config, "output_dir": f"{accepting.args.output_dir}-2"}, reward_model=other)
    fresh.train()
    assert scores <= {one.score for one in fresh.baselines._judged.values()}


def test_what_to_do_about_a_version_is_one_of_two_words():
    with pytest.raises(ConfigError, match="version_change='ignore': must be refuse or accept"):
        CGPOConfig(output_dir="x", version_change="ignore", use_cpu=True)
