"""A process with a vLLM engine of two workers; kills one of them in the middle of a step's work.

Says, one JSON a line: the workers' process ids; what the engine raised, and when asked for weights after that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from toy import byte_tokenizer
from transformers import AutoModelForCausalLM

from arpo_algo.engines.base import Request
from arpo_algo.engines.vllm import VLLMEngine, VLLMOptions
from arpo_algo.errors import TrainingError


def main(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    options = VLLMOptions(dtype="float32", extra={"tensor_parallel_size": 2})
    engine = VLLMEngine(folder, model, byte_tokenizer(), slots=4, max_length=256, options=options)
    pids = [worker.pid for worker in engine._workers]
    print(json.dumps(pids), flush=True)
    for i in range(3):
        engine.submit(Request(i, tuple(range(65, 90)), 200, (), (0, i)))
    engine.step()
    os.kill(pids[1], signal.SIGKILL)
    said = []
    try:
        while engine.busy:
            engine.step()
    except TrainingError as error:
        said.append(str(error))
    assert not engine.busy
    try:
        engine.load_weights(dict(model.named_parameters()))
    except TrainingError as error:
        said.append(str(error))
    print(json.dumps(said), flush=True)
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
