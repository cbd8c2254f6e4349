"""Each kind of judge, and the reward model, behind a proxy that spoils answers: the run ends as if nothing had been.

Real services on real sockets, the real trainer on a tiny model. A fault strikes in the second step. Once: the run goes
on by itself, to the same verdicts and parameters. Always: the run ends with a checkpoint, and resumed once the fault is
over it has them too.
"""

import importlib.util
import json
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.utils import parameters_to_vector
from transformers import TrainerCallback

from trainer import RemoteJudge, RemoteRewardModel
from trainer import scoring as scoring_module
from trainer.checkpoints import last_checkpoint
from trainer.errors import JudgeOutage, VersionChange


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


proxies = load(Path(__file__).with_name("fault_proxy.py"))

DEADLINE_S = 3.0
HARMLESS = ("latency",)  # slow, and still an answer in time
KINDS = {
    "word_count": ({"max": 2, "unit": "characters"}, {}),
    "math_answer": ({}, {"ground_truth": "1"}),
    "python_tests": ({}, {"tests": ["assert add(2, 2) == 4"]}),
    "no_refusal": ({}, {}),
    "reward model": ({}, {}),
}
QUICK = [("word_count", "status_500", "once"), ("word_count", "html", "always")]
CASES = [(kind, name, mode) for kind in KINDS for name in proxies.FAULTS for mode in ("once", "always")]


@pytest.fixture(scope="session")
def light_judge_url(serving):
    """A judge service without worker processes, its LLM judges answered by a fake LLM server."""
    from judge_service.llm.settings import LlmSettings
    from judge_service.settings import JudgeSettings

    judges = Path(__file__).parents[1] / "judge_service"
    fake = load(judges / "fakes" / "fake_llm.py").FakeLlm("systemone")
    llm = {"upstreams": {"fake": fake.settings}, "judges": {"no_refusal": "fake"}, "canaries_right": 0}
    settings = JudgeSettings(llm=LlmSettings.model_validate(llm))
    with serving(load(judges / "conftest.py").without_workers(settings, fake.transport())) as url:
        yield url


@pytest.fixture
def proxied(request, build_trainer, rows, tmp_path, monkeypatch):
    """Builds a proxy in front of a kind's service, and trainers that reach it through that, beside it, or both."""
    monkeypatch.setattr(scoring_module, "FIRST_PAUSE_S", 0.1)

    def start(kind):
        parameters, columns = KINDS[kind]
        source = {"word_count": "light_judge_url", "no_refusal": "light_judge_url", "reward model": "reward_url"}
        url = request.getfixturevalue(source.get(kind, "judge_url"))
        proxy = request.getfixturevalue("entered")(proxies.FaultProxy(url))
        direct = f"http://{proxy.upstream.netloc}"

        def build(folder, urls, callbacks=(), **config):
            settings = {"output_dir": str(tmp_path / folder), "judge_deadline": DEADLINE_S, **config}
            if kind == "reward model":
                parts = {"reward_model": RemoteRewardModel(urls)}
            else:
                parts = {"mixture_of_judges": [RemoteJudge(kind, urls, **parameters)]}
            data = [{**row, **columns} for row in rows]
            return build_trainer(settings, train_dataset=data, callbacks=list(callbacks), **parts)

        return proxy, direct, build

    return start


@pytest.fixture
def entered():
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield stack.enter_context


class AfterFirstStep(TrainerCallback):
    """Does something between the first and the second step."""

    def __init__(self, do):
        self.do = do

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 1:
            self.do()


_FAULTLESS = {}


def faultless(kind, direct, build):
    """What a run without any fault ends with: its records and its parameters; made once for each kind."""
    if kind not in _FAULTLESS:
        trainer = build("faultless", direct)
        trainer.train()
        _FAULTLESS[kind] = ended(trainer)
    return _FAULTLESS[kind]


def ended(trainer):
    trainer.scoring.close()
    folder = Path(trainer.args.output_dir)
    for line in map(json.loads, (folder / "ledger.jsonl").read_text().splitlines()):
        for counts in [*line["tasks"].values(), *line["tasks"]["default"]["judges"].values()]:
            assert counts["sent"] == counts["satisfied"] + counts["violated"] + counts["unknown"]
    records = [
        (record["step"], record["row"], record["completion"], record["outcome"], record["score"])
        for record in pq.read_table(folder / "completions").to_pylist()
    ]
    return sorted(records), parameters_to_vector(trainer.model.parameters()).detach()


