"""Messages of the judge service: `POST /v1/judge` and `GET /v1/judges`."""

from typing import Annotated, Literal

from pydantic import Field

from wire.base import JSON, Limits, Prompt, RequestModel, ResponseModel, Usage

Outcome = Literal["satisfied", "violated", "unknown"]
ErrorType = Literal[
    "timeout", "sandbox", "upstream", "internal", "invalid_item", "unsupported", "abstained", "inconsistent"
]
JudgeName = Annotated[str, Field(min_length=1)]


class JudgeSpec(RequestModel):
    """A judge by name, with its parameters where they differ from its defaults."""

    name: str = Field(min_length=1, description="a judge of `GET /v1/judges`, or `package.module:Name`")
    parameters: dict[str, JSON] = Field(default_factory=dict, description="values for the judge's parameters")


class JudgeItem(RequestModel):
    """One completion to judge."""

    id: str = Field(min_length=1, description="echoed in the result; unique in the request")
    prompt: Prompt = Field(description="what was asked: messages, or a plain string")
    completion: str = Field(description="what was generated")
    ground_truth: JSON = Field(default=None, description="the gold answer of the row, where it has one")
    metadata: dict[str, JSON] = Field(default_factory=dict, description="the row's other columns")
    judges: list[JudgeName | JudgeSpec] | None = Field(
        default=None, description="judges of this item; replaces the request's list"
    )


class JudgeRequest(RequestModel):
    """Body of `POST /v1/judge`: many items, many judges."""

    items: list[JudgeItem] = Field(min_length=1, description="completions to judge; ids are unique")
    judges: list[JudgeName | JudgeSpec] = Field(
        default_factory=list, description="judges of every item that has no list of its own"
    )


class VerdictError(ResponseModel):
    """Why a verdict is unknown."""

    type: ErrorType
    detail: str = Field(description="names the thing that failed and the way out; never the input")
    retryable: bool = Field(description="true where asking again may give an answer")


class Verdict(ResponseModel):
    """One judge's answer about one completion."""

    judge: str = Field(description="name of the judge as it was asked for")
    outcome: Outcome
    score: float | None = Field(default=None, ge=0, le=1, description="in [0, 1] where the judge has a number")
    reason: str = Field(default="", description="one line a person can read")
    version: str = Field(default="", description="judge version + hash of parameters, prompt and model")
    error: VerdictError | None = Field(default=None, description="present only with outcome unknown")


class JudgeResult(ResponseModel):
    """All verdicts about one item, in the order in which its judges were listed."""

    id: str
    verdicts: list[Verdict]


class JudgeResponse(ResponseModel):
    """Answer of `POST /v1/judge`: results in the order of the items."""

    results: list[JudgeResult]
    usage: Usage


class JudgeDescription(ResponseModel):
    """What `GET /v1/judges` says of one judge."""

    name: str
    kind: Literal["rule", "llm"]
    satisfied_when: str = Field(description="one line: what satisfies this judge")
    needs: list[str] = Field(
        default_factory=list, description="item fields it cannot do without: ground_truth, metadata.tests, ..."
    )
    parameters_schema: dict[str, JSON] = Field(description="JSON schema of its parameters")
    version: str = Field(description="version with default parameters")
    ready: bool = True
    problems: list[str] = Field(default_factory=list, description="why it is not ready, and the way out")
    note: str = Field(default="", description="which model answers, where one does, and what to know about it")


class JudgesResponse(ResponseModel):
    """Answer of `GET /v1/judges`."""

    judges: list[JudgeDescription]


class JudgeServiceInfo(ResponseModel):
    """Answer of the judge service's `GET /v1/info`."""

    name: str
    version: str
    config_sha256: str = Field(description="hash of the settings in force, secrets left out")
    limits: Limits
    sandbox: str = Field(default="none", description="level of code isolation: bwrap, landlock or none")
