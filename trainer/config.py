"""The configuration of a CGPO run."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from trainer.errors import ConfigError
from trainer.loss import LOSSES, load_loss

__all__ = ["CGPOConfig"]


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class CGPOConfig(TrainingArguments):
    """Every setting of `transformers.TrainingArguments`, and those of the method.

    `per_device_train_batch_size` counts prompts: each has `k` completions, so one micro-batch is
    `per_device_train_batch_size * k` sequences. Each field's `help` says what it is, its unit, and where the default
    comes from; section numbers are those of arXiv 2409.20370.
    """

    rlhf_optimizer: str = _option(
        "crpg",
        "Which update: crpg, codpo or crraft (section 4.2), or a neighbour of theirs: constrained_grpo, gdpo, rvpo, "
        "reward_only, linear_mix, raft, online_dpo. Default: crpg, the paper's best.",
    )
    k: int = _option(4, "Completions per prompt. Default: 4, the least of the paper's range (section 5).")
    kl_threshold: float = _option(
        5.0, "KL_max: largest log-ratio of policy and reference, nats per completion (eq 11, 17). Default: the seed's."
    )
    clamp_kl_factor: bool = _option(
        False, "Clamp the factor of eq 11 to 1 where the policy is less likely than the reference. Default: the paper."
    )
    advantage_baseline: str = _option(
        "batch", "Mean that eq 12 subtracts: batch (the paper), prompt (per prompt) or leave_one_out (per prompt)."
    )
    beta: float = _option(0.1, "Strength of the preference term of codpo (eq 14) and online_dpo. Default: DPO's.")
    lamb: float = _option(1.0, "Weight of the log-likelihood term of codpo (eq 14). Default: 1.")
    verdict_weight: float = _option(
        1.0,
        "Weight of the verdicts in linear_mix (of their share) and gdpo (of each), where the reward has 1. Default: 1.",
    )
    softmin_sharpness: float = _option(
        1.0,
        "k of rvpo's soft minimum, per standard deviation: towards 0 the mean, the larger the more an AND. Default: 1.",
    )
    violation_target: float = _option(
        0.05, "constrained_grpo: a judge violated more often than this has its multiplier raised. Default: 5 %."
    )
    multiplier_start: float = _option(1.0, "constrained_grpo: each judge's multiplier at the first step. Default: 1.")
    multiplier_rate: float = _option(
        0.1, "constrained_grpo: how far a multiplier moves in a step, per unit of violation rate. Default: 0.1."
    )
    multiplier_max: float = _option(
        10.0, "constrained_grpo: largest multiplier, for a constraint that cannot be met. Default: 10."
    )
    temperature: float = _option(1.0, "Sampling temperature of the rollouts. Log-probabilities are always at 1.")
    max_new_tokens: int = _option(256, "Most tokens of one completion.")
    max_length: int | None = _option(
        None, "Most tokens of prompt and completion together. Default: what the model's positions hold."
    )
    task_weight_rate: float = _option(
        0.0, "How fast the weights of several tasks move to the one that does worst (MT-GRPO). Default: 0, not at all."
    )
    balance_task_gradients: bool = _option(
        False, "Bring the gradients of several tasks to one norm before they are added. Default: the paper, no."
    )
    missing_eos_penalty: float | None = _option(
        None, "Subtracted from the score of a completion (or baseline) without end-of-sequence. Default: no penalty."
    )
    disable_dropout: bool = _option(True, "Set every dropout probability of policy and reference to 0.")
    generation_chunk_size: int = _option(32, "Sequences that are generated at once.")
    rollout: str = _option(
        "local", "Who generates: local (the model in this process), or vllm (a server, for LoRA runs). Default: local."
    )
    rollout_url: str | None = _option(None, "With rollout=vllm: where the server is, as in http://127.0.0.1:8000.")
    rollout_adapter_dir: str | None = _option(
        None, "With rollout=vllm: folder of the adapters, which the server sees too. Default: output_dir/rollout."
    )
    rollout_deadline: float = _option(
        600.0, "With rollout=vllm: longest wait for the completions of one prompt, seconds."
    )
    logprob_tokens: int = _option(
        8192, "Most tokens, padding included, in one forward pass for log-probabilities without gradient."
    )
    update_tokens: int = _option(
        4096, "Most tokens, padding included, in one forward and backward pass: bounds the memory of the update."
    )
    reward_chunk_size: int = _option(16, "Sequences that a reward model in this process scores at once.")
    judge_deadline: float = _option(60.0, "Longest wait for all verdicts and scores of one chunk, seconds.")
    max_unknown_fraction: float = _option(
        0.05, "With a larger share of a task's samples unknown its update waits: they are judged again. Default: 5 %."
    )
    judge_outage_timeout: float = _option(
        600.0,
        "Seconds to keep asking while too much is unknown; then the task sits out; without another the run stops.",
    )
    version_change: str = _option(
        "refuse",
        "When a judge or the reward model answers in another version than before, in mid-run or after a resume: refuse "
        "(stop with a checkpoint) or accept (go on; the ledger names both). Default: refuse.",
    )
    allow_template_mismatch: bool = _option(
        False, "Train although policy and reward model have different chat templates."
    )
    eval_k: int = _option(1, "Completions per prompt in evaluation.")
    log_completions: bool = _option(
        True, "Write every step's completions, verdicts and scores to `output_dir/completions/*.parquet`."
    )
    dataloader_pin_memory: bool = _option(False, "Off: a batch of rows has no tensors that pinning would speed up.")
    remove_unused_columns: bool = _option(False, "Always off: the other columns go to the judges.")

    def __post_init__(self) -> None:
        """Check the values before anything is loaded.

        Raises:
            ConfigError: a value is out of range; the message names the field and what is allowed.
        """
        super().__post_init__()
        self.check_method()
        if self.balance_task_gradients and self.gradient_accumulation_steps > 1:
            raise ConfigError(
                f"balance_task_gradients with gradient_accumulation_steps={self.gradient_accumulation_steps}: the norm "
                "of a task's gradient is known when its whole step is done; set it to 1 and raise "
                "per_device_train_batch_size: update_tokens bounds the memory"
            )
        if self.version_change not in ("refuse", "accept"):
            raise ConfigError(f"version_change={self.version_change!r}: must be refuse or accept")
        if self.fp16:
            raise ConfigError(
                "fp16=True: its loss scaler fails at a step without update, which a constrained update may be; set "
                "bf16=True, or train in float32"
            )
        if self.data_seed is None:
            # Processes sample with seeds of their own, and must still agree on the order of the rows.
            self.data_seed = self.seed
        if self.remove_unused_columns:
            raise ConfigError("remove_unused_columns=True would hide the row's columns from the judges; leave it False")

    def check_method(self) -> None:
        """Check the values of the method's settings, which a task may have of its own.

        Raises:
            ConfigError: a value is out of range; the message names the field and what is allowed.
        """
        if self.rlhf_optimizer not in LOSSES and ":" not in self.rlhf_optimizer:
            raise ConfigError(f"no rlhf_optimizer named {self.rlhf_optimizer!r}; there are: {', '.join(LOSSES)}")
        if self.rlhf_optimizer in LOSSES and 1 <= self.k < load_loss(self.rlhf_optimizer).MIN_K:
            raise ConfigError(
                f"k={self.k}: {self.rlhf_optimizer} compares the completions of a prompt; set k to "
                f"{load_loss(self.rlhf_optimizer).MIN_K} or more"
            )
        if self.rollout not in ("local", "vllm"):
            raise ConfigError(f"rollout={self.rollout!r}: must be local or vllm")
        if (self.rollout == "vllm") != bool(self.rollout_url):
            raise ConfigError(
                f"rollout={self.rollout!r} and rollout_url={self.rollout_url!r}: set both, rollout='vllm' with the "
                "server's URL, or neither"
            )
        if self.advantage_baseline not in ("batch", "prompt", "leave_one_out"):
            raise ConfigError(f"advantage_baseline={self.advantage_baseline!r}: must be batch, prompt or leave_one_out")
        counts = ("k", "eval_k", "max_new_tokens", "generation_chunk_size")
        for name in (*counts, "logprob_tokens", "update_tokens", "reward_chunk_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")
        positive = ("kl_threshold", "temperature", "judge_deadline", "beta", "rollout_deadline")
        for name in (*positive, "softmin_sharpness", "multiplier_max"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)}: must be greater than 0")
        not_negative = ("judge_outage_timeout", "lamb", "verdict_weight", "multiplier_start", "multiplier_rate")
        for name in (*not_negative, "task_weight_rate"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}={getattr(self, name)}: must be 0 or greater")
        for name in ("max_unknown_fraction", "violation_target"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must lie between 0 and 1")
