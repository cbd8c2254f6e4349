"""The trainer: one iteration of Algorithm 2 per optimizer step, on `transformers.Trainer`. One task is Algorithm 1."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import ConcatDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

from trainer.baselines import Baselines
from trainer.checkpoints import Checkpoints, RandomNumbers, is_whole
from trainer.completions import write_iteration
from trainer.config import CGPOConfig
from trainer.dataset import PromptDataset, Row, check_tokenizer, collate
from trainer.errors import ConfigError, DatasetError, JudgeOutage, VersionChange
from trainer.gathered import Gathered
from trainer.gradient_balance import balanced
from trainer.iteration import (
    Iteration,
    Requests,
    deal,
    find_at_once,
    generate,
    joint_sequences,
    learn,
    submit_baselines,
)
from trainer.joint import joint_scoring
from trainer.ledger import Ledger
from trainer.likelihoods import Likelihoods, Models
from trainer.metrics import Clock, JsonlMetrics, Means
from trainer.mixture import MixtureOfConstraintJudges
from trainer.multipliers import load_multipliers, multiplier_metrics, save_multipliers
from trainer.policy import load_policy, load_reference, longest_sequence, prepared_reference, without_dropout
from trainer.reward import RewardModel
from trainer.rollout import Completion
from trainer.task import Task, TrainingTask, joined_rows, rows_to_evaluate, single_task, training_tasks
from trainer.task_order import TaskOrder
from trainer.task_weights import TaskWeights
from trainer.update import Part, split
from trainer.versions import Versions
from trainer.vllm_rollout import VllmSampler, make_sampler
from trainer.watch import Watch, kl_thresholds
from wire import ServiceError

__all__ = ["CGPOTrainer"]


class CGPOTrainer(Trainer):
    """Trains a policy by CGPO: a completion that breaks a constraint earns nothing.

    Source: arXiv 2409.20370, Algorithm 2; with one task, Algorithm 1.

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
        tasks: several tasks instead of one: each has datasets, judges, settings, and where it wants a reward model, of
            its own.
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
        tasks: Sequence[Task] | None = None,
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
        alone = single_task(train_dataset, eval_dataset, mixture_of_judges, tasks)
        self.tasks = training_tasks(
            tasks or [alone], args, tokenizer, self.max_length, reward_model, reward_processing_class or tokenizer
        )
        super().__init__(
            model=policy,
            args=args,
            data_collator=collate,
            train_dataset=joined_rows([task.train_dataset for task in self.tasks.values()]),
            eval_dataset=joined_rows([task.eval_dataset for task in self.tasks.values()]),
            processing_class=tokenizer,
            callbacks=[JsonlMetrics(), Watch(kl_thresholds(self.tasks)), *(callbacks or [])],
            optimizers=optimizers,
        )
        self.loss_is_scaled_for_ga = True  # a plan's count covers all micro-batches
        if self.ref_model is not None:
            self.ref_model = prepared_reference(self.accelerator, self.ref_model, self.ref_model is not ref_model)
        if args.world_size > 1:
            set_seed(args.seed, device_specific=True)
        self.gathered = Gathered(self.accelerator, policy)
        self.sampler = make_sampler(args, policy, tokenizer)
        self.scoring = joint_scoring(self.tasks, args)
        self.baselines = Baselines(self.scoring)
        self.task_weights = TaskWeights(self.tasks, args, self._total)
        self.versions = Versions(accept=args.version_change == "accept")
        self.ledger = Ledger(args, self.versions)
        self.checkpoints = Checkpoints(args, self.accelerator, self.baselines, self.versions)
        self._iteration: Iteration | None = None
        self._weights: dict[str, float] = {}
        self._micro_batches: list[dict[str, Any]] = []
        self._prepared: set[Any] = set()
        self._random_numbers = RandomNumbers()
        self._means: dict[str, Means] = {"train": Means(), "eval": Means()}

    # -- Before the first step ------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **named: Any) -> Any:
        """Check judges and reward model, make the baselines that are missing, and train as `Trainer.train` does.

        Raises:
            CGPOError: something does not fit together, before the first step.
            JudgeOutage, ServiceError: no answers for too long, or a refusal in mid-run; a checkpoint has been saved.
            VersionChange: a judge or a reward model has changed, and that is refused; the same.
        """
        for name, task in self.tasks.items():
            if task.train_dataset is None:
                whose = f" of the task {name!r}" if len(self.tasks) > 1 else ""
                raise DatasetError(f"train_dataset{whose} is missing; pass rows with `messages` to CGPOTrainer")
        if self.args.balance_task_gradients and self.is_deepspeed_enabled:
            raise ConfigError(
                "balance_task_gradients: DeepSpeed keeps the gradients to itself; set it to False, or use FSDP"
            )
        checkpoint = self.checkpoints.to_resume(resume_from_checkpoint)
        self.task_weights.load(checkpoint or "")
        for name, task in self.tasks.items():
            task.loss_settings = replace(task.loss_settings, multipliers=load_multipliers(checkpoint or "", name))
        self.prepare(self.train_dataset)
        try:
            return super().train(checkpoint, **named)
        except (JudgeOutage, ServiceError, VersionChange):
            self._save_last_step()
            raise

    def _save_last_step(self) -> None:
        """Save a checkpoint of the last finished step, unless there is one: resuming does the broken step again."""
        step = self.state.global_step
        if step == 0 or is_whole(self.checkpoints.folder(step)):
            return
        self._random_numbers.put_back()
        self._save_checkpoint(self.model_wrapped)  # Trainer has no public way to save more than weights
        self.callback_handler.on_save(self.args, self.state, self.control)

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Save a checkpoint as the parent does, whole or not at all."""
        with self.checkpoints.saving(self.state) as folder:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                self.task_weights.save(folder)
                save_multipliers(folder, {name: task.loss_settings.multipliers for name, task in self.tasks.items()})

    def prepare(self, dataset: PromptDataset | ConcatDataset[Row]) -> None:
        """Ask the services whether they can do what these rows need, and sample the baselines that are missing.

        Raises:
            ConfigError: a service is down, or does not know a judge or a parameter.
            ModelError: policy and reward model have different chat templates.
            DatasetError: a row wants a judge that is not in the mixture.
        """
        self._prepared.add(dataset)
        rows = [dataset[i] for i in range(len(dataset))]
        self.scoring.reward_model.check(self.processing_class, self.args.allow_template_mismatch)
        judges = self.scoring.mixture.check(rows)
        if self.ledger.begin(judges, {task.name: task.reward_model for task in self.tasks.values()}):
            self.baselines.forget_answers()
        if isinstance(self.sampler, VllmSampler):
            longest = max(task.max_new_tokens for task in self.tasks.values())
            prompts = [row.prompt_ids for row in rows]
            self.sampler.check(self.accelerator.unwrap_model(self.model_wrapped), prompts, longest)
        for task in self.tasks.values():
            missing = self.baselines.missing([row for row in rows if row.task == task.name])
            if missing and task.loss.NEEDS_BASELINES:
                self.baselines.keep(missing, self._sample_baselines(task, missing))

    def _sample_baselines(self, task: TrainingTask, rows: Sequence[Row]) -> list[Completion]:
        """Return one completion of the reference model per row; the same ones whenever seed and rows are the same."""
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        prompts = [row.prompt_ids for row in rows]
        with torch.random.fork_rng(devices), self.accelerator.autocast(), self._reference() as reference:
            torch.manual_seed(self.args.seed)
            with self.gathered.whole(self.accelerator.unwrap_model(reference)) as model:
                groups = self.sampler.sample(model, prompts, 1, task.temperature, max_new_tokens=task.max_new_tokens)
        return [group[0] for group in groups]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the order of the rows: one task's is the parent's; of several, each step has rows of all."""
        if len(self.tasks) == 1:
            return super()._get_train_sampler(train_dataset)
        order = TaskOrder(
            {name: len(task.train_dataset) for name, task in self.tasks.items()},
            {name: task.batch_size for name, task in self.tasks.items()},
            self.args.data_seed,
            # Of the state, which a resumed run has from its checkpoint: what wraps a sampler may keep it from knowing.
            epoch=lambda: self.state.global_step // order.steps_per_epoch,
        )
        return order

    # -- One iteration of Algorithm 2 -----------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Return the micro-batches of one optimizer step, each with its number, and remember all of them."""
        self._random_numbers.keep()
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._micro_batches = [{**batch, "micro_batch": number} for number, batch in enumerate(batches)]
        return self._micro_batches, num_items

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Return the loss of one micro-batch after a backward pass per part; the first one makes the experience."""
        number = inputs["micro_batch"]
        if number == 0:
            self._iteration = self._iterate([row for batch in self._micro_batches for row in batch["rows"]], None, True)
            self._record(self._iteration, "train")
            self._weights = self.task_weights.of(self._iteration, self._means["train"])
            self._iteration.adapt(self._weights, self._total)
        start = sum(len(batch["rows"]) for batch in self._micro_batches[:number])
        stop = start + len(inputs["rows"])
        if not self.args.balance_task_gradients or not self._weights:
            return self._descend(model, start, stop, self._weights)
        return balanced(
            model,
            self._weights,
            descend=lambda task: self._descend(model, start, stop, {task: 1.0}),
            norm=lambda: float(self.accelerator.clip_grad_norm_(model.parameters(), float("inf"))),
        )

    def _descend(self, model: nn.Module, start: int, stop: int, weights: Mapping[str, float]) -> Tensor:
        """Return the weighted loss of rows `start` to `stop - 1` after a backward pass per part."""
        *others, last = self._parts(model, start, stop, weights)
        with self.accelerator.no_sync(model):
            losses = [super(CGPOTrainer, self).training_step(model, {"part": part}) for part in others]
        return torch.stack([*losses, super().training_step(model, {"part": last})]).sum()

    def _iterate(self, rows: Sequence[Row], k: int | None = None, is_training: bool = False) -> Iteration:
        """Return what all tasks learn from these rows: generate, judge and score, compare with the reference, plan.

        In mixed precision by a context of its own: before training begins the policy is not yet wrapped in one, while
        the reference is. Training computes no log-probability that nobody needs; an evaluation computes all.
        """
        clock, requests = Clock(), Requests(self.scoring, rows)
        unwrapped = self.accelerator.unwrap_model(self.model_wrapped)
        with self.accelerator.autocast(), clock("generate"), self.gathered.whole(unwrapped) as policy:
            completions = generate(self.sampler, policy, self.tasks, rows, k, requests.send)
            shares = deal(self.tasks, rows, completions, self.baselines, k, not is_training)
            wait_for_baselines = submit_baselines(self.baselines, shares)
            sequences = joint_sequences(shares, self.max_length, self.processing_class.pad_token_id, self.args.device)
        tokens = self.args.logprob_tokens, self.args.update_tokens
        models = Models(self.model_wrapped, self._reference, self.accelerator.autocast, *tokens, self._most)
        likelihoods = Likelihoods(models, sequences, keep=is_training and self._takes_kept_graph())
        with clock("logprobs"):
            is_idle = self.args.device.type != "cpu" or not getattr(self.scoring.reward_model, "is_here", False)
            needed_N = find_at_once(shares, likelihoods, is_idle)
        with clock("judge"):
            answers, baseline_answers = requests.answers(), wait_for_baselines()
        with clock("logprobs"):
            experiences = learn(
                shares, sequences, likelihoods, needed_N, answers, baseline_answers, self.args.missing_eos_penalty,
                self._total,
            )  # fmt: skip
        return Iteration(rows, shares, experiences, sequences, clock.seconds, likelihoods)

    def _parts(self, model: nn.Module, start: int, stop: int, weights: Mapping[str, float]) -> list[Part]:
        """Return the update of rows `start` to `stop - 1` in parts, as many of them on every process."""
        sequences = self._iteration.sequences
        value, factor_N = self._iteration.linearized(start, stop, weights)
        kept = self._iteration.likelihoods.take_kept()
        if not weights:
            return [Part(sequences, [], factor_N, value)]
        # Processes average their gradients; the plan's count already divides.
        value, factor_N = value * self.args.world_size, factor_N * self.args.world_size
        most_tokens = 2**62 if self.is_deepspeed_enabled else self.args.update_tokens  # DeepSpeed: one backward pass
        with self.accelerator.autocast():
            return split(model, sequences, value, factor_N, most_tokens, self._most, kept)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of one part: only the completions that the plans use go through the model."""
        loss = inputs["part"].loss(model)
        return (loss, {}) if return_outputs else loss

    def _takes_kept_graph(self) -> bool:
        """Return whether the update is one, in this process: then a graph that is there already can be part of it."""
        is_one = len(self._micro_batches) == 1 and not self.args.balance_task_gradients
        return is_one and self.args.world_size == 1 and not self.is_deepspeed_enabled

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
        if rows is not None and not isinstance(rows, (str, PromptDataset, ConcatDataset)):
            rows = rows_to_evaluate(rows, self.tasks, self.processing_class, self.max_length)
        loader = self.get_eval_dataloader(rows)
        if loader.dataset not in self._prepared:  # once: later a service that is down is waited for
            self.prepare(loader.dataset)
        self.callback_handler.eval_dataloader = loader
        self._random_numbers.forget()  # the step before is complete: a run that ends in here is resumed behind it
        self._means["eval"] = Means()
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.args.seed + self.args.process_index)
            for number, batch in enumerate(loader):
                # The last batches of some processes are filled up with rows from the beginning: they count once.
                before = (number * self.args.world_size + self.args.process_index) * self.args.eval_batch_size
                iteration = self._iterate(batch["rows"], self.args.eval_k).first(len(loader.dataset) - before)
                self._record(iteration, metric_key_prefix)
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._gather("eval").items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and with the training loss, or at the end, the means of all steps since the last log."""
        if "loss" in logs or "train_loss" in logs:
            logs = {**logs, **self._gather("train")}
            for name, task in self.tasks.items():
                prefix = f"task/{name}/" if len(self.tasks) > 1 else ""
                adapted = multiplier_metrics(task.loss_settings.multipliers)
                logs.update({f"{prefix}{metric}": value for metric, value in adapted.items()})
        super().log(logs, start_time)

    def _record(self, iteration: Iteration, kind: str) -> None:
        """Add an iteration's metrics to the means, and write its completions and its ledger to the run folder."""
        self._means["train" if kind == "train" else "eval"].merge(iteration.metrics())
        step = self.state.global_step + (kind == "train")
        if self.args.log_completions:
            write_iteration(Path(self.args.output_dir), kind, step, self.args.process_index, iteration.table(step))
        if self.ledger.enter(step, kind, iteration):
            self.baselines.forget_answers()

    def _gather(self, kind: str) -> dict[str, float]:
        """Return the means over all processes, of an evaluation's counts the sums, and begin anew."""
        means, self._means[kind] = self._means[kind], Means()
        # float64 only on a device that has it: Apple's has not
        device = self.args.device if self.args.world_size > 1 else torch.device("cpu")
        return means.over_processes(self._total, device, self.args.world_size if kind == "train" else None)
