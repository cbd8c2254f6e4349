"""What schemathesis, in its own interpreter, cannot read in the documents: judges and models that there are."""

import random

import schemathesis

SPECS = [
    "word_count",
    "math_answer",
    "no_repetition",
    "json_object",
    "python_tests",
    {"name": "word_count", "parameters": {"max": 3}},
    {"name": "lacks", "parameters": {"keywords": ["a", "0"]}},
    {"name": "regex", "parameters": {"pattern": "a+"}},
]


def is_spec(value):
    """Whether this is a judge as the document has it; anything else is left to be refused."""
    if isinstance(value, dict):
        return set(value) <= {"name", "parameters"} and is_name(value.get("name")) and is_object(value)
    return is_name(value)


def is_name(value):
    return isinstance(value, str) and value != ""


def is_object(spec):
    return isinstance(spec.get("parameters", {}), dict)


def fit_rewards(body):
    """Give each query a prompt that it begins with, and a label, where the document allows what stands there."""
    query, prompts, labels = (body.get(name) for name in ("query", "prompts", "labels"))
    are_texts = all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in (query, prompts)
    )
    if are_texts and query:
        body["prompts"] = [text[: len(text) // 2] for text in query]
        if isinstance(labels, list) and labels:
            body["labels"] = [labels[place % len(labels)] for place in range(len(query))]


@schemathesis.hook
def before_call(context, case, kwargs):
    """Name judges that there are, and no id twice, where the document allows what stands there."""
    body = case.body
    if case.operation.path == "/get_reward" and isinstance(body, dict):
        fit_rewards(body)
    if not isinstance(body, dict) or not isinstance(body.get("items"), list):
        return
    chosen = random.Random(repr(body))  # the same for the same body, so that a failure can be had again
    items = [item for item in body["items"] if isinstance(item, dict)]
    for number, item in enumerate(items):
        if is_name(item.get("id")) and [other.get("id") for other in items].count(item["id"]) > 1:
            item["id"] += str(number)
    if case.operation.path != "/v1/judge":
        if isinstance(body.get("model"), str):
            del body["model"]
        return
    if body.get("judges", []) == []:
        body["judges"] = ["word_count"]
    for holder in [body, *items]:
        judges = holder.get("judges")
        if isinstance(judges, list):
            holder["judges"] = [chosen.choice(SPECS) if is_spec(judge) else judge for judge in judges]
