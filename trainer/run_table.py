"""The table of a run: each figure on the held-out prompts, before and after, rates with their intervals."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from trainer.evaluation.summary import wilson_interval

__all__ = ["comparison"]

Metrics = Mapping[str, float]


def comparison(before: Metrics, after: Metrics, labels: Mapping[str, Sequence[str]]) -> Table:
    """Return the table of a run.

    The interval behind a satisfied rate is Wilson's at 95 %, as if completions were independent; several of one prompt
    are less telling than as many of different prompts.

    Args:
        before: metrics of the evaluation before training.
        after: of the one after it.
        labels: the judges of each task, by its name; with a single task the name is not shown.
    """
    table = Table(title="held-out prompts, before and after training")
    for name, justify in (("", "left"), ("before", "right"), ("after", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for task, judges in labels.items():
        prefix = "" if len(labels) == 1 else f"task/{task}/"
        rates = [_rate(metrics, f"eval_{prefix}") for metrics in (before, after)]
        table.add_row("every judge satisfied" if not prefix else f"[bold]{task}[/]: every judge satisfied", *rates)
        rows = [
            *((f"  {label}", f"constraint/{label}/satisfied_rate", "{:.1%}") for label in judges),
            ("  mean score", "score/mean", "{:.3f}"),
            ("  mean log-ratio (nats)", "kl/mean", "{:.3f}"),
            ("  unknown", "judge/unknown_rate", "{:.1%}"),
            ("  completions", "num/sent", "{:.0f}"),
        ]
        for title, name, form in rows:
            values = [metrics.get(f"eval_{prefix}{name}") for metrics in (before, after)]
            table.add_row(title, *("-" if value is None else form.format(value) for value in values))
    return table


def _rate(metrics: Metrics, prefix: str) -> str:
    """Return the satisfied rate of known completions with its interval."""
    satisfied = metrics.get(f"{prefix}num/satisfied", 0)
    known = satisfied + metrics.get(f"{prefix}num/violated", 0)
    low, high = wilson_interval(round(satisfied), round(known))
    if low is None or high is None:
        return "-"
    return f"{satisfied / known:.1%} ({low:.1%} to {high:.1%})"
