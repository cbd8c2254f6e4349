"""A run of tiny models in a process of its own, for the tests that kill it."""

import importlib.util
from pathlib import Path

import torch

from trainer import CGPOConfig, CGPOTrainer, RemoteJudge
from trainer.checkpoints import last_checkpoint

STEPS = 8
PARAMETERS = "parameters.pt"


def _parts():
    spec = importlib.util.spec_from_file_location("parts", Path(__file__).with_name("conftest.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(folder: str, judge_url: str) -> None:
    """Train to the end, from the last checkpoint where there is one, and write the parameters to a file."""
    parts = _parts()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    policy, reference = (parts.LlamaForCausalLM(parts._config()).eval() for _ in range(2))
    reference.load_state_dict(policy.state_dict())
    trainer = CGPOTrainer(
        model=policy,
        ref_model=reference,
        reward_model=parts.LlamaForSequenceClassification(parts._config(num_labels=1)),
        mixture_of_judges=[RemoteJudge("word_count", judge_url, max=5, unit="characters"), parts.HasNoA()],
        args=CGPOConfig(
            output_dir=folder, k=4, max_new_tokens=6, kl_threshold=50.0, per_device_train_batch_size=2,
            gradient_accumulation_steps=2, learning_rate=1e-2, max_steps=STEPS, save_strategy="steps", save_steps=2,
            save_total_limit=1, logging_steps=1, report_to="none", disable_tqdm=True, use_cpu=True,
        ),
        processing_class=parts._tokenizer(),
        # Without answers of their own, so that the baselines are sampled too.
        train_dataset=[{"messages": parts.messages(prompt)} for prompt in ("a", "bc", "def", "ghij", "a b", "c.")],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=bool(last_checkpoint(folder)))
    trainer.scoring.close()
    torch.save(torch.nn.utils.parameters_to_vector(policy.parameters()).detach(), Path(folder) / PARAMETERS)
