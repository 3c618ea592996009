"""Writing with kept keys and values: our `generate` beside that of transformers, the same weights, greedy.

The model of 08_gpt at profile cpu continues prompts of the held-out text to the end of its context, one prompt at a
time and eight at a time. `quality` holds a hash of all tokens: it is the same for both, or they did not do the same
work. The value is the time for both batch sizes together."""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from clm import artifact

UNIT = "seconds to continue 8 prompts one by one and 32 prompts in batches of 8"
GOALS = {"transformers": 1.5}
EQUAL = {"tokens": ""}  # the same text, or the times say nothing
MEMORY = 1.0  # of the peer's peak, at most
PROMPT = 16


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """Model and prompts for both."""
    model = str(artifact("model/gpt", "08_gpt"))
    data = str(artifact("tokens/clm", "07_objectives"))
    return {who: [[sys.executable, __file__, who, model, data]] for who in ("ours", "transformers")}


def main(who: str, folder: Path, data: Path) -> dict[str, Any]:
    """Seconds, and what was written."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from llmchain.pretrain.gpt import GPT, generate
    from llmchain.pretrain.objectives import load_clm

    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    n_new = theirs.config.n_positions - PROMPT
    stream = np.asarray(load_clm(data, "test")[0])
    starts = np.arange(40) * (len(stream) // 41)
    prompts = torch.from_numpy(stream[starts[:, None] + np.arange(PROMPT)].astype(np.int64))
    batches = [*prompts[:8].split(1), *prompts[8:].split(8)]
    model = GPT.from_hf(theirs)
    settings = {"max_new_tokens": n_new, "do_sample": False, "pad_token_id": 0}
    theirs.generation_config.eos_token_id = None  # both write to the end of the context

    def written(ids: torch.Tensor) -> torch.Tensor:
        if who == "ours":
            return generate(model, ids, n_new, temperature=0)
        return theirs.generate(ids, attention_mask=torch.ones_like(ids), **settings)

    written(batches[0])  # what is done once is not counted
    begun = time.perf_counter()
    found = [written(ids) for ids in batches]
    seconds = time.perf_counter() - begun
    n_tokens = sum(f[:, PROMPT:].numel() for f in found)
    mark = hashlib.sha256(json.dumps([f.tolist() for f in found]).encode()).hexdigest()[:16]
    quality = {"tokens": mark, "tokens_per_second": round(n_tokens / seconds)}
    return {"value": seconds, "quality": quality}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
