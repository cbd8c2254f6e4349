"""Instructions whose fulfilment a program can verify (the families of IFEval and IFBench).

A row: `{"messages": [{"role": "user", "content": "Greet me without commas."}], "instruction_id_list":
["punctuation:no_comma"], "kwargs": [{}]}`. Satisfied when every instruction is followed and the answer is no refusal;
the second judge asks a language model (docs/llm_judges.md).
"""

JUDGES = ("verifiable_instructions", "no_refusal")
# A precise judge leaves room for exploration: many completions, a lenient threshold.
SETTINGS = {"rlhf_optimizer": "crpg", "k": 8, "kl_threshold": 20.0}
