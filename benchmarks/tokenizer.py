"""The whole embedded corpus to ids: our fast path in batches against `tokenizer(text)` one by one.

Both tokenizers of the course, with 8192 tokens, trained here on the same corpus; every process starts
without a memory, reads the same file, and times the encoding alone. `quality` holds a hash of all ids:
it is the same for both, or they did not do the same work.

(Not `tokenize.py`: a file of that name in a script's folder hides Python's own module.)"""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

UNIT = "seconds to encode the corpus with BPE and WordPiece"
GOALS = {"transformers": 2.5}
KINDS = ("bpe", "wordpiece")
VOCAB_SIZE = 8192


def corpus() -> list[str]:
    """The texts of artifact corpus/dedup at profile cpu; chapters 01 to 03 run if they have not."""
    from llmchain.workbench.store import Store

    words = [sys.executable, "-m", "llmchain.workbench.cli", "run", "03", "--profile", "cpu", "--json"]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"tokenizer: no corpus: {(done.stdout + done.stderr).strip()[-300:]}")
    outputs = json.loads(done.stdout)["chapters"][-1]["outputs"]
    file = Store().path("corpus/dedup", outputs["corpus/dedup"])
    return [json.loads(line)["text"] for line in (file / "rows.jsonl").open(encoding="utf-8")]


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """Corpus and tokenizers for both contenders."""
    from llmchain.data.tokenizer import (
        BPE_ROLES,
        WORDPIECE_ROLES,
        build_bpe,
        build_wordpiece,
        save_tokenizer,
    )

    texts = corpus()
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    for kind, build, roles in zip(
        KINDS, (build_bpe, build_wordpiece), (BPE_ROLES, WORDPIECE_ROLES), strict=True
    ):
        (folder / kind).mkdir()
        save_tokenizer(build(texts, VOCAB_SIZE), folder / kind, roles, ["input_ids"], 10**9)
    return {
        who: [[sys.executable, __file__, who, str(folder), kind] for kind in KINDS]
        for who in ("ours", "transformers")
    }


def ours(folder: Path, texts: list[str]) -> tuple[float, list[list[int]]]:
    """Seconds and ids of the exported fast path, a thousand texts at a time."""
    from llmchain.data.tokenizer import encode_batch, load_fast_encoder

    encoder = load_fast_encoder(folder)
    begun = time.perf_counter()
    batches = (texts[i : i + 1000] for i in range(0, len(texts), 1000))
    ids = [row for batch in batches for row in encode_batch(encoder, batch)]
    return time.perf_counter() - begun, ids


def transformers(folder: Path, texts: list[str]) -> tuple[float, list[list[int]]]:
    """Seconds and ids of `tokenizer(text)` one by one; special tokens in text stay text, as ours do."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    begun = time.perf_counter()
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return time.perf_counter() - begun, ids


def main(who: str, folder: Path, kind: str) -> dict:
    """What `llmchain bench` reads."""
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    seconds, ids = {"ours": ours, "transformers": transformers}[who](folder / kind, texts)
    told = {
        f"{kind}_tokens": sum(map(len, ids)),
        f"{kind}_ids": hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:12],
    }
    return {"value": seconds, "quality": told}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))