def assert_same(found, expected):
    (records, parameters), (expected_records, expected_parameters) = found, expected
    assert [one[:4] for one in records] == [one[:4] for one in expected_records]
    # A reward service computes in batches that it makes itself, so a score's last bits are not its alone.
    assert [one[4] for one in records] == pytest.approx([one[4] for one in expected_records], abs=1e-4)
    assert torch.allclose(parameters, expected_parameters, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name", "mode"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES if case not in QUICK)],
)
def test_a_fault_ends_in_the_verdicts_of_a_faultless_run(proxied, kind, name, mode):
    proxy, direct, build = proxied(kind)
    expected = faultless(kind, direct, build)
    strike = AfterFirstStep(lambda: proxy.set(proxies.FAULTS[name], 1 if mode == "once" else None))
    started = time.monotonic()
    trainer = build("struck", proxy.url, [strike], judge_outage_timeout=60.0 if mode == "once" else 0.5)
    if mode == "once" or name in HARMLESS:
        trainer.train()
    else:
        with pytest.raises(JudgeOutage, match="16 of 16 samples are unknown"):
            trainer.train()
        assert last_checkpoint(trainer.args.output_dir).name == "checkpoint-1"
        trainer.scoring.close()
        proxy.set(None)
        trainer = build("struck", proxy.url)
        trainer.train(resume_from_checkpoint=True)
    assert proxy.num_faults >= 1
    assert_same(ended(trainer), expected)
    # The deadline twice, for what was asked and asked again, and what a busy machine adds; a hang lasts an hour.
    assert time.monotonic() - started < 40 * DEADLINE_S


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def test_a_service_that_dies_and_comes_back_is_waited_for(proxied, kind):
    proxy, direct, build = proxied(kind)
    expected = faultless(kind, direct, build)

    def die():
        proxy.refuse()
        threading.Timer(1.0, proxy.listen).start()

    trainer = build("struck", proxy.url, [AfterFirstStep(die)], judge_outage_timeout=60.0)
    trainer.train()
    assert_same(ended(trainer), expected)


@pytest.mark.parametrize(
    "kind", ["word_count", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(KINDS)[1:])]
)
@pytest.mark.parametrize(
    "name", ["wrong_ids", *(pytest.param(name, marks=pytest.mark.slow) for name in ("reset", "status_500"))]
)
def test_one_bad_replica_of_two_changes_nothing(proxied, kind, name):
    proxy, direct, build = proxied(kind)
    expected = faultless(kind, direct, build)
    strike = AfterFirstStep(lambda: proxy.set(proxies.FAULTS[name]))
    trainer = build("struck", [proxy.url, direct], [strike], judge_outage_timeout=60.0)
    trainer.train()
    assert_same(ended(trainer), expected)


async def other_version(exchange):
    """Answers as a service of another version."""
    content = json.loads(exchange.body)
    content["revision"] = "other"
    for result in content["results"]:
        for verdict in result.get("verdicts", ()):
            verdict["version"] = "2+other"
    await exchange.send(body=json.dumps(content).encode())


@pytest.mark.parametrize(
    "kind",
    ["word_count", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(KINDS)[1:])],
)
def test_a_service_that_comes_back_in_another_version_ends_the_run_with_a_checkpoint(proxied, kind):
    proxy, direct, build = proxied(kind)
    expected = faultless(kind, direct, build)
    trainer = build("struck", proxy.url, [AfterFirstStep(lambda: proxy.set(other_version))])
    with pytest.raises(VersionChange, match=f"{kind} answers in version .*other.*, and in this run so far in "):
        trainer.train()
    trainer.scoring.close()
    proxy.set(None)
    trainer = build("struck", proxy.url)
    trainer.train(resume_from_checkpoint=True)
    assert_same(ended(trainer), expected)


@pytest.mark.slow
def test_a_service_that_is_not_ready_is_asked_for_that_alone(proxied):
    proxy, direct, build = proxied("word_count")
    expected = faultless("word_count", direct, build)
    seen = []

    def strike():
        proxy.set(proxies.status_503)
        proxy.ready_fault = proxies.status_503
        threading.Timer(3.0, recover).start()

    def recover():
        seen.extend(proxy.paths)
        proxy.set(None)
        proxy.ready_fault = None

    # The client gives up after a second; what happens in the other two is the trainer's.
    config = {"judge_outage_timeout": 60.0, "judge_deadline": 1.0}
    trainer = build("struck", proxy.url, [AfterFirstStep(strike)], **config)
    trainer.train()
    assert_same(ended(trainer), expected)
    # The client's own attempts come first; then the trainer probes, and sends nothing while the answer is no.
    first_probe = len(seen) - seen[::-1].index("/v1/judge")
    assert seen[first_probe:].count("/readyz") >= 2
