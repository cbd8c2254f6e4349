"""What the reward service is compared with: the model as transformers gives it, and a server of serve_rm's pattern."""

from collections.abc import Sequence
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, Request
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from wire import ScoreItem

PEER_MICRO_BATCH = 8


class Plain:
    """The model as transformers gives it."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()

    def text(self, item: ScoreItem) -> str:
        """Return an item as finished text."""
        turns = [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.completion}]
        return self.tokenizer.apply_chat_template(turns, tokenize=False)

    def score_texts(self, texts: Sequence[str]) -> list[float]:
        """Return the scores of one batch, padded."""
        batch = self.tokenizer(list(texts), padding=True, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            return self.model(**batch, use_cache=False).logits[:, 0].float().tolist()

    def score_all(self, items: Sequence[ScoreItem], batch_size: int) -> list[float]:
        """Return the scores of all items by the bare loop: sorted by length, in batches of one size."""
        texts = [self.text(item) for item in items]
        lengths = [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        scores = [0.0] * len(texts)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            for place, score in zip(places, self.score_texts([texts[p] for p in places]), strict=True):
                scores[place] = score
        return scores


def serve_peer(folder: Path, dtype: str) -> None:
    """Serve `/get_reward` as OpenRLHF's serve_rm does: each request scored by itself, in fixed micro-batches."""
    plain, app = Plain(folder, dtype), FastAPI()

    @app.post("/get_reward")
    async def get_reward(request: Request) -> dict[str, list[float]]:
        queries = (await request.json())["query"]
        starts = range(0, len(queries), PEER_MICRO_BATCH)
        return {
            "rewards": [s for start in starts for s in plain.score_texts(queries[start : start + PEER_MICRO_BATCH])]
        }

    listener = uvicorn.Config(app, port=0, log_level="warning").bind_socket()
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
