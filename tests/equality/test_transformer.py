"""Our Transformer next to Llama, Qwen3, Marian and torch.nn: same weights, fp64, no dropout."""

import pytest
import torch
import torch.nn.functional as F
from side_by_side import (
    gap_after_a_step,
    gap_by_block,
    gradient_gap,
    in_full_precision,
    loud,
    padding_mask,
    states_of,
)
from torch import nn
from torch.testing import assert_close
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llmchain.pretrain.transformer import (
    Attention,
    Stack,
    TransformerBlock,
    TransformerConfig,
    dot_product_attention,
    from_hf,
    fused_attention,
    generate_cached,
    layer_norm,
    llama_names,
    marian_names,
    rms_norm,
    to_hf,
    visibility,
    write_greedily,
)

# layers, heads, heads of keys, C, inner, V, block; tied or not
DECODERS = [(1, 1, 1, 8, 12, 11, 6, True), (2, 4, 2, 32, 40, 97, 24, False), (2, 6, 1, 48, 64, 53, 16, True)]  # fmt: skip
MARIANS = [(1, 1, 8, 12, 11, 6, "relu"), (2, 4, 32, 40, 97, 24, "gelu"), (2, 2, 48, 64, 53, 16, "swish")]  # fmt: skip
KINDS = {"llama": (LlamaForCausalLM, LlamaConfig), "qwen3": (Qwen3ForCausalLM, Qwen3Config)}
PADDINGS = ["none", "right", "left"]
every_decoder = pytest.mark.parametrize("sizes", DECODERS, ids=["tiny", "grouped", "one-key"])
every_kind = pytest.mark.parametrize("kind", list(KINDS))
every_marian = pytest.mark.parametrize("sizes", MARIANS, ids=["relu", "gelu", "swish"])
every_padding = pytest.mark.parametrize("padding", PADDINGS)


