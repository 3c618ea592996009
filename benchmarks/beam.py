"""Beam search: ours beside `generate` of transformers, the translator of 14_translation, the same sentences.

The translator that 14_translation makes at profile cpu (it runs if it has not) writes Chinese for 192 English messages
of the packages, drawn by a seed and put in batches of 16 of similar length, with its own settings: four hypotheses, its
length penalty, PAD never written. So texts end where the network ends them, most long before the limit, and what a
search saves then is counted. `quality` holds a hash of all tokens: it is the same for both, or they did not do the
same work; `cut` counts texts that the limit ended."""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from clm import artifact

UNIT = "seconds to translate 192 messages in batches of 16 with four hypotheses"
GOALS = {"transformers": 2.0}
EQUAL = {"tokens": ""}  # the same text, or the times say nothing
N_SOURCES, BATCH = 192, 16


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """Both read the same weights and draw the same messages."""
    made = artifact("model/translator", "14_translation") / "there"
    return {who: [[sys.executable, __file__, who, str(made)]] for who in ("ours", "transformers")}


def sources(folder: Path, longest: int) -> list[list[int]]:
    """Token ids of the messages, each with its EOS; the shortest first."""
    import numpy as np
    from tokenizers import Tokenizer

    from llmchain.finetune.translation import EOS, gettext_pairs

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [pair["en"] for pair in gettext_pairs()]
    drawn = np.random.default_rng(0).permutation(len(texts))
    ids = [[t for t in tokenizer.encode(texts[i]).ids if t != EOS] + [EOS] for i in drawn]
    return sorted([row for row in ids if len(row) <= longest][:N_SOURCES], key=len)


def main(who: str, folder: Path) -> dict[str, Any]:
    """Seconds, and what was written."""
    import torch
    from transformers import MarianMTModel

    from llmchain.finetune.translation import EOS, PAD, SourceReader, beam_search, pair_batch
    from llmchain.pretrain.transformer import from_hf

    about = json.loads((folder / "translator.json").read_text())
    beams, penalty = about["n_beams"], about["length_penalty"]
    theirs = MarianMTModel.from_pretrained(folder, use_safetensors=True).eval()
    ours, most = from_hf(theirs), theirs.config.max_position_embeddings
    pairs = [(row, [EOS]) for row in sources(folder, most)]
    starts = range(0, len(pairs), BATCH)
    batches = [pair_batch(pairs, range(i, min(i + BATCH, len(pairs)))) for i in starts]

    def written(batch: dict[str, torch.Tensor]) -> list[list[int]]:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        if who == "ours":
            with torch.inference_mode():
                reader = SourceReader(ours, ids, mask, beams, most)
                return [tokens for tokens, _ in beam_search(reader, len(ids), beams, most, penalty)]
        rows = theirs.generate(ids, attention_mask=mask)[:, 1:].tolist()
        ends = [[i for i, token in enumerate(row) if token in (EOS, PAD)] for row in rows]
        return [row[: end[0]] if end else row for row, end in zip(rows, ends, strict=True)]

    written(batches[0])  # what is done once is not counted
    begun = time.perf_counter()
    found = [tokens for batch in batches for tokens in written(batch)]
    seconds = time.perf_counter() - begun
    mark = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
    lengths = [len(tokens) for tokens in found]
    quality = {"tokens": mark, "mean_length": round(sum(lengths) / len(lengths), 2)}
    return {"value": seconds, "quality": quality | {"cut": sum(n >= most for n in lengths)}}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
