"""The judges there are, by name. A request names a judge; only the settings can name code."""

import difflib
import importlib
import pkgutil
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import orjson
from pydantic import ValidationError

import judge_service.judges
from judge_service.judge import Judge
from service.problem import ProblemError
from wire.judge import JudgeDescription, JudgeSpec

PLAIN_NAME = re.compile(r"[\w.\-]{1,64}", re.ASCII)
"""What a refusal repeats: names of judges and parameters are settings of the asker, not a user's text."""
MOST_CACHED = 1024
"""Judges with parameters that are kept made; the one unused for longest goes first."""


class Registry:
    """Every judge of the folder `judges/`, and those that the settings add.

    Args:
        extra: judges from elsewhere, each `package.module:Name`. They answer to that and to their module's name.
        defaults: parameters by judge, for requests that do not give them.
        bind: called with each judge that is made, before anything is asked of it.

    Raises:
        ValueError: an extra judge cannot be imported, is no judge, or takes a name that is taken; a default is for no
            judge, or wrong.
    """

    def __init__(
        self,
        extra: Sequence[str] = (),
        defaults: Mapping[str, Mapping[str, Any]] | None = None,
        bind: Callable[[Judge], None] = lambda judge: None,
    ) -> None:
        self.classes = scan(judge_service.judges)
        self._aliases: dict[str, type[Judge]] = {}
        for path in extra:
            judge = load(path)
            if judge.name() in self.classes:
                raise ValueError(f"extra judge '{path}' is named '{judge.name()}', and there is one; rename its module")
            self.classes[judge.name()] = judge
            self._aliases[path] = judge
        self._made: OrderedDict[tuple[str, bytes], Judge] = OrderedDict()
        self._bind = bind
        self._defaults = {name: dict(parameters) for name, parameters in (defaults or {}).items()}
        for name in self._defaults:
            self._check_defaults(name)

    def _check_defaults(self, name: str) -> None:
        if name not in self.classes:
            raise ValueError(f"judge_parameters: {self._unknown(name)}")
        try:
            self.classes[name].model_validate_json(orjson.dumps(self._defaults[name]))
        except ValidationError as error:
            # What a request has to give in any case may be missing here.
            if any(entry["type"] != "missing" for entry in error.errors(include_input=False)):
                raise ValueError(f"judge_parameters.{name}: {_explain(error, self.classes[name])}") from None

    def describe(self, judge: type[Judge]) -> JudgeDescription:
        """Return a judge's entry in `GET /v1/judges`, its version with the parameters that the settings give."""
        entry = judge.describe()
        try:
            return entry.model_copy(update={"version": self.make(judge.name()).version_once})
        except ProblemError:  # a parameter that every request has to give
            return entry

    def warm_up(self) -> None:
        """Warm up the judges that run in this process; those of the workers are warmed up there."""
        for judge in self.classes.values():
            if judge.runs_in != "process":
                judge.warm_up()

    def make(self, spec: str | JudgeSpec) -> Judge:
        """Return the judge that a request asks for, made once for the same name and parameters.

        Raises:
            ProblemError: 422, naming the judges there are, or the parameter and what the judge takes.
        """
        name, parameters = (spec, {}) if isinstance(spec, str) else (spec.name, spec.parameters)
        key = (name, orjson.dumps(parameters, option=orjson.OPT_SORT_KEYS))
        judge = self._made.get(key)
        if judge is None:
            judge = self._made[key] = self._make(name, key[1])
            if len(self._made) > MOST_CACHED:
                self._made.popitem(last=False)
        else:
            self._made.move_to_end(key)
        return judge

    def _make(self, name: str, parameters: bytes) -> Judge:
        judge = self.classes.get(name) or self._aliases.get(name)
        if judge is None:
            raise ProblemError(422, "unknown judge", self._unknown(name))
        defaults = self._defaults.get(judge.name())
        if defaults:
            parameters = orjson.dumps({**defaults, **orjson.loads(parameters)})
        try:
            # As JSON: strict still takes a list for a tuple there, and a string for an enum.
            made = judge.model_validate_json(parameters)
        except ValidationError as error:
            raise ProblemError(422, "invalid parameters", f"judge '{name}': {_explain(error, judge)}") from None
        self._bind(made)
        return made

    def _unknown(self, name: str) -> str:
        shown = name if PLAIN_NAME.fullmatch(name) else "?"
        near = difflib.get_close_matches(name[:64], self.classes, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"no judge named '{shown}'; {hint}the judges here are: {', '.join(sorted(self.classes))}"


def scan(package: ModuleType) -> dict[str, type[Judge]]:
    """Return the judge of each module of a package, by name.

    Raises:
        ValueError: a module defines no judge, or two.
    """
    found = {}
    for module in sorted(entry.name for entry in pkgutil.iter_modules(package.__path__)):
        judges = judges_of(importlib.import_module(f"{package.__name__}.{module}"))
        if len(judges) != 1:
            raise ValueError(f"{package.__name__}.{module} defines {len(judges)} judges; a file is one judge")
        found[module] = judges[0]
    return found


def judges_of(module: ModuleType) -> list[type[Judge]]:
    """Return the judge classes that a module defines itself."""
    classes = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Judge))
    return [judge for judge in classes if judge.__module__ == module.__name__ and not judge.__name__.startswith("_")]


def load(path: str) -> type[Judge]:
    """Return the judge class at `package.module:Name`.

    Raises:
        ValueError: nothing importable is there, or it is no judge.
    """
    module, separator, name = path.partition(":")
    if not separator or not module or not name:
        raise ValueError(f"extra judge '{path}' is not of the form package.module:Name")
    try:
        judge: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"extra judge '{path}' cannot be imported: {error}") from error
    if not (isinstance(judge, type) and issubclass(judge, Judge)):
        raise ValueError(f"extra judge '{path}' is not a subclass of judge_service.judge.Judge")
    return judge


def _explain(error: ValidationError, judge: type[Judge]) -> str:
    """Return which parameters are wrong and how, and what the judge takes, without the values given."""
    entries = error.errors(include_input=False, include_url=False, include_context=False)[:8]
    lines = []
    for entry in entries:
        parts = [str(part) for part in entry["loc"] if isinstance(part, int) or PLAIN_NAME.fullmatch(str(part))]
        # A judge's own validator says in words what is wrong; pydantic's kinds are enough by themselves.
        kind = entry["msg"] if entry["type"] == "value_error" else entry["type"]
        lines.append(f"{'.'.join(parts) or 'parameters'}: {kind}")
    return f"{'; '.join(lines)}; its parameters are: {_parameters(judge)}"


def _parameters(judge: type[Judge]) -> str:
    schema = judge.model_json_schema()
    required = schema.get("required", [])
    options = [
        f"{name} ({_type(field)}{', required' if name in required else ''})"
        for name, field in schema.get("properties", {}).items()
    ]
    return ", ".join(options) or "none"


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    return str(field.get("type", field.get("const", "any")))
