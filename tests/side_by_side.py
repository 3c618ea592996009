"""A model of transformers beside ours: loud weights, every gradient, one step of AdamW, in fp64."""

import torch
from torch import nn
from transformers import BertConfig

from llmchain.pretrain.bert import bert_names
from llmchain.pretrain.gpt import to_hf_weights


def loud(kind, config, seed=0):
    "A model of transformers with weights large enough that nothing hides in their smallness."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config).double()
        for parameter in model.parameters():
            if parameter.requires_grad:  # a table of sines is none of the weights
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def in_full_precision(model):
    "The same model, with PyTorch's norm wherever its own RMSNorm casts to fp32."
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm") and not isinstance(child, nn.RMSNorm):
                norm = nn.RMSNorm(child.weight.shape, child.variance_epsilon)
                norm.weight = child.weight
                setattr(parent, name, norm)
    return model


def bert_config(n_layer, n_head, n_embd, n_inner, vocab_size, block_size, **more):
    "Our sizes as transformers names them, without dropout."
    return BertConfig(
        num_hidden_layers=n_layer,
        num_attention_heads=n_head,
        hidden_size=n_embd,
        intermediate_size=n_inner,
        vocab_size=vocab_size,
        max_position_embeddings=block_size,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **more,
    )


def head_names(n_layer, pooled=True):
    "Our name -> theirs, of an encoder with a linear head; `pooled` if theirs has a pooler."
    names = {
        f"bert.{ours}": tuple(f"bert.{name}" for name in theirs)
        for ours, theirs in bert_names(n_layer).items()
        if pooled or "pooler" not in ours
    }
    return names | {f"head.{kind}": (f"classifier.{kind}",) for kind in ("weight", "bias")}


def padding_mask(block_size, padding):
    "(3, T), 1 for a token: a full row, one place free, half free, on the side asked for."
    mask = torch.ones(3, block_size, dtype=torch.long)
    if padding != "none":
        for row, n_pad in enumerate((0, 1, block_size // 2)):
            where = slice(block_size - n_pad, None) if padding == "right" else slice(0, n_pad)
            mask[row, where] = 0
    return mask


def gradient_gap(ours, theirs, names, transposed=()):
    "Largest relative difference of a gradient; no parameter of either side may be left out."
    mine = {name: p.grad for name, p in ours.named_parameters()}
    assert set(mine) == set(names)
    mine = to_hf_weights(mine, names, transposed)
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    assert set(mine) == set(gradients)
    largest = max(g.abs().max().item() for g in gradients.values())
    worst = 0.0
    for name, gradient in gradients.items():
        gap = (mine[name] - gradient).norm().item()
        if gradient.norm() > 1e-9 * largest:  # a key's bias has gradient 0: softmax ignores shifts
            worst = max(worst, gap / gradient.norm().item())
        else:
            assert gap <= 1e-12 * largest, name
    print(f"max relative |Δgradient| = {worst:.1e}")
    return worst


def gap_after_a_step(ours, theirs, our_loss, their_loss, names, transposed=()):
    "Largest difference of a weight after either side has made one step of AdamW."
    for model, loss in ((ours, our_loss), (theirs, their_loss)):
        # with a tiny eps, a gradient that is 0 but for rounding would make a whole step of its sign
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-3)
        loss.backward()
        optimizer.step()
    stepped, weights = to_hf_weights(ours.state_dict(), names, transposed), theirs.state_dict()
    gap = max((stepped[name] - weights[name]).abs().max().item() for name in stepped)
    print(f"max |Δweight| after a step = {gap:.1e}")
    return gap


def states_of(blocks, run):
    "What each block gives while `run` runs."
    states, handles = [], []

    def note(module, given, result):
        states.append(result[0] if isinstance(result, tuple) else result)

    for block in blocks:
        handles.append(block.register_forward_hook(note))
    run()
    for handle in handles:
        handle.remove()
    return states


def gap_by_block(our_blocks, our_run, their_blocks, their_run, real):
    "Largest difference behind each block at the `real` places; no block of either side is left out."
    with torch.no_grad():
        ours, theirs = states_of(our_blocks, our_run), states_of(their_blocks, their_run)
    assert len(ours) == len(our_blocks) and len(theirs) == len(their_blocks)
    gaps = [(a - b)[real].abs().max().item() for a, b in zip(ours, theirs, strict=True)]
    print(f"max |Δ| behind each block = {', '.join(f'{gap:.1e}' for gap in gaps)}")
    return gaps
