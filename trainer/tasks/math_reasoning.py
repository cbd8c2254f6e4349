"""Mathematics with a final answer that can be checked.

A row: `{"messages": [{"role": "user", "content": "What is 6 * 7?"}], "ground_truth": "42"}`. Satisfied when the last
answer equals the ground truth, and the text does not go round in circles: a reward model likes an endless repetition.
"""

JUDGES = ("math_answer", "no_repetition")
# A precise judge leaves room for exploration: many completions, a lenient threshold.
SETTINGS = {"rlhf_optimizer": "crpg", "k": 8, "kl_threshold": 20.0}
