"""The trainer: one iteration of Algorithm 1 per optimizer step, on `transformers.Trainer`."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from trainer.baselines import Baselines, SaveBaselines
from trainer.batch import Rollout
from trainer.completions import write_completions
from trainer.config import CGPOConfig
from trainer.dataset import PromptDataset, Row, as_prompts, check_tokenizer, collate
from trainer.errors import DatasetError, JudgeOutage
from trainer.experience import Experience, scored_rollout
from trainer.logprobs import logprobs_in_batches
from trainer.loss import LossSettings, adapt, load_loss
from trainer.metrics import Clock, JsonlMetrics, Means
from trainer.mixture import MixtureOfConstraintJudges, Sample, as_mixture
from trainer.multipliers import SaveMultipliers, load_multipliers, multiplier_metrics
from trainer.policy import load_policy, load_reference, longest_sequence, without_dropout
from trainer.reward import RewardModel, as_reward_model
from trainer.rollout import Completion, pad_sequences
from trainer.scoring import Judged, Scoring
from trainer.update import Part, linearize, split
from trainer.vllm_rollout import VllmSampler, make_sampler
from wire import ServiceError

__all__ = ["CGPOTrainer"]

logger = logging.getLogger(__name__)


class CGPOTrainer(Trainer):
    """Trains a policy by CGPO: a completion that breaks a constraint earns nothing.

    Source: arXiv 2409.20370, Algorithm 1.

    Args:
        model: the policy, a causal language model or where to load one from.
        ref_model: its frozen start. Default: a copy of `model`; with `peft_config`, the model without its adapter.
        reward_model: `RemoteRewardModel(url)`, or an `AutoModelForSequenceClassification` with one label.
        mixture_of_judges: the constraints, `MixtureOfConstraintJudges([...])`.
        args: the configuration.
        processing_class: the policy's tokenizer, with a chat template.
        reward_processing_class: the tokenizer of an in-process reward model. Default: the policy's.
        train_dataset: rows with `messages`; the last assistant turn is the baseline. The columns `ground_truth` and all
            others reach the judges; a column `judges` names the judges of its row.
        eval_dataset: the same, or a dictionary of several.
        peft_config: trains an adapter instead of all weights.
        callbacks: as in `transformers.Trainer`.
        optimizers: as in `transformers.Trainer`.

    Raises:
        CGPOError: something does not fit together; raised before the first step, naming it and the way out.
    """

    def __init__(
        self,
        model: PreTrainedModel | str,
        ref_model: PreTrainedModel | str | None = None,
        reward_model: PreTrainedModel | RewardModel | None = None,
        mixture_of_judges: MixtureOfConstraintJudges | Sequence[Any] = (),
        args: CGPOConfig | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_class: PreTrainedTokenizerBase | None = None,
        train_dataset: Sequence[Mapping[str, Any]] | None = None,
        eval_dataset: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        args = CGPOConfig(output_dir="cgpo-model") if args is None else args
        tokenizer = check_tokenizer(processing_class)
        policy = load_policy(model, ref_model, peft_config)
        self.ref_model = load_reference(policy, ref_model)
        if args.disable_dropout:
            without_dropout(policy)
            without_dropout(self.ref_model)
        self.max_length = args.max_length or longest_sequence(policy)
        self.rlhf_loss = load_loss(args.rlhf_optimizer)
        self.loss_settings = LossSettings.of(args)
        super().__init__(
            model=policy,
            args=args,
            data_collator=collate,
            train_dataset=as_prompts(train_dataset, tokenizer, self.max_length, args.max_new_tokens, "train_dataset"),
            eval_dataset=as_prompts(eval_dataset, tokenizer, self.max_length, args.max_new_tokens, "eval_dataset"),
            processing_class=tokenizer,
            callbacks=[JsonlMetrics(), *(callbacks or [])],
            optimizers=optimizers,
        )
        self.loss_is_scaled_for_ga = True  # a plan's count covers all micro-batches
        if self.ref_model is not None:
            self.ref_model = self.accelerator.prepare_model(self.ref_model, evaluation_mode=True)
        if args.world_size > 1:
            set_seed(args.seed, device_specific=True)
        self.sampler = make_sampler(args, policy, tokenizer)
        self.scoring = Scoring(
            as_mixture(mixture_of_judges),
            as_reward_model(reward_model, reward_processing_class or tokenizer, args.device, args.reward_chunk_size),
            args.judge_deadline,
            args.max_unknown_fraction,
            args.judge_outage_timeout,
        )
        self.baselines = Baselines(self.scoring)
        self.add_callback(SaveBaselines(self.baselines))
        self.add_callback(SaveMultipliers(lambda: {"default": self.loss_settings.multipliers}))
        self._experience: Experience | None = None
        self._is_updated = False
        self._micro_batches: list[dict[str, Any]] = []
        self._prepared: set[PromptDataset] = set()
        self._rng_states: tuple[Tensor, list[Tensor]] | None = None
        self._means: dict[str, Means] = {"train": Means(), "eval": Means()}

    # -- Before the first step ------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **named: Any) -> Any:
        """Check judges and reward model, make the baselines that are missing, and train as `Trainer.train` does.

        Raises:
            CGPOError: something does not fit together, before the first step.
            JudgeOutage, ServiceError: no answers for too long, or a refusal in mid-run; a checkpoint has been saved.
        """
        if self.train_dataset is None:
            raise DatasetError("train_dataset is missing; pass rows with `messages` to CGPOTrainer")
        if resume_from_checkpoint:
            last = resume_from_checkpoint is True
            checkpoint = (get_last_checkpoint(self.args.output_dir) if last else resume_from_checkpoint) or ""
            kept = SaveBaselines.path(checkpoint, self.args.process_index)
            if kept.is_file():
                self.baselines.load(kept)
            self.loss_settings = replace(self.loss_settings, multipliers=load_multipliers(checkpoint, "default"))
        self.prepare(self.train_dataset)
        try:
            return super().train(resume_from_checkpoint, **named)
        except (JudgeOutage, ServiceError):
            self._save_last_step()
            raise

    def _save_last_step(self) -> None:
        """Save a checkpoint of the last finished step, unless there is one: resuming does the broken step again."""
        step = self.state.global_step
        if step == 0 or (Path(self.args.output_dir) / f"checkpoint-{step}").exists():
            return
        if self._rng_states is not None:
            torch.set_rng_state(self._rng_states[0])
            if self._rng_states[1]:
                torch.cuda.set_rng_state_all(self._rng_states[1])
        self._save_checkpoint(self.model_wrapped, trial=None)  # Trainer has no public way to save more than weights
        self.callback_handler.on_save(self.args, self.state, self.control)

    def prepare(self, rows: PromptDataset) -> None:
        """Ask the services whether they can do what these rows need, and sample the baselines that are missing.

        Raises:
            ConfigError: a service is down, or does not know a judge or a parameter.
            ModelError: policy and reward model have different chat templates.
            DatasetError: a row wants a judge that is not in the mixture.
        """
        self._prepared.add(rows)
        self.scoring.reward_model.check(self.processing_class, self.args.allow_template_mismatch)
        self.scoring.mixture.check(rows)
        if isinstance(self.sampler, VllmSampler):
            self.sampler.check(self.accelerator.unwrap_model(self.model_wrapped), [row.prompt_ids for row in rows])
        if not self.rlhf_loss.NEEDS_BASELINES:
            return
        missing = self.baselines.missing(list(rows))
        if missing:
            self.baselines.keep(missing, self._sample_baselines(missing))

    def _sample_baselines(self, rows: Sequence[Row]) -> list[Completion]:
        """Return one completion of the reference model per row; the same ones whenever seed and rows are the same."""
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self.accelerator.autocast(), self._reference() as reference:
            torch.manual_seed(self.args.seed)
            groups = self.sampler.sample(
                self.accelerator.unwrap_model(reference), [row.prompt_ids for row in rows], 1, self.args.temperature
            )
        return [group[0] for group in groups]

    # -- One iteration of Algorithm 1 -----------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Return the micro-batches of one optimizer step, each with its number, and remember all of them."""
        self._rng_states = (
            torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        )  # fmt: skip
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._micro_batches = [{**batch, "micro_batch": number} for number, batch in enumerate(batches)]
        return self._micro_batches, num_items

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Return the loss of one micro-batch after a backward pass per part; the first one makes the experience."""
        number = inputs["micro_batch"]
        if number == 0:
            rows = [row for batch in self._micro_batches for row in batch["rows"]]
            self._experience = self._learn_from(rows, self.args.k, self.args.temperature)
            self._is_updated = self._is_trained_on(self._experience)
            self._means["train"].add("update/applied_rate", [self._is_updated])
            self._record(self._experience, "train")
            if self._is_updated:  # the next step's: this one is planned already
                self.loss_settings = adapt(self.rlhf_loss, self._experience.scored, self.loss_settings, self._total)
        start = sum(len(batch["rows"]) for batch in self._micro_batches[:number])
        *others, last = self._parts(model, start, start + len(inputs["rows"]))
        with self.accelerator.no_sync(model):
            losses = [super(CGPOTrainer, self).training_step(model, {"part": part}) for part in others]
        return torch.stack([*losses, super().training_step(model, {"part": last})]).sum()

    def _parts(self, model: nn.Module, start: int, stop: int) -> list[Part]:
        """Return the update of prompts `start` to `stop - 1` in parts, as many of them on every process."""
        experience, sequences = self._experience, self._experience.rollout.sequences
        value, factor_N = linearize(experience, self.rlhf_loss, self.loss_settings, start, stop)
        if not self._is_updated:
            return [Part(sequences, [], factor_N, torch.zeros_like(value))]
        # Processes average their gradients; the plan's count already divides.
        value, factor_N = value * self.args.world_size, factor_N * self.args.world_size
        most_tokens = 2**62 if self.is_deepspeed_enabled else self.args.update_tokens  # DeepSpeed: one backward pass
        with self.accelerator.autocast():
            return split(model, sequences, value, factor_N, most_tokens, self._most)

    def _learn_from(self, rows: Sequence[Row], k: int, temperature: float) -> Experience:
        """Return the experience of one iteration: generate, judge and score, compare with the reference, plan.

        In mixed precision by a context of its own: before training begins the policy is not yet wrapped in one, while
        the reference is.
        """
        clock = Clock()
        waiting: dict[int, tuple[list[Sample], Callable[[], list[Judged]]]] = {}

        def send(start: int, groups: list[list[Completion]]) -> None:
            chunk = rows[start : start + len(groups)]
            samples = [Sample(r, c.text) for r, group in zip(chunk, groups, strict=True) for c in group]
            waiting[start] = samples, self.scoring.submit(samples)

        needs_baselines = self.rlhf_loss.NEEDS_BASELINES
        with self.accelerator.autocast(), clock("generate"):
            policy = self.accelerator.unwrap_model(self.model_wrapped)
            groups = self.sampler.sample(policy, [row.prompt_ids for row in rows], k, temperature, on_chunk=send)
            baselines = [self.baselines.of(row) for row in rows] if needs_baselines else []
            wait_for_baselines = self.baselines.submit(rows) if needs_baselines else None
            rollout = self._as_rollout(rows, groups, baselines)
        with self.accelerator.autocast(), clock("logprobs"):
            logprobs_N, ref_logprobs_N = self._both_logprobs(rollout)
        with clock("judge"):
            parts = [waiting[start] for start in sorted(waiting)]  # a sampler may be done with them in any order
            samples = [sample for part, _ in parts for sample in part]
            judged = self.scoring.settle(samples, [one for _, wait in parts for one in wait()])
            judged_baselines = wait_for_baselines() if wait_for_baselines else None
        grouped = [judged[start : start + k] for start in range(0, len(judged), k)]
        scored = scored_rollout(
            rollout, grouped, judged_baselines, [c.has_eos for c in baselines], logprobs_N, ref_logprobs_N,
            self.args.missing_eos_penalty, self.scoring.mixture.labels,
        )  # fmt: skip
        plan = self.rlhf_loss.plan(scored, self.loss_settings, self._total)
        return Experience(rows, rollout, grouped, scored, plan, clock.seconds)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of one part: only the completions that the plan uses go through the model."""
        loss = inputs["part"].loss(model)
        return (loss, {}) if return_outputs else loss

    def _is_trained_on(self, experience: Experience) -> bool:
        """Return, the same on every process, whether the step has anything to learn from, and enough of it is known."""
        plan = experience.plan
        judged = [one for row in experience.judged for one in row]
        unknown = self._total(torch.tensor(float(sum(not one.is_known for one in judged)), device=self.args.device))
        sent = self._total(torch.tensor(float(len(judged)), device=self.args.device))
        if unknown > self.args.max_unknown_fraction * sent:
            logger.warning(
                "%d of %d samples are unknown, more than max_unknown_fraction=%g: no update in this step",
                unknown, sent, self.args.max_unknown_fraction,
            )  # fmt: skip
            return False
        used = plan.used_BK.sum() + (plan.baseline_weights_B != 0).sum()
        return bool(self._total(used.float()) > 0)

    def _as_rollout(
        self, rows: Sequence[Row], groups: Sequence[Sequence[Completion]], baselines: Sequence[Completion]
    ) -> Rollout:
        prompts = [row.prompt_ids for row, group in zip(rows, groups, strict=True) for _ in group]
        completions = [completion.token_ids for group in groups for completion in group]
        if self.rlhf_loss.TRAINS_ON_BASELINES:
            prompts += [row.prompt_ids for row in rows]
            room = [self.max_length - len(row.prompt_ids) for row in rows]
            completions += [c.token_ids[:most] for c, most in zip(baselines, room, strict=True)]
        device = self.args.device
        return Rollout(
            pad_sequences(prompts, completions, self.processing_class.pad_token_id, device),
            [[completion.text for completion in group] for group in groups],
            torch.tensor([[completion.has_eos for completion in group] for group in groups], device=device),
            baselines=self.rlhf_loss.TRAINS_ON_BASELINES,
        )

    def _both_logprobs(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Return log pi_w and log pi_ref of every sequence, by the same function on the same tokens."""
        model, most_tokens = self.model_wrapped, self.args.logprob_tokens
        was_training = model.training
        model.eval()
        try:
            logprobs_N = logprobs_in_batches(model, rollout.sequences, most_tokens, self._most)
            with self._reference() as reference:
                return logprobs_N, logprobs_in_batches(reference, rollout.sequences, most_tokens, self._most)
        finally:
            model.train(was_training)

    @contextmanager
    def _reference(self) -> Iterator[nn.Module]:
        """Yield the reference model: the frozen copy, or the policy with its adapter switched off."""
        if self.ref_model is not None:
            yield self.ref_model
            return
        with self.accelerator.unwrap_model(self.model_wrapped).disable_adapter():
            yield self.model_wrapped

    def _total(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        return self.accelerator.reduce(tensor, "sum") if self.args.world_size > 1 else tensor

    def _most(self, number: int) -> int:
        """Return the largest of a number over all processes; with several at least 1, so that they synchronize."""
        if self.args.world_size == 1:
            return number
        return max(1, int(self.accelerator.gather(torch.tensor([number], device=self.args.device)).max()))

    # -- Evaluation and logs --------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the training metrics on held-out prompts: generate, judge and score, without an update.

        The same seed each time, so two evaluations differ by the policy alone.
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(rows, Mapping):
            metrics: dict[str, float] = {}
            for name, part in rows.items():
                chosen = name if eval_dataset is None else part
                metrics.update(self.evaluate(chosen, ignore_keys, f"{metric_key_prefix}_{name}"))
            return metrics
        if rows is not None and not isinstance(rows, (str, PromptDataset)):
            rows = PromptDataset(rows, self.processing_class, self.max_length, self.args.max_new_tokens, "eval_dataset")
        loader = self.get_eval_dataloader(rows)
        if loader.dataset not in self._prepared:  # once: later a service that is down is waited for
            self.prepare(loader.dataset)
        self.callback_handler.eval_dataloader = loader
        self._rng_states = None  # the step before is complete: a run that ends in here is resumed behind it
        self._means["eval"] = Means()
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.args.seed + self.args.process_index)
            for batch in loader:
                experience = self._learn_from(batch["rows"], self.args.eval_k, self.args.temperature)
                self._record(experience, metric_key_prefix)
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._gather("eval").items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and with the training loss, or at the end, the means of all steps since the last log."""
        if "loss" in logs or "train_loss" in logs:
            logs = {**logs, **self._gather("train"), **multiplier_metrics(self.loss_settings.multipliers)}
        super().log(logs, start_time)

    def _record(self, experience: Experience, kind: str) -> None:
        """Add a step's metrics to the means, and write its completions to the run folder."""
        self._means["train" if kind == "train" else "eval"].merge(experience.metrics(self.scoring.mixture.labels))
        if self.args.log_completions:
            step = self.state.global_step + (kind == "train")
            folder = Path(self.args.output_dir) / "completions"
            name = f"{kind}-{step:06d}-{self.args.process_index}"
            name += "" if kind == "train" else f"-{len(list(folder.glob(name + '*')))}"
            write_completions(folder / f"{name}.parquet", experience.table(step))

    def _gather(self, kind: str) -> dict[str, float]:
        """Return the means over all processes, of an evaluation's counts the sums, and begin anew."""
        totals, self._means[kind] = self._means[kind].totals(), Means()
        if not totals:
            return {}
        # float64 only on a device that has it: Apple's has not
        device = self.args.device if self.args.world_size > 1 else "cpu"
        summed = self._total(torch.tensor(list(totals.values()), dtype=torch.float64, device=device))
        counts = [kind == "eval" and name.startswith("num/") for name in totals]
        return {
            name: float(s if is_count else s / c)
            for name, (s, c), is_count in zip(totals, summed, counts, strict=True)
            if c > 0
        }