def make_decoder(kind, n_layer, n_head, n_kv_head, n_embd, n_inner, vocab_size, block_size, tied):
    model, config = KINDS[kind]
    sizes = dict(num_hidden_layers=n_layer, num_attention_heads=n_head, hidden_size=n_embd)
    sizes |= dict(
        num_key_value_heads=n_kv_head, intermediate_size=n_inner, head_dim=n_embd // n_head
    )
    sizes |= dict(vocab_size=vocab_size, max_position_embeddings=block_size, rms_norm_eps=1e-5)
    sizes |= dict(rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    made = config(**sizes, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0)
    return in_full_precision(loud(model, made))


def make_marian(n_layer, n_head, n_embd, n_inner, vocab_size, block_size, activation):
    sizes = {f"{side}_layers": n_layer for side in ("encoder", "decoder")}
    sizes |= {f"{side}_attention_heads": n_head for side in ("encoder", "decoder")}
    sizes |= {f"{side}_ffn_dim": n_inner for side in ("encoder", "decoder")}
    sizes |= dict(d_model=n_embd, vocab_size=vocab_size, max_position_embeddings=block_size)
    silent = dict(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
    special = dict(pad_token_id=0, eos_token_id=1, decoder_start_token_id=2)
    how = dict(activation_function=activation, scale_embedding=True)
    theirs = loud(MarianMTModel, MarianConfig(**sizes, **silent, **special, **how))
    generator = torch.Generator().manual_seed(5)
    theirs.final_logits_bias += torch.randn(1, vocab_size, generator=generator).double()
    return theirs


def make_batch(vocab_size, block_size, padding, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocab_size, (3, block_size), generator=generator)
    mask = padding_mask(block_size, padding)
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def shared_loss(logits, labels, counted):
    "Mean of −ln p over the counted places, in the precision of the logits, the same for both sides."
    return -logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0][counted].mean()


def both_decoders(kind, sizes, padding, **more):
    theirs = make_decoder(kind, *sizes)
    ours = from_hf(theirs)
    ids, mask, positions = make_batch(*sizes[5:7], padding)
    if padding == "none":
        there, here = theirs(ids, **more), ours(ids)
    else:
        there = theirs(ids, attention_mask=mask, position_ids=positions, **more)
        here = ours(ids, mask)
    return ours, theirs, ids, mask, here, there


def both_marians(sizes, padding):
    "Source padded as asked (Marian counts places, so ours is told them), target padded behind."
    theirs = make_marian(*sizes)
    ours = from_hf(theirs)
    ids, mask, _ = make_batch(*sizes[4:6], padding)
    ids = ids.clamp(min=1)  # token 0 is their padding, whose embedding they never move
    target = 1 + (ids.flip(0) * 3) % (sizes[4] - 1)
    target_mask = padding_mask(sizes[5], "none" if padding == "none" else "right")
    given = dict(attention_mask=mask, decoder_attention_mask=target_mask)
    there = theirs(input_ids=ids, decoder_input_ids=target, **given, output_hidden_states=True)
    places = torch.arange(sizes[5])
    memory = ours.encoder(ids, mask, positions=places)
    hidden = ours.decoder(target, target_mask, memory=memory, memory_mask=mask)
    return ours, theirs, (ids, target), (mask, target_mask), (memory, hidden), there


@every_padding
@every_decoder
@every_kind
def test_decoder_states_and_logits(kind, sizes, padding):
    theirs = make_decoder(kind, *sizes)
    ours = from_hf(theirs)
    ids, mask, positions = make_batch(*sizes[5:7], padding)
    out = {}
    with torch.no_grad():
        here = states_of(ours.stack.blocks, lambda: out.update(here=ours(ids, mask)))
        given = dict(attention_mask=mask, position_ids=positions)
        there = states_of(
            theirs.model.layers, lambda: out.update(there=theirs(ids, **given).logits)
        )
    real = mask.bool()
    gaps = [(a - b)[real].abs().max().item() for a, b in zip(here, there, strict=True)]
    gaps.append((out["here"] - out["there"])[real].abs().max().item())
    print(f"max |Δ| = {max(gaps):.1e}")
    assert len(gaps) == sizes[0] + 1 and max(gaps) <= 1e-10


def assert_same_gradients(ours, theirs, losses):
    "Losses alike, and the gradient of every weight."
    assert abs(losses[0].item() / losses[1].item() - 1) <= 1e-9
    for loss in losses:
        loss.backward()
    assert gradient_gap(ours, theirs, llama_names(ours.config)) <= 1e-9


@every_padding
@every_decoder
@every_kind
def test_decoder_loss_and_every_gradient(kind, sizes, padding):
    ours, theirs, ids, mask, here, there = both_decoders(kind, sizes, padding)
    counted = (mask[:, 1:] * mask[:, :-1]).bool()
    losses = [shared_loss(x[:, :-1], ids[:, 1:], counted) for x in (here, there.logits)]
    assert_same_gradients(ours, theirs, losses)


@every_decoder
@every_kind
def test_decoder_one_adamw_step(kind, sizes):
    ours, theirs, ids, mask, here, there = both_decoders(kind, sizes, "left")
    counted = (mask[:, 1:] * mask[:, :-1]).bool()
    losses = [shared_loss(x[:, :-1], ids[:, 1:], counted) for x in (here, there.logits)]
    assert gap_after_a_step(ours, theirs, *losses, llama_names(ours.config)) <= 1e-10


def packed_decoders(kind, sizes):
    "Rows of several documents. Their mask is additive, (B, 1, T, T); ours is the documents' numbers."
    theirs = make_decoder(kind, *sizes)
    n = sizes[6]
    ids, _, _ = make_batch(sizes[5], n, "none")
    cuts = [[n // 4, n // 2], [], [1, n - 1]]
    documents = torch.stack([torch.bincount(torch.tensor([0, *c]), minlength=n) for c in cuts])
    documents = documents.cumsum(1) - 1
    places = torch.stack(
        [torch.cat([torch.arange(n) for n in row.bincount()]) for row in documents]
    )
    table = documents[:, None, :, None] == documents[:, None, None, :]
    table = table & torch.ones(n, n, dtype=torch.bool).tril()
    lowest = torch.finfo(torch.float64).min
    added = torch.zeros(table.shape, dtype=torch.float64).masked_fill(~table, lowest)
    given = dict(attention_mask=added, position_ids=places)
    return from_hf(theirs), theirs, ids, documents, given


@every_decoder
@every_kind
def test_packed_rows_are_theirs_with_a_table(kind, sizes):
    ours, theirs, ids, documents, given = packed_decoders(kind, sizes)
    out = {}

    def run_ours():
        out["here"] = ours(ids, documents=documents)

    def run_theirs():
        out["there"] = theirs(ids, **given).logits

    every = torch.ones_like(ids, dtype=torch.bool)
    gaps = gap_by_block(ours.stack.blocks, run_ours, theirs.model.layers, run_theirs, every)
    assert len(gaps) == sizes[0] and max(gaps) <= 1e-10
    assert_close(out["here"], out["there"], atol=1e-10, rtol=0)


def packed_losses(kind, sizes):
    "Nobody predicts the first token of the next document."
    ours, theirs, ids, documents, given = packed_decoders(kind, sizes)
    counted = documents[:, 1:] == documents[:, :-1]
    assert 0 < counted.sum() < counted.numel()
    both = ours(ids, documents=documents), theirs(ids, **given).logits
    return ours, theirs, [shared_loss(x[:, :-1], ids[:, 1:], counted) for x in both]


@every_decoder
@every_kind
def test_packed_loss_and_every_gradient(kind, sizes):
    ours, theirs, losses = packed_losses(kind, sizes)
    assert_same_gradients(ours, theirs, losses)


@every_decoder
@every_kind
def test_packed_adamw_step(kind, sizes):
    ours, theirs, losses = packed_losses(kind, sizes)
    assert gap_after_a_step(ours, theirs, *losses, llama_names(ours.config)) <= 1e-10


@every_kind
def test_greedy_continuation_is_theirs(kind):
    sizes = DECODERS[1]
    theirs = make_decoder(kind, *sizes)
    ids, _, _ = make_batch(sizes[5], 6, "none")
    mask = padding_mask(6, "left")
    settings = dict(do_sample=False, max_new_tokens=15, min_new_tokens=15, pad_token_id=0)
    there = theirs.generate(ids, attention_mask=mask, eos_token_id=None, **settings)
    assert torch.equal(generate_cached(from_hf(theirs), ids, 15, mask)[:, 6:], there[:, 6:])


@every_kind
def test_without_our_repair_they_differ_by_single_precision(kind):
    "Their RMSNorm casts to fp32. If this fails, the cast is gone, and so may be the repair."
    sizes = DECODERS[1]
    exact = make_decoder(kind, *sizes)
    as_it_is = to_hf(from_hf(exact))
    ids, _, _ = make_batch(*sizes[5:7], "none")
    with torch.no_grad():
        gap = (as_it_is(ids).logits - exact(ids).logits).abs().max().item()
    assert 1e-10 < gap < 1e-3


@every_decoder
@every_kind
def test_decoder_weights_go_both_ways(kind, sizes):
    theirs = make_decoder(kind, *sizes)
    back = to_hf(from_hf(theirs))
    assert type(back) is KINDS[kind][0] and back.dtype == torch.float64
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name
    for name in ("rms_norm_eps", "rope_parameters", "tie_word_embeddings", "num_key_value_heads"):
        assert getattr(back.config, name) == getattr(theirs.config, name), name


@every_padding
@every_marian
def test_marian_states_and_logits(sizes, padding):
    with torch.no_grad():
        ours, _, _, masks, (memory, hidden), there = both_marians(sizes, padding)
        logits = ours.logits(hidden)
    source, target = (mask.bool() for mask in masks)
    gaps = {
        "memory": (memory - there.encoder_last_hidden_state)[source].abs().max().item(),
        "hidden": (hidden - there.decoder_hidden_states[-1])[target].abs().max().item(),
        "logits": (logits - there.logits)[target].abs().max().item(),
    }
    print(f"max |Δ| = {gaps}")
    assert max(gaps.values()) <= 1e-10


@every_padding
@every_marian
def test_marian_loss_and_every_gradient(sizes, padding):
    ours, theirs, (_, target), masks, (_, hidden), there = both_marians(sizes, padding)
    labels, counted = target.roll(-1, 1), masks[1].bool()
    losses = [shared_loss(x, labels, counted) for x in (ours.logits(hidden), there.logits)]
    assert abs(losses[0].item() / losses[1].item() - 1) <= 1e-9
    for loss in losses:
        loss.backward()
    own = {name for name, _ in ours.named_parameters()}
    names = {name: there for name, there in marian_names(ours.config).items() if name in own}
    assert gradient_gap(ours, theirs, names) <= 1e-9


@every_padding
@every_marian
def test_marian_states_behind_every_block(sizes, padding):
    """Both stacks. Packed pairs are left out, here and in the tests of loss, gradients and step:
    cross-attention has one mask (B, S) for a whole row, ours as well as Marian's, so a target
    packed behind another would read its neighbour's source: packing is not defined for pairs."""
    theirs = make_marian(*sizes)
    ours = from_hf(theirs)
    ids, mask, _ = make_batch(*sizes[4:6], padding)
    ids = ids.clamp(min=1)
    target = 1 + (ids.flip(0) * 3) % (sizes[4] - 1)
    target_mask = padding_mask(sizes[5], "none" if padding == "none" else "right")
    asked = dict(input_ids=ids, attention_mask=mask)
    asked |= dict(decoder_input_ids=target, decoder_attention_mask=target_mask)

    def run_ours():  # Marian counts places, so ours is told them
        memory = ours.encoder(ids, mask, positions=torch.arange(sizes[5]))
        ours.decoder(target, target_mask, memory=memory, memory_mask=mask)

    for side, real in (("encoder", mask), ("decoder", target_mask)):
        blocks = getattr(ours, side).blocks, getattr(theirs.model, side).layers
        gaps = gap_by_block(blocks[0], run_ours, blocks[1], lambda: theirs(**asked), real.bool())
        assert len(gaps) == sizes[0] and max(gaps) <= 1e-10, side


@every_marian
def test_marian_one_adamw_step(sizes):
    ours, theirs, (_, target), masks, (_, hidden), there = both_marians(sizes, "right")
    labels, counted = target.roll(-1, 1), masks[1].bool()
    losses = [shared_loss(x, labels, counted) for x in (ours.logits(hidden), there.logits)]
    assert gap_after_a_step(ours, theirs, *losses, marian_names(ours.config)) <= 1e-10


@every_marian
def test_marian_weights_go_both_ways(sizes):
    theirs = make_marian(*sizes)
    back = to_hf(from_hf(theirs), pad_token_id=0, eos_token_id=1, decoder_start_token_id=2)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name


def test_marian_greedy_translation_is_theirs():
    sizes = MARIANS[1]
    theirs = make_marian(*sizes)
    ids, mask, _ = make_batch(sizes[4], 10, "right")
    settings = dict(do_sample=False, num_beams=1, max_new_tokens=12, min_new_tokens=12)
    settings |= dict(eos_token_id=None, bad_words_ids=None, forced_eos_token_id=None)
    there = theirs.generate(ids, attention_mask=mask, **settings)
    here = write_greedily(from_hf(theirs), ids, 12, 2, mask)
    assert torch.equal(here, there[:, 1:])


def copy_block(theirs, ours, cross, generator):
    "Loud weights for a layer of torch's Transformer, and the same for ours."
    pairs = [("attention", "self_attn"), ("cross_attention", "multihead_attn")]
    for here, there in pairs[: 1 + cross]:
        copy_attention(getattr(theirs, there), getattr(ours, here), generator)
    pairs = [("norm_1", "norm1"), ("mlp.up", "linear1"), ("mlp.down", "linear2")]
    pairs += [("norm_cross", "norm2"), ("norm_2", "norm3")] if cross else [("norm_2", "norm2")]
    for here, there in pairs:
        for p in theirs.get_submodule(there).parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        ours.get_submodule(here).load_state_dict(theirs.get_submodule(there).state_dict())


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("cross", [False, True], ids=["encoder", "decoder"])
def test_blocks_are_those_of_torch(cross, activation, norm_first):
    switches = dict(norm="layer", norm_first=norm_first, activation=activation, gated=False)
    config = TransformerConfig(
        9, 9, 1, 4, 16, 24, **switches, positions="none", bias=True, eps=1e-5
    )
    generator = torch.Generator().manual_seed(3)
    kind = nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer
    theirs = kind(16, 4, 24, 0.0, activation, batch_first=True, norm_first=norm_first).double()
    ours = TransformerBlock(config, cross).double()
    copy_block(theirs, ours, cross, generator)
    x, memory = torch.randn(2, 2, 6, 16, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    seen, causal = visibility(6, 6, attention_mask=mask), visibility(6, 6, True)
    if cross:
        there = theirs(x, memory, tgt_mask=~causal, memory_key_padding_mask=mask == 0)
        here = ours(x, (causal, False), memory=memory, memory_visible=seen)
    else:
        there, here = theirs(x, src_key_padding_mask=mask == 0), ours(x, (seen, False))
    assert_close(here, there, atol=1e-10, rtol=0)


def copy_attention(theirs, ours, generator):
    "Loud weights for a MultiheadAttention, and the same for ours."
    for p in theirs.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.3
    for part, w, b in zip((ours.q, ours.k, ours.v), theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True):  # fmt: skip
        part.load_state_dict({"weight": w.detach(), "bias": b.detach()})
    ours.out.load_state_dict(theirs.out_proj.state_dict())


@pytest.mark.parametrize("n_kv_head", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_torch(n_kv_head, causal):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 7, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    k, v = torch.randn(2, 2, n_kv_head, 7, 8, generator=generator, dtype=torch.float64)
    visible = visibility(7, 7, causal)
    there = F.scaled_dot_product_attention(q, k, v, visible, enable_gqa=True)
    written = dot_product_attention(q, k, v, visible)[0]
    fused = fused_attention(q, k, v, None, True) if causal else fused_attention(q, k, v)
    slopes = [torch.autograd.grad(x.square().sum(), q)[0] for x in (there, written, fused)]
    for x in (written, fused):
        assert_close(x, there, atol=1e-12, rtol=0)
    for slope in slopes[1:]:
        assert_close(slope, slopes[0], atol=1e-11, rtol=0)


def test_multihead_attention_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    config = TransformerConfig(9, 9, 1, 4, 16, 24, bias=True)
    ours = Attention(config).double()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).double()
    copy_attention(theirs, ours, generator)
    x = torch.randn(2, 6, 16, generator=generator, dtype=torch.float64)
    memory = torch.randn(2, 9, 16, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    there = theirs(x, memory, memory, key_padding_mask=mask == 0)[0]
    assert_close(ours(x, memory, visibility(6, 9, attention_mask=mask)), there, atol=1e-12, rtol=0)
    there = theirs(x, x, x, attn_mask=~visibility(6, 6, True))[0]
    assert_close(ours(x, causal=True), there, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_norms_are_those_of_torch(size):
    generator = torch.Generator().manual_seed(0)
    x = size * (torch.randn(4, 5, 16, generator=generator, dtype=torch.float64) + 1)
    weight, bias = torch.randn(2, 16, generator=generator, dtype=torch.float64)
    there = F.layer_norm(x, (16,), weight, bias, 1e-5)
    assert_close(layer_norm(x, weight, bias), there, atol=1e-12, rtol=0)
    assert_close(layer_norm(x, weight), there - bias, atol=1e-12, rtol=0)
    assert_close(rms_norm(x, weight), F.rms_norm(x, (16,), weight, 1e-6), atol=1e-12, rtol=0)


def test_an_encoder_of_torch_is_a_stack_without_the_causal_mask():
    config = TransformerConfig(
        11, 9, 2, 2, 8, 12, norm="layer", activation="relu", gated=False, positions="none", bias=True, eps=1e-5,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(4)
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "relu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False).double()
    ours = Stack(config, causal=False).double()
    for there, here in zip(theirs.layers, ours.blocks, strict=True):
        copy_attention(there.self_attn, here.attention, generator)
        for a, b in (("norm1", "norm_1"), ("norm2", "norm_2"), ("linear1", "mlp.up"), ("linear2", "mlp.down")):  # fmt: skip
            here.get_submodule(b).load_state_dict(there.get_submodule(a).state_dict())
    ids = torch.randint(11, (2, 9), generator=generator)
    there = theirs(ours.embedding.token(ids))
    assert_close(ours(ids), there, atol=1e-10, rtol=0)
