"""What a GPU adds, on the device that is here: the same numbers as on a processor, within its arithmetic.

Every test runs on the processor, so that the path itself is sound; where there is a GPU, on that as well."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_streaming import GPT_TINY, MASKS, V, documents, stream_of
from torch import nn

from llmchain.pretrain.bert import BertConfig, BertPretraining
from llmchain.pretrain.distributed import launch
from llmchain.pretrain.gpt import GPT, GPTConfig, generate
from llmchain.pretrain.objectives import MaskedObjective
from llmchain.pretrain.streaming import RECIPES, parts_that_fit, train_recipe
from llmchain.pretrain.training import backward_batch

HAS_GPU = torch.cuda.is_available()
GPU = pytest.mark.skipif(not HAS_GPU, reason="no GPU")
ON_BOTH = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])


def gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])


@pytest.fixture(autouse=True)
def exact_products():
    "Products of fp32 in fp32: TF32 has ten bits."
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@ON_BOTH
@pytest.mark.parametrize("padded", [False, True])
def test_gpt_writes_the_same_with_its_cache(device: str, padded: bool) -> None:
    "fp64, so that no two tokens change places for the order of a sum."
    model = GPT(GPTConfig(50, 32, 2, 2, 32, 0.0), torch.Generator().manual_seed(0)).double().eval()
    ids = torch.arange(12).reshape(2, 6) + 5
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :2] = 0
    here = generate(model, ids, 10, temperature=0, attention_mask=mask)
    with torch.inference_mode():
        logits = model(ids)
        there = model.to(device)(ids.to(device)).cpu()
    found = generate(model, ids.to(device), 10, temperature=0, attention_mask=mask.to(device))
    assert torch.equal(found.cpu(), here)
    assert (there - logits).abs().max() < 1e-10


@ON_BOTH
def test_bert_has_the_same_loss_and_gradients(device: str) -> None:
    config = BertConfig(60, 16, 2, 2, 32, 64, 0.0)
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(5, 60, (4, 16)))
    labels = torch.where(torch.from_numpy(rng.random((4, 16)) < 0.2), ids, -100)
    labels[0, 0] = int(ids[0, 0])
    batch = {"input_ids": ids, "labels": labels, "token_type_ids": (torch.arange(16) > 7).long().expand(4, -1)}  # fmt: skip
    batch |= {"attention_mask": (torch.arange(16) < torch.tensor([[16], [12], [9], [16]])).long()}
    batch["labels"] = labels.masked_fill(batch["attention_mask"] == 0, -100)
    batch["next_sentence_label"] = torch.tensor([0, 1, 0, 1])
    told = []
    for where in ("cpu", device):
        model = BertPretraining(config, torch.Generator().manual_seed(0)).double().to(where)
        losses, _ = backward_batch(model, MaskedObjective(), batch, device=where)
        told.append((losses, gradients(model)))
    (here, g), (there, h) = told
    assert there == pytest.approx(here, abs=1e-10)
    assert (g - h).abs().max() <= 1e-10 * g.abs().max()


@ON_BOTH
@pytest.mark.parametrize("name", ["gpt-tiny", "bert-tiny"])
def test_a_recipe_learns_compiled_and_in_bf16(tmp_path, device: str, name: str) -> None:
    "Pinned batches made ahead, the compiler of the device, a batch in parts, a kill and a resume."
    stream = stream_of(tmp_path / "stream", documents(300), shard_tokens=2000)
    tiny = replace(RECIPES[name], dropout=0.0, n_warmup=2)
    how = {"n_steps": 12, "batch_tokens": 512, "tokens": MASKS, "device": device, "n_micro": 2}
    how |= {"precision": "bf16", "backend": "inductor" if device == "cuda" else "aot_eager"}
    whole, run = train_recipe(tiny, stream, **how)
    losses = [row["loss"] for row in run["history"]]
    assert np.isfinite(losses).all() and losses[-1] < losses[0] < np.log(V) + 0.6

    def dies(step: int, row: dict) -> None:
        if step == 7:
            raise KeyboardInterrupt

    saved = how | {"checkpoint_dir": tmp_path / "c", "checkpoint_every": 4}
    with pytest.raises(KeyboardInterrupt):
        train_recipe(tiny, stream, on_step=dies, **saved)
    again, _ = train_recipe(tiny, stream, **saved)
    gap = max(
        float((a - b).detach().abs().max())
        for a, b in zip(whole.parameters(), again.parameters(), strict=True)
    )
    # kernels of a GPU may add in another order from call to call; a processor's may not
    assert gap == 0 if device == "cpu" else gap < 1e-2


@GPU
def test_memory_of_a_step_is_as_predicted(tmp_path) -> None:
    "The allocator's peak; the compiled loss needs less than the formula, so only upwards is wrong."
    stream = stream_of(tmp_path / "stream", documents(300), shard_tokens=2000)
    wide = replace(GPT_TINY, n_embd=768, n_head=12, n_layer=4, dropout=0.0)
    _, predicted = parts_that_fit(wide, 128, 64, 80e9, "bf16")
    torch.cuda.reset_peak_memory_stats()
    train_recipe(wide, stream, n_steps=3, batch_tokens=64 * 64, device="cuda", precision="bf16")
    assert torch.cuda.max_memory_allocated() <= 1.15 * predicted


@GPU
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_on_gpus_talk_through_nccl(tmp_path, strategy: str) -> None:
    "As many ranks as GPUs, up to two; with one, the collectives still run. The gradient of one processor, in fp64."
    np.save(tmp_path / "train.npy", np.random.default_rng(0).integers(0, 50, 900).astype(np.uint16))
    (tmp_path / "meta.json").write_text("{}")
    sizes = {"vocab_size": 50, "block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 12}
    job = {"tokens": str(tmp_path), "sizes": sizes, "batch_size": 4, "n_steps": 2, "lr": 1e-2}
    job |= {"seed": 0, "dtype": "float64", "ragged": True, "strategy": strategy}
    found = []
    for device, n_ranks in (("cpu", 1), ("cuda", min(2, torch.cuda.device_count()))):
        file = tmp_path / f"{device}.safetensors"
        own = job | {"gradients": str(file)}
        launch("llmchain.pretrain.distributed:gradient_job", own, n_ranks, device=device)
        found.append(load_file(file))
    for name, here in found[0].items():
        assert (here - found[1][name]).abs().max() <= 1e-10, name
