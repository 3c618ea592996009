"""Beam search: our `beam_search` beside `generate` of transformers, the same weights, the same translations.

A small Marian of random, loud weights is made on the spot and translates 96 sources of random tokens in batches of 16,
with four hypotheses and the library's default settings. No text of it ends before the last step (`cut` counts them), so
what a search saves when texts end early is not measured. `quality` holds a
hash of all tokens: it is the same for both, or they did not do the same work."""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

UNIT = "seconds to translate 96 sources in batches of 16 with four hypotheses"
GOALS = {"transformers": 2.0}
N_SOURCES, BATCH, BEAMS, N_NEW, VOCABULARY = 96, 16, 4, 48, 3000


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """Weights and sources are drawn alike by both."""
    return {who: [[sys.executable, __file__, who]] for who in ("ours", "transformers")}


def made() -> Any:
    """A Marian that is sure of what it says."""
    import torch

    from llmchain.finetune.translation import EOS, PAD, search_settings, translator_config
    from llmchain.pretrain.transformer import EncoderDecoder, to_hf

    config = translator_config(VOCABULARY, 64, n_layer=2, n_head=4, n_embd=128, dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    model = EncoderDecoder(config, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_((0.08 if "embedding" in name else 0.05) * noise)
        model.logits_bias[0, EOS] = 4.0  # an end is among what is considered
    ids = {"pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD}
    theirs = to_hf(model, **ids).eval()
    theirs.generation_config.update(**search_settings(BEAMS, 1.0, N_NEW))
    return theirs


def main(who: str) -> dict[str, Any]:
    """Seconds, and what was written."""
    import numpy as np
    import torch

    from llmchain.finetune.translation import EOS, PAD, SourceReader, beam_search, pair_batch
    from llmchain.pretrain.transformer import from_hf

    theirs, rng = made(), np.random.default_rng(0)
    sources = [
        rng.integers(2, VOCABULARY, n).tolist() for n in np.sort(rng.integers(4, 24, N_SOURCES))
    ]
    pairs = [([*source, EOS], [EOS]) for source in sources]
    batches = [pair_batch(pairs, range(i, i + BATCH)) for i in range(0, N_SOURCES, BATCH)]
    ours = from_hf(theirs)

    def written(batch: dict[str, torch.Tensor]) -> list[list[int]]:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        if who == "ours":
            with torch.inference_mode():
                reader = SourceReader(ours, ids, mask, BEAMS, N_NEW)
            return [tokens for tokens, _ in beam_search(reader, len(ids), BEAMS, N_NEW)]
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
    return {"value": seconds, "quality": quality | {"cut": sum(n >= N_NEW for n in lengths)}}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
