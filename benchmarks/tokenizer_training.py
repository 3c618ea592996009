"""Training byte-level BPE with 8192 tokens on the whole embedded corpus."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tokenizer import VOCAB_SIZE, corpus

UNIT = "seconds to train BPE with 8192 tokens on the embedded corpus"
GOALS: dict[str, float] = {}
LIMIT = 10.0


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """The corpus in one file; the process that trains reads it before the clock starts."""
    (folder / "texts.json").write_text(json.dumps(corpus()), encoding="utf-8")
    return {"ours": [[sys.executable, __file__, str(folder)]]}


def train(folder: Path) -> dict:
    """Seconds of `build_bpe`, and what it was given."""
    from llmchain.data.tokenizer import build_bpe

    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    begun = time.perf_counter()
    tokenizer = build_bpe(texts, VOCAB_SIZE)
    seconds = time.perf_counter() - begun
    size = sum(len(text.encode()) for text in texts)
    told = {"documents": len(texts), "bytes": size, "tokens": tokenizer.get_vocab_size()}
    return {"value": seconds, "quality": told}


if __name__ == "__main__":
    print(json.dumps(train(Path(sys.argv[1]))))
