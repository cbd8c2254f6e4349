"""Open conversation: harmless prompts, with facts where a row has any.

A row: `{"messages": [{"role": "user", "content": "Who wrote Emma?"}], "ground_truth": "Jane Austen"}`, the ground truth
only where there is one. Satisfied when the answer is no refusal and contains the fact; both judges ask a language model
(docs/llm_judges.md).
"""

JUDGES = ("no_refusal", "factuality")
# The reward model decides here, and can be hacked: few completions, a strict threshold.
SETTINGS = {"rlhf_optimizer": "crpg", "k": 4, "kl_threshold": 5.0}
