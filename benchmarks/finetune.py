"""Fine-tuning MiniLM on reviews: our way beside the Trainer of transformers, padded and grouped by length.

The same 2,400 sentences of `sentiment_en`, one epoch, 32 sentences a step, no dropout, linear warm-up over a tenth. The
Trainer pads to the longest of a batch (its usual collator) and moves all weights; `grouped` puts similar lengths
together, which is its own option. Ours is the way of 12_classification: similar lengths together, bf16 where the
processor has it, the lower half frozen and computed once (that pass is counted), only the first token in the last
block. `ours whole` is the same without freezing: every weight moves. RATES come from the chapters: the Trainer's and
that of `ours whole` are the better of 1e-4 and 2e-4 in 47_trainer, that of `ours` the better of 2.5e-4 and 5e-4 in
46_transfer, where four blocks are frozen and here three; others can be tried with
`python benchmarks/finetune.py <who> <rate>`. `quality` holds the accuracy on 1,000 held-out sentences and twice its
standard error, because speed without it is worth nothing."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

UNIT = "seconds to fine-tune on 2,400 sentences, one epoch"
GOALS = {"trainer": 3.5, "trainer grouped": 1.8}
EQUAL = {"accuracy": "plus_minus"}  # alike within twice its standard error
N_TRAIN, N_TEST, BATCH, MAX_TOKENS, FROZEN = 2400, 1000, 32, 64, 3
RATES = {"ours": 5e-4, "ours whole": 2e-4, "trainer": 2e-4, "trainer grouped": 2e-4}


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """Every contender in a process of its own."""
    return {who: [[sys.executable, __file__, who]] for who in RATES}


def material() -> tuple[Any, dict[str, list], dict[str, Any], Path]:
    """Tokenizer, ids (T_i,) and labels (N,) by split, folder of the encoder."""
    import numpy as np
    from transformers import AutoTokenizer

    from llmchain.finetune.classification import encode
    from llmchain.workbench.catalog import find

    data, folder = find("sentiment_en"), find("weights/minilm").path
    tokenizer, ids, labels = AutoTokenizer.from_pretrained(folder), {}, {}
    for split, n in (("train", N_TRAIN), ("test", N_TEST)):
        rows = data.rows(split)
        chosen = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:n]]
        ids[split] = encode(tokenizer, [row["text"] for row in chosen], MAX_TOKENS)
        labels[split] = np.array([row["label"] for row in chosen])
    return tokenizer, ids, labels, folder


def told(seconds: float, logits: Any, labels: Any, precision: str) -> dict[str, Any]:
    """The result as the benchmark prints it; logits (N, 2) of the held-out sentences and their labels (N,)."""
    right = float((logits.argmax(1) == labels).mean())
    spread = 2 * math.sqrt(right * (1 - right) / len(labels))
    quality = {"accuracy": round(right, 4), "plus_minus": round(spread, 4), "precision": precision}
    return {
        "value": seconds,
        "quality": quality | {"examples_per_second": round(N_TRAIN / seconds)},
    }


def ours(rate: float, n_frozen: int) -> dict[str, Any]:
    """The loop of 10_training with the batches and the head of 12_classification."""
    import numpy as np
    import torch

    from llmchain.finetune.classification import (
        ClassificationObjective,
        Classifier,
        best_precision,
        collate,
        epoch_batches,
        keep_frozen_states,
        predict,
    )
    from llmchain.pretrain.bert import load_bert
    from llmchain.pretrain.training import train, warmup_cosine

    tokenizer, ids, labels, folder = material()
    options = {"pad_id": tokenizer.pad_token_id, "precision": best_precision()}
    generator = torch.Generator().manual_seed(0)
    model = Classifier(load_bert(folder, 0.0), 2, n_frozen=n_frozen, generator=generator)
    begun = time.perf_counter()
    rows = keep_frozen_states(model, ids["train"], **options) if n_frozen else ids["train"]
    chosen = epoch_batches(np.array([len(row) for row in rows]), BATCH, 0)
    n_steps = math.ceil(N_TRAIN / BATCH)
    train(
        model,
        ClassificationObjective(),
        lambda step: collate(rows, labels["train"], chosen(step), tokenizer.pad_token_id),
        n_steps=n_steps,
        schedule=lambda step: warmup_cosine(step, n_steps, math.ceil(n_steps / 10), rate),
        weight_decay=0.01,
        betas=(0.9, 0.98),
        precision=options["precision"],
    )
    seconds = time.perf_counter() - begun
    logits = predict(model, ids["test"], pad_id=tokenizer.pad_token_id)
    return told(seconds, logits, labels["test"], options["precision"])


def trainer(rate: float, grouped: bool) -> dict[str, Any]:
    """BertForSequenceClassification under the Trainer."""
    import tempfile

    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    tokenizer, ids, labels, folder = material()
    torch.manual_seed(0)
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, **off)
    rows = {
        split: [
            {"input_ids": x.tolist(), "labels": int(y)}
            for x, y in zip(ids[split], labels[split], strict=True)
        ]
        for split in ids
    }
    with tempfile.TemporaryDirectory() as where:
        arguments = TrainingArguments(
            output_dir=where,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=rate,
            warmup_steps=math.ceil(N_TRAIN / BATCH / 10),
            weight_decay=0.01,
            train_sampling_strategy="group_by_length" if grouped else "random",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        )
        collator = DataCollatorWithPadding(tokenizer)
        run = Trainer(model=model, args=arguments, train_dataset=rows["train"], data_collator=collator)  # fmt: skip
        begun = time.perf_counter()
        run.train()
        seconds = time.perf_counter() - begun
        # grouped, it also reads held-out rows in an order of its own: their labels come with them
        found = run.predict(rows["test"])
    return told(seconds, found.predictions, found.label_ids, "fp32")


def main(who: str, rate: float) -> dict[str, Any]:
    """One contender."""
    if who.startswith("ours"):
        return ours(rate, 0 if who.endswith("whole") else FROZEN)
    return trainer(rate, who.endswith("grouped"))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], float((sys.argv[2:] or [RATES[sys.argv[1]]])[0]))))
