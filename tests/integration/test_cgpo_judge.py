"""`cgpo judge`, `cgpo validate` and `cgpo rescore` as commands, against a real judge service over real sockets."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.services import judge_service
from wire import JudgeClient, JudgeItem

ROOT = Path(__file__).parent.parent.parent
ROWS = [
    {"prompt": f"{n} + 1?", "response": f"It is {n + 1 + (n % 5 == 0)}.", "answer": str(n + 1), "right": n % 5 != 0}
    for n in range(400)
]
COLUMNS = ["--columns", "completion=response,ground_truth=answer"]


@pytest.fixture(scope="module")
def url():
    with judge_service(arguments=("--no-require-sandbox",)) as address:
        yield address


def cgpo(*arguments, status=0):
    """What `cgpo` prints; its errors too where it is expected to fail."""
    command = [sys.executable, "-m", "trainer.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stdout + done.stderr


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def cells(printed, label):
    """The cells of a judge's line in the first table."""
    line = next(line for line in printed.splitlines() if line.startswith(f"│ {label} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_file_is_judged_and_compared_with_its_labels(url, tmp_path):
    out, report = tmp_path / "out.jsonl", tmp_path / "report.json"
    judges = "math_answer,word_count:max=3,word_count:min=4"
    file = write(tmp_path / "rows.jsonl", ROWS)
    printed = cgpo(
        "judge", file, "--judges", judges, "--url", url, *COLUMNS, "--label", "right", "--output", out,
        "--report", report, "--show", 2,
    )  # fmt: skip
    assert cells(printed, "math_answer")[:5] == ["math_answer", "320", "80", "0", "80.00%"]
    assert cells(printed, "word_count")[:5] == ["word_count", "400", "0", "0", "100.00%"]
    assert cells(printed, "word_count_2")[:5] == ["word_count_2", "0", "400", "0", "0.00%"]
    assert cells(printed, "all judges")[:4] == ["all judges", "0", "400", "0"]
    assert "math_answer against right: 400 of 400 agree = 100.00%" in printed
    judged = read(out)
    assert [{name: row[name] for name in ROWS[0]} for row in judged] == ROWS
    assert all([v["label"] for v in row["verdicts"]] == ["math_answer", "word_count", "word_count_2"] for row in judged)
    assert {row["outcome"] for row in judged} == {"violated"}
    figures = json.loads(report.read_text())
    assert figures["rows"] == 400
    # Wilson, 320 of 400: (0.8 + 1.92/400 -+ 1.96 sqrt(0.16/400 + 0.96/400^2)) / (1 + 3.84/400)
    assert figures["results"]["math_answer"]["satisfied_rate_low"] == pytest.approx(0.758, abs=5e-4)
    assert figures["agreement"]["math_answer"]["kappa"]["value"] == 1
    assert [judge["parameters"] for judge in figures["judges"]] == [{}, {"max": 3}, {"min": 4}]
    assert "is there already; give --overwrite" in cgpo(
        "judge", file, "--judges", judges, "--url", url, *COLUMNS, "--output", out, status=1
    )


def test_an_interrupted_run_goes_on_and_ends_like_an_uninterrupted_one(url, tmp_path):
    file, out, whole = write(tmp_path / "rows.jsonl", ROWS), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    arguments = ["judge", file, "--judges", "math_answer", "--url", url, *COLUMNS]
    slow = ["--rows-per-request", 1, "--concurrency", 1, "--output", out]
    journal = tmp_path / "out.jsonl.partial"
    command = [sys.executable, "-m", "trainer.cli", *map(str, arguments + slow)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        # tests that a shell runs in the background inherit a SIGINT that is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 20:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on there" in errors
    assert not out.exists()
    assert "over something else: judges differs; give --overwrite" in cgpo(
        *arguments, "--judges", "no_repetition", "--output", out, status=1
    )
    assert "going on after row" in cgpo(*arguments, "--output", out)
    cgpo(*arguments, "--output", whole)
    assert out.read_bytes() == whole.read_bytes()
    assert not journal.exists()


def test_parquet_and_own_judges_of_rows(url, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "Say tea."}, {"role": "assistant", "content": "tea"}],
         "judges": [{"name": "contains", "parameters": {"keywords": [word]}}, "no_such_judge"]}
        for word in ("tea", "milk")
    ]  # fmt: skip
    out = tmp_path / "out.parquet"
    cgpo("judge", write(tmp_path / "rows.jsonl", rows), "--url", url, "--output", out)
    import pyarrow.parquet as pq

    judged = pq.read_table(out).to_pylist()
    assert [[v["outcome"] for v in row["verdicts"]] for row in judged] == [
        ["satisfied", "unknown"],
        ["violated", "unknown"],
    ]
    assert "no judge named 'no_such_judge'" in judged[0]["verdicts"][1]["error"]["detail"]
    assert [row["outcome"] for row in judged] == ["unknown", "violated"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judges", "word_cuont"], "did you mean 'word_count'?"),
        (["--judges", "word_count:maximum=3"], "maximum"),
        (["--judges", "word_count:50"], "is not a judge; write NAME"),
        ([], "--judges is not given"),
        (["--judges", "word_count", "--local"], "exclude one another"),
        (["--judges", "word_count", "--label", "grade"], "--label grade: there is no such column"),
        (["--judges", "word_count", "--label", "answer"], "--label-satisfied VALUE,VALUE"),
        (["--judges", "word_count", "--label-satisfied", "1"], "name the column with --label"),
        (["--judges", "word_count", "--output", "out.csv"], "end it with .jsonl or .parquet"),
    ],
)
def test_what_cannot_work_is_named_before_anything_is_judged(url, tmp_path, arguments, message):
    file = write(tmp_path / "rows.jsonl", ROWS[:5])
    assert message in cgpo("judge", file, "--url", url, *COLUMNS, *arguments, status=1)


