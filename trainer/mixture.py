"""The mixture of judges: many verdicts on a completion, and the one outcome they make together.

Judges are `RemoteJudge`s, asked over HTTP, all of one service in one request; or objects of the user's own with
`judge(prompts, completions, **columns)`. Which of them apply to a row is decided by its columns: its own `judges` where
it has any, else every judge whose needs the row meets.
"""

import inspect
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from trainer.constraints import combine
from trainer.dataset import Row
from trainer.errors import ConfigError, DatasetError, JudgeError
from trainer.rollout import clean_text
from trainer.versions import judge_key
from wire import (
    JudgeClient,
    JudgeItem,
    JudgeResult,
    JudgeSpec,
    RewardClient,
    ServiceError,
    Verdict,
    VerdictError,
    loop,
)  # fmt: skip
from wire.base import Message

__all__ = [
    "InProcessJudge",
    "Judgement",
    "MixtureOfConstraintJudges",
    "RemoteJudge",
    "Sample",
    "as_mixture",
    "reasons_not_ready",
]


@dataclass(frozen=True)
class Sample:
    """One completion of one row."""

    row: Row
    completion: str


@dataclass(frozen=True)
class Judgement:
    """The verdicts of the judges that applied, each under its label, in the mixture's order."""

    verdicts: tuple[tuple[str, Verdict], ...]

    @property
    def outcome(self) -> str:
        """`satisfied`, `violated` or `unknown`: the Kleene AND of the verdicts."""
        return combine(verdict.outcome for _, verdict in self.verdicts)


class InProcessJudge(Protocol):
    """A judge of the user's own, a coroutine function or a plain one."""

    def judge(self, prompts: list[Any], completions: list[str], **columns: list[Any]) -> Sequence[Any]:
        """Return one verdict per completion: a boolean, an outcome word, or 1 / 0 / -1, where -1 is unknown."""


class RemoteJudge:
    """A judge of a judge service.

    Args:
        name: one of the service's `GET /v1/judges`.
        url: where the service is, or a list of replicas.
        token: bearer token, where the service wants one.
        parameters: values for the judge's parameters.
    """

    def __init__(self, name: str, url: str | Sequence[str], *, token: str | None = None, **parameters: Any) -> None:
        self.name = name
        self.urls = (url,) if isinstance(url, str) else tuple(url)
        self.token = token
        self.parameters = parameters
        self.needs: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"RemoteJudge({self.name!r}, {', '.join(self.urls)})"


