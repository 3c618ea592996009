"""Sentences to vectors to a linear classifier: our encoder beside sentence-transformers, the same weights.

3,000 sentences of `sentiment_en` become vectors (mean of the tokens, MiniLM) and logistic regression learns from two
thirds of them. sentence-transformers has its defaults: batches of 32, sorted by length, fp32. Ours has the batches of
12_classification and bf16 where the processor has it. `quality` holds the accuracy on the other third and twice its
standard error."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

UNIT = "seconds from 3,000 sentences to a classifier"
GOALS = {"sentence-transformers": 2.5}
EQUAL = {"accuracy": "plus_minus"}  # alike within twice its standard error
N, N_TRAIN, MAX_TOKENS = 3000, 2000, 128


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """Every contender in a process of its own; ours in fp32 as well, to see what the number format gives."""
    contenders = ("ours", "ours fp32", "sentence-transformers")
    return {who: [[sys.executable, __file__, who]] for who in contenders}


def our_vectors(texts: list[str], folder: Path, precision: str) -> tuple[float, Any]:
    """When the clock began, and (N, C) vectors of the texts in their order."""
    from torch import nn
    from transformers import AutoTokenizer

    from llmchain.finetune.classification import Classifier, encode, predict
    from llmchain.pretrain.bert import load_bert

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Classifier(load_bert(folder, 0.0), 2, "mean")
    model.head = nn.Identity()  # type: ignore[assignment]  # what is left is the mean
    begun = time.perf_counter()
    ids = encode(tokenizer, texts, MAX_TOKENS)
    return begun, predict(model, ids, 32, tokenizer.pad_token_id, precision=precision)


def their_vectors(texts: list[str], folder: Path) -> tuple[float, Any]:
    """The same by sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    words = Transformer(str(folder), max_seq_length=MAX_TOKENS)
    model = SentenceTransformer(modules=[words, Pooling(384, "mean")], device="cpu")
    begun = time.perf_counter()
    return begun, model.encode(texts, show_progress_bar=False)


def main(who: str) -> dict[str, Any]:
    """Seconds, and how good the classifier is."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    from llmchain.finetune.classification import best_precision
    from llmchain.workbench.catalog import find

    rows, folder = find("sentiment_en").rows("train"), find("weights/minilm").path
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:N]]
    texts, labels = [r["text"] for r in rows], np.array([r["label"] for r in rows])
    precision = best_precision() if who == "ours" else "fp32"
    if who.startswith("ours"):
        begun, vectors = our_vectors(texts, folder, precision)
    else:
        begun, vectors = their_vectors(texts, folder)
    fit = LogisticRegression(C=10, max_iter=1000).fit(vectors[:N_TRAIN], labels[:N_TRAIN])
    seconds = time.perf_counter() - begun
    right = fit.score(vectors[N_TRAIN:], labels[N_TRAIN:])
    spread = 2 * math.sqrt(right * (1 - right) / (N - N_TRAIN))
    quality = {"accuracy": round(right, 4), "plus_minus": round(spread, 4), "precision": precision}
    return {"value": seconds, "quality": quality | {"sentences_per_second": round(N / seconds)}}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