def test_a_service_that_is_not_there_is_named(tmp_path):
    file = write(tmp_path / "rows.jsonl", ROWS[:5])
    printed = cgpo("judge", file, "--judges", "word_count", "--url", "http://127.0.0.1:9", *COLUMNS, status=1)
    assert "http://127.0.0.1:9" in printed
    assert "start the service or correct the URL" in printed


def test_validate_finds_every_row_that_cannot_be_judged(url, tmp_path):
    rows = [
        {"prompt": "1?", "ground_truth": "1", "judges": ["math_answer"]},
        {"prompt": "2?", "ground_truth": "\\frac{", "judges": ["math_answer"]},
        {"prompt": "3?", "judges": ["math_answer"]},
        {"prompt": "4?", "instruction_id_list": ["no:such_id"], "kwargs": [{}], "judges": ["verifiable_instructions"]},
        {"prompt": "5?", "judges": [{"name": "word_count", "parameters": {"maximum": 3}}]},
        {"prompt": "6?", "tests": ["assert ("], "judges": ["python_tests"]},
        {"prompt": None, "judges": ["word_count"]},
        {"prompt": "8?", "judges": [{"name": "word_count", "parameters": {"max": 3}}]},
    ]
    printed = cgpo("validate", write(tmp_path / "rows.jsonl", rows), "--url", url, status=1)
    table = printed[printed.index("faults, rows counted from 0") :]
    found = {line.split("│")[2].strip() for line in table.splitlines() if line.startswith("│ rows.jsonl")}
    assert found == {"1", "2", "3", "4", "5", "6"}
    assert "no such_id" in table or "no:such_id" in table
    assert "maximum" in table


def test_validate_takes_the_yaml_of_a_run(url):
    printed = cgpo("validate", "examples/quickstart.yaml", "--url", url, status=1)
    assert "could not be checked: no LLM upstream is configured for the judge 'no_refusal'" in " ".join(printed.split())
    assert "quickstart_train.jsonl: 68 rows" in printed
    assert "quickstart_eval.jsonl: 24 rows" in printed
    printed = cgpo("validate", "examples/multi_task.yaml", "--url", url)
    for name in ("instruction_following", "short_answers", "general_chat"):
        assert f"{name}_train.jsonl: 36 rows" in printed
        assert f"{name}_eval.jsonl: 24 rows" in printed


def test_rescore_shows_which_verdicts_are_others_now(url, tmp_path):
    from trainer.completions import write_completions

    verdict = {"label": "word_count", "judge": "word_count", "outcome": "satisfied", "score": 1.0, "reason": "3 words",
               "version": "0+old", "error": None}  # fmt: skip
    prompt = json.dumps([{"role": "user", "content": "p"}])
    rows = [
        {"step": 1, "row": n, "prompt": prompt, "completion": "a b c " * (n + 1),
         "outcome": "satisfied", "ground_truth": "null", "metadata": "{}", "judges": None, "score": 0.5, "reward": 0.1,
         "logratio": 0.0, "num_tokens": 3, "has_eos": True, "verdicts": [verdict]}
        for n in range(4)
    ]  # fmt: skip
    config = {"judges": [{"name": "word_count", "parameters": {"max": 7}}]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_completions(tmp_path / "completions" / "train-000001-0.parquet", rows)
    out = tmp_path / "again.parquet"
    printed = cgpo("rescore", tmp_path, "--url", url, "--output", out)
    # 3 and 6 words stay within 7, 9 and 12 do not.
    assert cells(printed, "word_count")[:4] == ["word_count", "4", "2", "2"]
    assert "satisfied -> violated 2" in printed
    assert "2 verdicts changed in 4 completions" in printed
    import pyarrow.parquet as pq

    again = pq.read_table(out).to_pylist()
    assert [row["outcome"] for row in again] == ["satisfied", "satisfied", "violated", "violated"]
    assert [row["verdicts_before"] for row in again] == [[verdict]] * 4
    assert "0 verdicts changed" in cgpo("rescore", tmp_path, "--url", url, "--judges", "word_count:max=20")


def test_without_a_url_a_service_is_started_and_stopped(tmp_path):
    file = write(tmp_path / "rows.jsonl", ROWS[:20])
    printed = cgpo("judge", file, "--judges", "math_answer", *COLUMNS)
    assert cells(printed, "math_answer")[:4] == ["math_answer", "16", "4", "0"]


def test_in_a_notebook_the_client_answers_plainly_and_awaited(url):
    items = [JudgeItem(id=str(n), prompt="p", completion="one two") for n in range(3)]

    async def cell():
        # A notebook's cell runs inside a running event loop, where asyncio.run would raise.
        with JudgeClient(url) as client:
            plain = client.judge(items, ["word_count"])
            awaited = await client.judge_async(items, ["word_count"])
        return plain, awaited

    plain, awaited = asyncio.run(cell())
    assert plain == awaited
    assert [result.verdicts[0].outcome for result in plain] == ["satisfied"] * 3
    with JudgeClient(url) as client:
        assert client.judge(items, ["word_count"]) == plain


def test_the_commands_load_neither_torch_nor_transformers():
    code = "import sys, trainer.cli, trainer.evaluation.commands; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
