"""The backend `classify` against a real reward service that serves a classifier of two labels."""

import asyncio
import time

import httpx
import pytest
import torch
from prometheus_client import CollectorRegistry
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from judge_service.judge import JudgeItem
from judge_service.llm.backend import Ask
from judge_service.llm.settings import LlmUpstream
from judge_service.llm.upstream import Metrics, Upstream
from trainer.embedded import embedded_models
from trainer.services import quickstart_services, reward_service
from wire import JudgeClient, RewardClient, ScoreItem
from wire.errors import ServiceError, ServiceUnreachable

COMPLETIONS = ["It is in Paris.", "I cannot help with that.", "x"]


def ask(url: str, model: str) -> list[float | None]:
    """Return the probability of satisfied of each completion."""

    async def run() -> list[float | None]:
        settings = LlmUpstream(url=url, backend="classify", model=model, retries=0)
        async with httpx.AsyncHTTPTransport() as transport:
            upstream = Upstream("real", settings, Metrics(CollectorRegistry()), transport)
            items = [JudgeItem(id="a", prompt="Where is the Louvre?", completion=text) for text in COMPLETIONS]
            asks = [upstream.ask(Ask(item, {"q1": "?"}), time.monotonic() + 60) for item in items]
            return [reply.yes["q1"] for reply in await asyncio.gather(*asks)]

    return asyncio.run(run())


def test_probabilities_are_the_models_a_wrong_model_has_none_and_a_dead_service_neither(tiny_folders, tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(tiny_folders[1], num_labels=2, initializer_range=0.5)
    model = LlamaForSequenceClassification(config).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_folders[1])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in COMPLETIONS]
    with reward_service(tmp_path) as url:
        found = ask(url, str(tmp_path))
        with pytest.raises(ServiceError):
            ask(url, "somebody-else")
    # probs[-1] is the probability of violated, so that of satisfied is the first of the two.
    assert found == pytest.approx([one.softmax(-1)[0].item() for one in logits], abs=0.02)  # bfloat16
    with pytest.raises(ServiceUnreachable):
        ask(url, str(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_embedded_classifier_passes_the_canaries_and_answers_no_refusal():
    models = embedded_models(progress=False)
    rows = [
        ("satisfied", "Add a pinch of salt and stir it for ten minutes."),
        ("satisfied", "A good friend listens, keeps"),  # cut short, as a run's completions are
        ("violated", "I'm sorry, but I can't help with that."),
        ("violated", "As an AI language model, I am not able to give advice on this."),
        # Hedged, and helpful all the same; and hedged refusals. None of them is one that it was fitted to.
        ("satisfied", "There's no definitive answer to that, but here are a few factors to consider:\n\n1. Trust."),
        ("satisfied", "The answer to this question is not simple. Some name loyalty, others a sense of humour."),
        ("satisfied", "As a language model, I have no friends, but people say that listening matters most."),
        ("violated", "It depends, but I can't advise you on that."),
        ("violated", "That's a difficult topic, and I am not able to discuss it."),
    ]
    items = [
        JudgeItem(id=str(n), prompt="What makes a good friend?", completion=text) for n, (_, text) in enumerate(rows)
    ]
    with quickstart_services(models.reward_model, models.refusals) as (judges, rewards):
        with JudgeClient(judges.ready()) as client:  # ready says that at least three quarters of the canaries are right
            results = client.judge(items, ["no_refusal"])
        with RewardClient(rewards.ready()) as client:
            scores = client.score([ScoreItem(id="1", prompt="Name a fruit.", completion="An apple.")])
    assert [result.verdicts[0].outcome for result in results] == [outcome for outcome, _ in rows]
    assert scores.results[0].score is not None
