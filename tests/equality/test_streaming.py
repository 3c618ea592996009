"""Recipes beside transformers, and streams beside the arrays of 07."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForPreTraining, GPT2Config, GPT2LMHeadModel

from llmchain.pretrain.objectives import CausalObjective, clm_batch, epoch_order, pack_stream
from llmchain.pretrain.streaming import (
    RECIPES,
    PaddedCausal,
    TokenShards,
    keyed_order,
    new_model,
    recipe_parameters,
    stream_clm_batch,
    write_token_shards,
)

ABOUT = {"tokenizer": "a" * 64, "vocab_size": 97, "eos_token_id": 0, "source": "s", "revision": ""}


@pytest.mark.parametrize(
    ("name", "vocab", "published"),
    [("gpt-124m", 50257, 124_439_808), ("bert-base", 30522, 110_106_428)],
)
def test_as_many_parameters_as_the_published_model(name, vocab, published):
    recipe = RECIPES[name]
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(GPT2Config()) if recipe.kind == "clm" else BertForPreTraining(BertConfig())  # fmt: skip
        ours = new_model(recipe, vocab)
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert (
        counts == [published, published]
        and sum(recipe_parameters(recipe, vocab).values()) == published
    )


@pytest.mark.parametrize("shard_tokens", [5, 64, 1000])
def test_the_stream_is_that_of_07_cut_anywhere(tmp_path, shard_tokens):
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 97, n).tolist() for n in rng.integers(1, 50, 30)]
    texts = [str(i) for i in range(30)]
    write_token_shards(tmp_path, texts, lambda batch: [documents[int(t)] for t in batch], ABOUT, shard_tokens)  # fmt: skip
    whole = pack_stream(documents, 0)
    stream = TokenShards(tmp_path)
    assert (
        np.array_equal(np.concatenate(stream.shards), whole)
        and stream.shards[0].dtype == whole.dtype
    )
    T, B = 16, 4
    n = (len(whole) - 1) // (T - 1)
    ours = torch.cat([stream_clm_batch(stream, s, B, T, 0)["input_ids"] for s in range(n)])[:n]
    theirs = torch.cat([clm_batch(whole, s, B, T, 0)["input_ids"] for s in range(n)])[:n]
    order, old = keyed_order(np.arange(n), n, 0), epoch_order(n, 0, 0)
    assert torch.equal(ours[np.argsort(order)], theirs[np.argsort(old)]), "the same windows, in another order"  # fmt: skip


def test_the_loss_is_that_of_07_and_of_torch():
    model = new_model(RECIPES["gpt-tiny"], 97).double().eval()
    batch = {"input_ids": torch.randint(97, (3, 20), generator=torch.Generator().manual_seed(0))}
    ours = PaddedCausal(97).sums(model, batch)["clm"]
    logits = model(batch["input_ids"])[:, :-1].flatten(0, 1)
    torchs = torch.nn.functional.cross_entropy(logits, batch["input_ids"][:, 1:].flatten(), reduction="sum")  # fmt: skip
    assert ours.item() == pytest.approx(torchs.item(), rel=1e-12)
    assert ours.item() == CausalObjective().sums(model, batch)["clm"].item()
