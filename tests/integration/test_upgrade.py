"""A judge service of two replicas is upgraded under a running trainer: one replica comes back in another version."""

import json
from contextlib import ExitStack

import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, TrainerCallback

from trainer import CGPOConfig, CGPOTrainer, RemoteJudge
from trainer.checkpoints import MARK, last_checkpoint
from trainer.errors import VersionChange
from trainer.services import judge_service

JUDGE = '''
from judge_service.judge import Judge

class FewLetters(Judge):
    """Satisfied by at most {most} letters."""

    revision = "{revision}"

    def judge(self, item):
        few = len(item.completion) <= {most}
        return self.satisfied("few letters") if few else self.violated("many letters")
'''


@pytest.fixture
def replica(tmp_path, monkeypatch):
    """Starts a replica that serves few_letters in a version; a real process, on a port of its own or a given one."""

    def start(revision, port=0):
        folder = tmp_path / f"version-{revision}"
        folder.mkdir(exist_ok=True)
        (folder / "few_letters.py").write_text(JUDGE.format(revision=revision, most=3 + int(revision)))
        monkeypatch.setenv("PYTHONPATH", str(folder))
        named = ["--judge", "few_letters:FewLetters", "--no-require-sandbox", "--workers", "1", "--port", str(port)]
        return judge_service(280.0, named)

    return start


def build(parts, folder, urls, callbacks=(), **config):
    torch.manual_seed(0)
    return CGPOTrainer(
        model=LlamaForCausalLM(parts._config()),
        reward_model=LlamaForSequenceClassification(parts._config(num_labels=1)),
        mixture_of_judges=[RemoteJudge("few_letters", urls)],
        args=CGPOConfig(
            output_dir=str(folder), k=4, max_new_tokens=6, per_device_train_batch_size=4, max_steps=8,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, kl_threshold=50.0, **config,
        ),
        processing_class=parts._tokenizer(),
        train_dataset=[{"messages": parts.messages(prompt, prompt)} for prompt in ("a", "bc", "def", "ghij")],
        callbacks=list(callbacks),
    )  # fmt: skip


def versions_by_step(folder):
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    return {line["step"]: line["tasks"]["default"]["judges"]["few_letters"]["versions"] for line in lines}


@pytest.mark.slow  # three starts of a judge service
@pytest.mark.timeout(900)
def test_an_upgraded_replica_is_noticed_refused_and_then_accepted_with_both_versions_recorded(parts, replica, tmp_path):
    with ExitStack() as stack:
        old = ExitStack()
        urls = [old.enter_context(replica("1")), stack.enter_context(replica("1"))]
        stack.callback(old.close)

        class Upgrade(TrainerCallback):
            def on_step_end(self, args, state, control, **_):
                if state.global_step == 2:
                    old.close()
                    stack.enter_context(replica("2", urls[0].rpartition(":")[2]))

        folder = tmp_path / "run"
        trainer = build(parts, folder, urls, [Upgrade()])
        with pytest.raises(VersionChange, match=r"few_letters answers in version 2\+\w+, .* in 1\+\w+\. .*accept"):
            trainer.train()
        trainer.scoring.close()
        saved = int(last_checkpoint(folder).name.removeprefix("checkpoint-"))
        assert saved >= 2
        steps = versions_by_step(folder)
        first, second = steps[1][0], steps[saved + 1][0]
        assert (first[:2], second[:2]) == ("1+", "2+")
        assert all(steps[step] == [first] for step in range(1, saved + 1))
        assert json.loads((last_checkpoint(folder) / MARK).read_text())["versions"]["few_letters"] == [first]

        trainer = build(parts, folder, urls, version_change="accept", save_steps=8)
        trainer.train(resume_from_checkpoint=True)
        trainer.scoring.close()
        assert trainer.state.global_step == 8
        assert trainer.versions.known["few_letters"] == [first, second]
        # Both replicas go on serving, so both versions answer: the ledger and the completions say which and where.
        later = [version for step, found in versions_by_step(folder).items() if step > saved for version in found]
        assert set(later) <= {first, second}
        assert second in later
        records = pq.read_table(folder / "completions").to_pylist()
        assert {verdict["version"] for record in records for verdict in record["verdicts"]} == {first, second}