class MixtureOfConstraintJudges:
    """Asks every judge that applies to a sample, and makes one outcome of the verdicts.

    Args:
        judges: `RemoteJudge`s, and objects (or classes without constructor arguments) with `judge`.
    """

    def __init__(self, judges: Iterable[RemoteJudge | InProcessJudge | type]) -> None:
        self.judges: dict[str, RemoteJudge | InProcessJudge] = {}
        for given in judges:
            judge = given() if isinstance(given, type) else given
            if not isinstance(judge, RemoteJudge) and not callable(getattr(judge, "judge", None)):
                raise ConfigError(f"{judge!r} is not a judge: it has no method judge(prompts, completions, **columns)")
            self.judges[self._label(judge)] = judge
        self._clients: dict[tuple[tuple[str, ...], str | None], JudgeClient] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="in-process-judges")

    @property
    def labels(self) -> list[str]:
        """The judges' names, a number behind those that come twice."""
        return list(self.judges)

    def check(self, rows: Iterable[Row] = ()) -> dict[str, str]:
        """Ask every service whether it is ready, and whether it accepts each judge as these rows will ask for it.

        Returns:
            The version of each judge of a service, by its `trainer.versions.judge_key`.

        Raises:
            ConfigError: a service is down or not ready, or refuses a judge or a parameter.
            DatasetError: a row names a judge that is not in the mixture.
        """
        for client, labels in self._remote().items():
            self._describe(client, labels)
        wanted: dict[str, set[str]] = {label: set() for label in self.judges}
        for row in rows:
            for label, own in self.judges_of(row):
                if label not in self.judges:
                    raise DatasetError(
                        f"{row.dataset} row {row.index} wants the judge {label!r}, which is not in the mixture; "
                        f"there are: {', '.join(self.labels) or 'none'}"
                    )
                if own and not isinstance(self.judges[label], RemoteJudge):
                    raise DatasetError(
                        f"{row.dataset} row {row.index} has parameters for the judge {label!r} ({', '.join(own)}), "
                        "which runs in this process and takes none from a row; let it read a column instead"
                    )
                wanted[label].add(json.dumps(own, sort_keys=True, default=str))
        versions: dict[str, str] = {}
        for client, labels in self._remote().items():
            probed = [
                (label, own)
                for label in labels
                for own in sorted(wanted[label] or ({"{}"} if self.judges[label].parameters else ()))
            ]
            probes = [
                JudgeItem(id=f"{label} {own}", prompt="-", completion="-", judges=[self._spec(label, json.loads(own))])
                for label, own in probed
            ]
            try:
                results = client.judge(probes) if probes else []
            except ServiceError as error:
                raise ConfigError(f"the judge service does not accept what it is asked: {error}") from error
            for (label, own), result in zip(probed, results, strict=True):
                versions[judge_key(label, json.loads(own))] = result.verdicts[0].version
        return versions

    def not_ready(self, rows: Iterable[Row]) -> list[str]:
        """Return why the services that judge these rows cannot now, by their /readyz; empty where they can."""
        labels = {label for row in rows for label, _ in self.judges_of(row)}
        return [
            reason
            for client, own in self._remote().items()
            if not labels.isdisjoint(own)
            for reason in reasons_not_ready(client)
        ]

    def judges_of(self, row: Row) -> list[tuple[str, Mapping[str, Any]]]:
        """Return label and parameters of each judge that applies to a row."""
        if row.judges is not None:
            return [(spec["name"], spec["parameters"]) for spec in row.judges]
        present = {f"metadata.{name}" for name in row.metadata}
        if row.ground_truth is not None:
            present.add("ground_truth")
        return [(label, {}) for label, j in self.judges.items() if set(getattr(j, "needs", ())) <= present]

    def submit(self, samples: Sequence[Sample], deadline_s: float) -> Callable[[], list[Judgement]]:
        """Send samples to all judges that apply to them, and return a function that waits for the judgements.

        Args:
            samples: completions with their rows.
            deadline_s: longest wait for the judges, seconds; what is missing then is unknown.
        """
        asked = [self.judges_of(sample.row) for sample in samples]
        waiting = []
        for client in self._remote():
            waiting.append(self._submit_remote(client, samples, asked, deadline_s))
        for label, judge in self.judges.items():
            if not isinstance(judge, RemoteJudge):
                waiting.append(self._submit_local(label, judge, samples, asked, deadline_s))

        def wait() -> list[Judgement]:
            answers: dict[tuple[int, int], Verdict] = {}
            for answer in waiting:
                answers.update(answer())
            return [
                Judgement(tuple((label, answers[i, j]) for j, (label, _) in enumerate(judges)))
                for i, judges in enumerate(asked)
            ]

        return wait

    def close(self) -> None:
        """Close the connections; they open again by themselves when needed."""
        while self._clients:
            self._clients.popitem()[1].close()

    def _label(self, judge: RemoteJudge | InProcessJudge) -> str:
        name = judge.name if isinstance(judge, RemoteJudge) else type(judge).__name__
        number = 2
        label = name
        while label in self.judges:
            label, number = f"{name}_{number}", number + 1
        return label

    def _remote(self) -> dict[JudgeClient, list[str]]:
        """Return the labels of the remote judges, by the client that reaches them."""
        grouped: dict[JudgeClient, list[str]] = {}
        for label, judge in self.judges.items():
            if isinstance(judge, RemoteJudge):
                key = (judge.urls, judge.token)
                if key not in self._clients:
                    try:
                        self._clients[key] = JudgeClient(list(judge.urls), token=judge.token)
                    except ValueError as error:
                        raise ConfigError(f"the judge {label!r} cannot be asked: {error}") from error
                grouped.setdefault(self._clients[key], []).append(label)
        return grouped

    def _spec(self, label: str, own: Mapping[str, Any]) -> JudgeSpec:
        """Return a remote judge as the wire names it, a row's own parameters over the mixture's."""
        judge = self.judges[label]
        return JudgeSpec(name=judge.name, parameters={**judge.parameters, **own})

    def _describe(self, client: JudgeClient, labels: list[str]) -> None:
        """Learn from a service what its judges need."""
        where = ", ".join(client.urls)
        try:
            health = client.ready()
            if health.status != "ok":
                raise ConfigError(f"the judge service at {where} is not ready: {'; '.join(health.reasons)}")
            described = {judge.name: judge for judge in client.describe()}
        except ServiceError as error:
            raise ConfigError(f"the judge service cannot be used: {error}") from error
        for label in labels:
            judge = self.judges[label]
            if judge.name not in described:
                raise ConfigError(
                    f"no judge named {judge.name!r} at {where}; the judges there are: {', '.join(described)}"
                )
            if problems := described[judge.name].problems:
                raise ConfigError(f"the judge {judge.name!r} at {where} cannot answer: {'; '.join(problems)}")
            judge.needs = tuple(described[judge.name].needs)

    def _submit_remote(
        self, client: JudgeClient, samples: Sequence[Sample], asked: list[list[tuple[str, Mapping[str, Any]]]],
        deadline_s: float,
    ) -> Callable[[], dict[tuple[int, int], Verdict]]:  # fmt: skip
        mine = set(self._remote()[client])
        items, places = [], []
        for i, (sample, judges) in enumerate(zip(samples, asked, strict=True)):
            here = [(j, label, own) for j, (label, own) in enumerate(judges) if label in mine]
            if not here:
                continue
            items.append(_item(str(i), sample, [self._spec(label, own) for _, label, own in here]))
            places.append([(i, j) for j, _, _ in here])
        future: Future[list[JudgeResult]] | None = client.submit(items, deadline_s=deadline_s) if items else None

        def wait() -> dict[tuple[int, int], Verdict]:
            results = future.result() if future is not None else []
            return {
                place: verdict
                for keys, result in zip(places, results, strict=True)
                for place, verdict in zip(keys, result.verdicts, strict=True)
            }

        return wait

    def _submit_local(
        self, label: str, judge: InProcessJudge, samples: Sequence[Sample], asked: list[list[tuple[str, Any]]],
        deadline_s: float,
    ) -> Callable[[], dict[tuple[int, int], Verdict]]:  # fmt: skip
        places = [(i, j) for i, judges in enumerate(asked) for j, (name, _) in enumerate(judges) if name == label]
        chosen = [samples[i] for i, _ in places]
        if not chosen:
            return dict
        prompts = [[dict(message) for message in sample.row.messages] for sample in chosen]
        call = (prompts, [sample.completion for sample in chosen])
        columns = _columns(judge, chosen)
        deadline = time.monotonic() + deadline_s
        future = (
            loop.submit(judge.judge(*call, **columns))  # type: ignore[arg-type]
            if inspect.iscoroutinefunction(judge.judge)
            else self._thread.submit(judge.judge, *call, **columns)
        )

        def wait() -> dict[tuple[int, int], Verdict]:
            try:
                answers = list(future.result(max(0.0, deadline - time.monotonic())))
            except TimeoutError:
                future.cancel()
                late = VerdictError(type="timeout", detail=f"{label} took over {deadline_s:g} s", retryable=True)
                return {place: Verdict(judge=label, outcome="unknown", error=late) for place in places}
            if len(answers) != len(chosen):
                raise JudgeError(f"the judge {label} gave {len(answers)} verdicts for {len(chosen)} completions")
            return {place: _verdict(label, answer) for place, answer in zip(places, answers, strict=True)}

        return wait


