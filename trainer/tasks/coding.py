"""Programs that have to pass unit tests, which run in the judge service's sandbox.

A row: `{"messages": [{"role": "user", "content": "Write a function f that doubles."}], "entry_point": "f", "tests":
["assert f(2) == 4"]}`. Satisfied when the program in the completion passes every test.
"""

JUDGES = ("python_tests",)
# A precise judge leaves room for exploration: many completions, a lenient threshold.
SETTINGS = {"rlhf_optimizer": "crpg", "k": 8, "kl_threshold": 20.0}
