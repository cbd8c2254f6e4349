"""An OpenAI-compatible LLM server with nothing to download: llama.cpp's own, with the embedded SmolLM2-135M.

    pip install xllamacpp            # a ready-made wheel of llama.cpp; scripts/install brings it
    python examples/llama_server.py [--port 8003] [--model FILE.gguf] [--name NAME] [--threads N]

It answers /v1/chat/completions with log-probabilities and held to a JSON schema, so the backends `chat_logprobs` and
`chat_schema` of LLM judges can be tried against it. It prints where it listens and serves until its input ends. The
embedded model shows the path, not the judgement: name a larger one for verdicts that mean something.
"""

import argparse
import sys
from pathlib import Path

import xllamacpp

from trainer.embedded import wheel_weights


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8003, help="TCP port on loopback; 0 takes a free one")
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the embedded one")
    parser.add_argument("--name", default="smollm2", help="the model id that answers carry")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(given.model or wheel_weights())
    parameters.model_alias = {given.name}
    parameters.port = given.port
    parameters.n_ctx = 4096
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = given.threads
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
