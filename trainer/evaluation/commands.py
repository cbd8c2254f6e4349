"""The commands `cgpo judge`, `cgpo rescore` and `cgpo validate`."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from trainer.dataset_source import PACKAGED, packaged_path
from trainer.errors import ConfigError
from trainer.evaluation import options
from trainer.evaluation.agreement import Agreement, Labels, overall
from trainer.evaluation.columns import Columns, parse_columns
from trainer.evaluation.judge_file import JudgeFile
from trainer.evaluation.judge_list import NamedJudge, labelled, parse_judges
from trainer.evaluation.options import journal_of, make_console, run_with_bar, service_for
from trainer.evaluation.rescore import Changes, Rescoring, judges_of_run, table_of_run
from trainer.evaluation.service import Pace
from trainer.evaluation.summary import ALL, Summary
from trainer.evaluation.table_files import TableFile
from trainer.evaluation.table_output import check_output, judged_row, write_rows
from trainer.evaluation.validate import Fault, Validation
from trainer.run_config import read_run_config
from wire import JudgeSpec

__all__ = ["judge", "rescore", "validate"]

JOURNAL_FORMAT = 1


def judge(
    file: Annotated[Path, typer.Argument(help="JSONL, Parquet, or the folder of a Hugging Face dataset")],
    judges: options.Judges = None,
    url: options.Urls = None,
    local: options.Local = False,
    columns: options.ColumnNames = None,
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    label: Annotated[str | None, typer.Option(help="column with the true answer: how far do the judges agree?")] = None,
    label_satisfied: Annotated[
        str | None, typer.Option(metavar="VALUE,...", help="the labels that mean satisfied; all others: violated")
    ] = None,
    each: options.Each = None,
    split: options.Split = None,
    limit: options.Limit = None,
    report: Annotated[Path | None, typer.Option(help="write the printed figures as JSON too")] = None,
    show: options.Show = 10,
    rows_per_request: options.RowsPerRequest = 64,
    concurrency: options.Concurrency = 8,
    deadline: options.Deadline = 600.0,
    retries: options.Retries = 2,
) -> None:
    """Judge the completions of a file, without any training. A bearer token is read from $CGPO_TOKEN."""
    named = parse_judges(judges or ())
    table = TableFile(file, split, tuple(each.split(",")) if each else ())
    which = Columns(parse_columns(columns), label)
    if output is not None:
        check_output(output, overwrite)
    own = which.check(table, named)
    labels = _labels(table, label, label_satisfied, limit)
    total = min(table.count(), limit or table.count())
    pace = Pace(rows_per_request, concurrency, deadline, retries)
    with service_for(url, local, pace, named) as service:
        versions = service.versions(named, rows_have_parameters=own)
        header = _header(table, which, named, versions)
        with journal_of(output, header, overwrite) as journal:
            if journal.num_rows:
                make_console().print(f"going on after row {journal.num_rows} of {total}")
            task = JudgeFile(service.client, pace, table, lambda n, row: which.question(n, row, named), journal, limit)
            run_with_bar(task, "judging", total, is_kept=output is not None)
            figures = _report(task, labels, show, rows_per_request, own)
            if output is not None:
                write_rows(output, lambda: (judged_row(row, judged) for _, row, judged in task.results()))
    if report is not None:
        report.write_text(json.dumps({"file": file.name, **header, **figures}, indent=2), encoding="utf-8")
    for path in filter(None, (output, report)):
        make_console().print(f"written: {path}", soft_wrap=True)


def rescore(
    run: Annotated[Path, typer.Argument(help="a run folder, with config.json and completions/*.parquet")],
    judges: Annotated[
        list[str] | None, typer.Option("--judges", help="instead of those in the run's config.json, under their labels")
    ] = None,
    url: options.Urls = None,
    local: options.Local = False,
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    limit: options.Limit = None,
    show: options.Show = 10,
    rows_per_request: options.RowsPerRequest = 64,
    concurrency: options.Concurrency = 8,
    deadline: options.Deadline = 600.0,
    retries: options.Retries = 2,
) -> None:
    """Judge the completions of a training run again, and show which verdicts are others now."""
    if output is not None:
        check_output(output, overwrite)
    table = table_of_run(run)
    named = parse_judges(judges) if judges else judges_of_run(run)
    pace, rescoring, changes = Pace(rows_per_request, concurrency, deadline, retries), Rescoring(named), Changes(show)
    total = min(table.count(), limit or table.count())
    with service_for(url, local, pace, named) as service:
        service.versions(named, rows_have_parameters=True)
        with journal_of(None, {}) as journal:
            task = JudgeFile(service.client, pace, table, rescoring.question, journal, limit)
            run_with_bar(task, "judging again", total)
            for _, row, judged in task.results():
                changes.add(row, judged)
            if output is not None:
                rows = lambda: (judged_row(row, judged) for _, row, judged in task.results())  # noqa: E731
                write_rows(output, rows, ("verdicts", "verdicts_before"))
    console = make_console()
    console.print(changes.table())
    console.print(f"{changes.num_changed} verdicts changed in {total} completions of {run}", soft_wrap=True)
    if changes.first:
        console.print(f"the first {len(changes.first)} changes:")
        console.print(changes.examples())
    if rescoring.left_out:
        console.print(f"not asked again, because --judges and config.json lack them: {', '.join(rescoring.left_out)}")
    if output is not None:
        console.print(f"written: {output}", soft_wrap=True)


def validate(
    data: Annotated[Path, typer.Argument(help="a dataset as for `cgpo judge`, or the YAML file of a run")],
    judges: options.Judges = None,
    by_needs: Annotated[
        bool, typer.Option(help="as in training, leave out judges whose needs a row does not meet (YAML: always)")
    ] = False,
    url: options.Urls = None,
    local: options.Local = False,
    columns: options.ColumnNames = None,
    split: options.Split = None,
    limit: options.Limit = None,
    show: options.Show = 20,
    rows_per_request: options.RowsPerRequest = 64,
    concurrency: options.Concurrency = 8,
    deadline: options.Deadline = 600.0,
    retries: options.Retries = 2,
) -> None:
    """Check that every row can be judged: ground truth, tests, instruction ids, its own judges. Status 1 if not."""
    named = parse_judges(judges or ())
    work = [(named, TableFile(data, split))]
    if data.suffix in (".yaml", ".yml"):
        work, by_needs = _tables_of_run(data, named), True
    pace = Pace(rows_per_request, concurrency, deadline, retries)
    which = Columns(parse_columns(columns), completion="")
    own = [which.check(table, mine) for mine, table in work]
    listed = [judge for mine, _ in work for judge in mine]
    everyone = [judge for i, judge in enumerate(listed) if judge not in listed[:i]]
    faults: list[tuple[TableFile, Fault]] = []
    asked: Counter[str] = Counter()
    with service_for(url, local, pace, everyone) as service:
        service.versions(everyone, rows_have_parameters=any(own))
        for mine, table in work:
            checks = Validation(which, mine, service.described, by_needs)
            with journal_of(None, {}) as journal:
                task = JudgeFile(service.client, pace, table, checks.question, journal, limit)
                run_with_bar(task, f"checking {table.path.name}", min(table.count(), limit or table.count()))
                faults += [(table, fault) for fault in checks.faults(task.results())]
            asked.update(checks.num_asked)
            make_console().print(f"{table.path}: {checks.num_rows} rows", soft_wrap=True)
    _print_faults(faults, asked, show)
    if faults or 0 in asked.values():
        raise typer.Exit(1)


def _labels(table: TableFile, column: str | None, satisfied: str | None, limit: int | None) -> Labels | None:
    """Return the reader of the labels, having read all of them: a wrong one should not be met after hours."""
    if column is None:
        if satisfied is not None:
            raise ConfigError("--label-satisfied says what a label means; name the column with --label")
        return None
    values = [value.strip() for value in satisfied.split(",")] if satisfied else ()
    labels = Labels(column, values)
    for number, row in enumerate(islice(table.rows(), limit)):
        labels.of(number, row.get(column))
    labels.check()
    return labels


def _header(table: TableFile, columns: Columns, judges: list[NamedJudge], versions: dict[str, str]) -> dict[str, Any]:
    """Return what makes one run over a file another than the next."""
    return {
        "format": JOURNAL_FORMAT,
        "file_sha256": table.sha256(),
        "split": table.split,
        "each": list(table.each),
        "columns": dict(columns.renamed),
        "label": columns.label,
        "judges": [
            {"label": label, "name": spec.name, "parameters": spec.parameters, "version": versions[label]}
            for label, spec in judges
        ],
    }


def _report(task: JudgeFile, labels: Labels | None, show: int, rows_per_request: int, own: bool) -> dict[str, Any]:
    """Print the figures of a judged file, and return them."""
    summary, num_rows, num_unlabelled = Summary(task.journal.latencies_ms), 0, 0
    agreements: dict[str, Agreement] = {}
    for number, row, judged in task.results():
        num_rows += 1
        summary.add(judged)
        label = labels.of(number, row.get(labels.column)) if labels else None
        num_unlabelled += label is None
        if label is not None:
            verdicts = judged.verdicts | ({ALL: overall(judged)} if len(judged.verdicts) > 1 else {})
            for name, verdict in verdicts.items():
                agreements.setdefault(name, Agreement(show)).add(number, label, verdict)
    console = make_console()
    console.print(summary.table())
    console.print(
        "rate: satisfied of satisfied and violated, with its 95 % Wilson interval. p50, p95: time of one request of up "
        f"to {rows_per_request} rows, waiting behind other requests included.",
        soft_wrap=True,
    )
    for complaint in summary.complaints():
        console.print(complaint, soft_wrap=True, markup=False)
    for judge_label, tally in summary.judges.items():
        versions = sorted(filter(None, tally.versions))
        if len(versions) > 1 and not own:
            console.print(f"{judge_label} changed while it judged: {', '.join(versions)}; --overwrite begins anew")
    figures: dict[str, Any] = {"rows": num_rows, "results": summary.figures()}
    if labels is not None:
        for name, agreement in agreements.items():
            console.print(f"{name} against {labels.column}: {agreement.sentence()}", soft_wrap=True)
            console.print(agreement.table())
            if agreement.disagreements:
                console.print(f"the first {len(agreement.disagreements)} disagreements, rows counted from 0:")
                console.print(agreement.examples())
        if num_unlabelled:
            console.print(f"{num_unlabelled} rows have no {labels.column}")
        figures["agreement"] = {name: agreement.figures() for name, agreement in agreements.items()}
    return figures


def _tables_of_run(path: Path, judges: list[NamedJudge]) -> list[tuple[list[NamedJudge], TableFile]]:
    """Return the datasets of a run's YAML file, each with the judges of its task, or with those given."""
    config = read_run_config(path)
    found = []
    for part in config.tasks or [config]:
        named = judges or labelled(JudgeSpec(name=one.name, parameters=one.parameters) for one in part.entries())
        names = [name for name in (part.train_dataset, part.eval_dataset) if name is not None]
        found += [(named, _table_of(name)) for name in names]
    return found


def _table_of(name: str) -> TableFile:
    """Return a dataset of a run's YAML file."""
    if name in PACKAGED:
        return TableFile(packaged_path(name))
    return TableFile(Path(name))


def _print_faults(faults: list[tuple[TableFile, Fault]], asked: Counter[str], show: int) -> None:
    console = make_console()
    by_label = Counter(fault.label for _, fault in faults)
    table = Table()
    table.add_column("judge", overflow="fold")
    for name in ("rows asked", "faults"):
        table.add_column(name, justify="right")
    for label in dict.fromkeys([*asked, *by_label]):
        table.add_row(label, str(asked[label]), str(by_label[label]))
    console.print(table)
    for label in (label for label, number in asked.items() if number == 0):
        console.print(f"{label} applies to no row: no row has what it needs, or names it")
    if not faults:
        return
    console.print(f"the first {min(show, len(faults))} of {len(faults)} faults, rows counted from 0:")
    examples = Table()
    for name in ("file", "row", "judge", "what is wrong"):
        examples.add_column(name, overflow="fold")
    for source, fault in faults[:show]:
        detail = fault.detail if fault.is_rows else f"could not be checked: {fault.detail}"
        examples.add_row(source.path.name, str(fault.number), fault.label, detail)
    console.print(examples)