def reasons_not_ready(client: JudgeClient | RewardClient) -> list[str]:
    """Return why a service cannot answer now; empty where it can."""
    try:
        health = client.ready()
    except ServiceError as error:
        return [str(error)]
    if health.status == "ok":
        return []
    return [f"{', '.join(client.urls)}: {reason}" for reason in health.reasons or ["not ready"]]


def _item(item_id: str, sample: Sample, judges: list[JudgeSpec]) -> JudgeItem:
    """Return a sample as the wire carries it; values that JSON does not know become strings."""
    columns = [sample.row.ground_truth, dict(sample.row.metadata)]
    extra = json.loads(clean_text(json.dumps(columns, ensure_ascii=False, default=str)))
    return JudgeItem(
        id=item_id,
        prompt=[Message(role=message["role"], content=message["content"]) for message in sample.row.messages],
        completion=sample.completion,
        ground_truth=extra[0],
        metadata=extra[1],
        judges=list(judges),
    )


def _columns(judge: InProcessJudge, samples: list[Sample]) -> dict[str, list[Any]]:
    """Return the rows' columns that the judge's signature takes: all where it has `**columns`.

    The first two parameters are the prompts and the completions, so a column of their name cannot be passed.
    """
    parameters = inspect.signature(judge.judge).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    names = {"ground_truth"} | {name for sample in samples for name in sample.row.metadata}
    wanted = sorted(name for name in names - set(list(parameters)[:2]) if takes_all or name in parameters)
    return {
        name: [s.row.ground_truth if name == "ground_truth" else s.row.metadata.get(name) for s in samples]
        for name in wanted
    }


def _verdict(label: str, answer: Any) -> Verdict:
    """Return what a judge of the user's own answered as a verdict."""
    if isinstance(answer, Verdict):
        return answer
    words = {1: "satisfied", 0: "violated", -1: "unknown"}
    plain = answer.item() if hasattr(answer, "item") else answer
    outcome = words.get(plain) if isinstance(plain, (bool, int, float)) else plain
    if outcome not in ("satisfied", "violated", "unknown"):
        raise JudgeError(
            f"the judge {label} answered {answer!r}; a verdict is a boolean, 'satisfied', 'violated', 'unknown', or "
            "1, 0, -1 (unknown)"
        )
    abstained = VerdictError(type="abstained", detail=f"{label} answered unknown", retryable=False)
    return Verdict(judge=label, outcome=outcome, error=abstained if outcome == "unknown" else None)


def as_mixture(judges: MixtureOfConstraintJudges | Iterable[Any]) -> MixtureOfConstraintJudges:
    """Return judges as a mixture, which they may be already."""
    return judges if isinstance(judges, MixtureOfConstraintJudges) else MixtureOfConstraintJudges(judges)
