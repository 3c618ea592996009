"""Time to a loss of BERT (masked words and next sentence): our loop beside the Trainer of transformers.

One size for all: width 256, depth 4, 4 heads, pairs of 256 tokens with their padding, the vocabulary of the course, no
dropout, 15 % of the tokens masked anew at each step. The Trainer with its defaults trains for SECONDS and sets the
target: its loss on held-out masked words. The others train until they are under it: the Trainer in bf16, which takes
the same steps, and ours. Clock, budgets, the Trainer and the way to try another rate are those of clm.py."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from clm import SIZES, Race, artifact, command, run_trainer

UNIT = "seconds of training to the masked-word loss of the Trainer after 120 s"
GOALS = {"trainer": 3.5, "trainer bf16": 2.8}
MEMORY = 1.0  # of a peer's peak, at most
MUST = ("under_target",)  # see clm.py
WARM_UP = False
SECONDS = 120.0
AT = replace(SIZES["cpu"], batch=16)
HELD_OUT = 256  # pairs
OUR_BUDGET = 20.0
# The best of 1e-3, 1.5e-3, 2e-3, 2.5e-3, 3e-3 and 4e-3 (ours) and of 2.5e-4, 5e-4, 1e-3 and 2e-3 (the Trainer).
RATES = {"ours": 2.5e-3, "trainer": 5e-4}


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """The Trainer first: it sets the target of the round."""
    words = ["-p", f"07_objectives.block_size={AT.context}"]
    data = str(artifact("tokens/mlm", "07_objectives", *words))
    return {
        who: [command(__file__, who, data, folder)] for who in ("trainer", "ours", "trainer bf16")
    }


class Held:
    """Held-out pairs whose masks are drawn once, and the mean loss on their masked words."""

    def __init__(self, data: Path) -> None:
        from llmchain.pretrain.objectives import load_mlm, mlm_batch

        arrays, meta = load_mlm(data, "validation")
        n = min(HELD_OUT, len(arrays["input_ids"])) // 16
        self.parts = [mlm_batch(arrays, step, 16, 1234, meta) for step in range(n)]

    def loss(self, model: Any, theirs: bool) -> float:
        """Nats a masked word, fp32."""
        import torch
        import torch.nn.functional as F

        total, count = 0.0, 0
        with torch.inference_mode():
            for part in self.parts:
                places = (part["labels"].flatten() != -100).nonzero()[:, 0]
                inputs = [part[k] for k in ("input_ids", "token_type_ids", "attention_mask")]
                if theirs:
                    names = ("input_ids", "token_type_ids", "attention_mask")
                    found = model(**dict(zip(names, inputs, strict=True))).prediction_logits
                    logits = found.flatten(0, 1)[places]
                else:
                    logits = model(*inputs, positions=places)[0]
                labels = part["labels"].flatten()[places]
                total += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
                count += len(places)
        return total / count


def ours(data: Path, folder: Path, held: Held, rate: float, steps: int) -> dict[str, Any]:
    """The model of 09_bert, the loop of 10_training: Muon, bf16, logits of masked words alone."""
    import torch

    from llmchain.pretrain.bert import BertConfig, BertPretraining
    from llmchain.pretrain.gpt import choose_precision
    from llmchain.pretrain.objectives import MaskedObjective, load_mlm, mlm_batch
    from llmchain.pretrain.training import make_optimizer, training_steps

    arrays, meta = load_mlm(data, "train")
    sizes = {"n_layer": AT.depth, "n_head": AT.heads, "n_embd": AT.width, "n_inner": 4 * AT.width}
    config = BertConfig(vocab_size=meta["vocab_size"], block_size=AT.context, dropout=0.0, **sizes)
    model = BertPretraining(config, torch.Generator().manual_seed(0))
    precision = choose_precision("auto")
    race = Race(folder, lambda: held.loss(model.eval(), theirs=False), OUR_BUDGET, steps=steps)

    def rows(schedule: Any, steps: range) -> Iterator[dict]:
        optimizer = make_optimizer(model, 0.01, (0.9, 0.95), muon=20.0)
        batches = lambda step: mlm_batch(arrays, step, AT.batch, 0, meta)  # noqa: E731
        return training_steps(model, optimizer, MaskedObjective(), batches, schedule, steps, precision=precision)  # fmt: skip

    done = race.follow(rows, lr=rate)
    n_matrix = AT.matrices(meta["vocab_size"], scored=0.15)  # logits of masked words alone
    return race.told(done, done * AT.batch * AT.context, n_matrix, precision)


def trainer(
    data: Path, folder: Path, held: Held, rate: float, steps: int, bf16: bool
) -> dict[str, Any]:
    """BERT of transformers under its Trainer, with its collator's masks."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    from llmchain.pretrain.objectives import load_mlm, mask_tokens

    arrays, meta = load_mlm(data, "train")
    torch.manual_seed(0)
    model = BertForPreTraining(
        BertConfig(
            vocab_size=meta["vocab_size"],
            hidden_size=AT.width,
            num_hidden_layers=AT.depth,
            num_attention_heads=AT.heads,
            intermediate_size=4 * AT.width,
            max_position_embeddings=AT.context,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    generator = torch.Generator().manual_seed(0)

    def collate(rows: list[dict]) -> dict[str, Any]:
        intact = torch.tensor([r["input_ids"] for r in rows])
        ids, labels = mask_tokens(intact, meta["special_ids"], meta["mask_token_id"], meta["vocab_size"], generator, 0.15)  # fmt: skip
        return {
            "input_ids": ids,
            "labels": labels,
            "token_type_ids": torch.tensor([r["token_type_ids"] for r in rows]),
            "attention_mask": (intact != meta["pad_token_id"]).long(),
            "next_sentence_label": torch.tensor([r["next_sentence_label"] for r in rows]),
        }

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(arrays["input_ids"])

        def __getitem__(self, i: int) -> dict[str, Any]:
            return {name: values[i].tolist() for name, values in arrays.items()}

    race = Race(folder, lambda: held.loss(model, theirs=True), SECONDS, not bf16, steps)
    if bf16 and not steps:  # the same steps, sooner
        n_steps = json.loads(race.file.read_text())["steps"]
    else:
        rows, optimizer = Rows(), torch.optim.AdamW(model.parameters(), lr=0.0)

        def timed(number: int) -> None:
            model(**collate([rows[number * AT.batch + k] for k in range(AT.batch)])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        n_steps = race.planned(timed)
    how = {"learning_rate": rate, "bf16": bf16, "remove_unused_columns": False}
    done = run_trainer(model, Rows(), race, n_steps, AT.batch, data_collator=collate, **how)  # type: ignore[arg-type]
    n_matrix, precision = AT.matrices(meta["vocab_size"]), "bf16" if bf16 else "fp32"
    return race.told(done, done * AT.batch * AT.context, n_matrix, precision)


def main(
    who: str, data: Path, folder: Path, rate: float | str = 0.0, steps: int | str = 0
) -> dict[str, Any]:
    """One contender; a rate and a number of steps are those of a search."""
    held = Held(data)
    if who == "ours":
        return ours(data, folder, held, float(rate) or RATES["ours"], int(steps))
    rate = float(rate) or RATES["trainer"]
    return trainer(data, folder, held, rate, int(steps), bf16=who.endswith("bf16"))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])))
