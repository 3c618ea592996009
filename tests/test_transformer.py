"""What the chapter on the Transformer promises beside equality: masks, places, cache, edges, counts."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from llmchain.pretrain.gpt import generate
from llmchain.pretrain.objectives import Seq2SeqObjective, number_documents, shift_right
from llmchain.pretrain.transformer import (
    Decoder,
    EncoderDecoder,
    KVCache,
    Stack,
    TransformerBlock,
    TransformerConfig,
    attention_maps,
    cache_bytes,
    count_flops,
    count_pair_flops,
    count_pair_parameters,
    count_parameters,
    dot_product_attention,
    from_hf,
    fused_attention,
    generate_cached,
    masked_softmax,
    rotate,
    rotation_table,
    shared_heads,
    sinusoids,
    softmax_saturation,
    to_hf,
    token_positions,
    visibility,
    write_greedily,
)

CONFIG = TransformerConfig(19, 16, 2, 4, 32, 40, n_kv_head=2)
CLASSIC = replace(
    CONFIG, n_kv_head=0, norm="layer", norm_first=False, activation="gelu", gated=False,
    positions="learned", bias=True,
)  # fmt: skip
EVERY = [
    CONFIG,
    CLASSIC,
    replace(CONFIG, qk_norm=True, tied=False),
    replace(CONFIG, positions="sinusoid", scale_embedding=True),
    replace(CONFIG, positions="none", activation="relu", bias=True),
]


def batch(n=3, length=12, seed=0):
    return torch.randint(19, (n, length), generator=torch.Generator().manual_seed(seed))


def loud(kind, config):
    "A model whose weights are large enough for a difference to be seen, in fp64."
    generator = torch.Generator().manual_seed(1)
    model = kind(config).double().eval()
    for p in model.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return model


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ── attention ─────────────────────────────────────────────────────────────────────────────────


def test_scores_of_unit_vectors_have_unit_variance():
    for head_dim in (4, 64, 1024):
        q, k = normal(1, 1, 400, head_dim), normal(1, 1, 32, head_dim, seed=1)
        weights = dot_product_attention(q, k, k)[1]
        spread = weights.log().std(-1).mean().item()  # log w = score − a constant of the row
        assert spread == pytest.approx(1.0, abs=0.15)


def test_rows_sum_to_one_and_columns_need_not():
    q, k, v = normal(3, 2, 4, 5, 8)
    weights = dot_product_attention(q, k, v)[1]
    assert_close(weights.sum(-1), torch.ones(2, 4, 5, dtype=torch.float64))
    assert (weights.sum(-2) - 1).abs().max() > 0.1


@pytest.mark.parametrize("attend", [fused_attention, lambda *a: dot_product_attention(*a)[0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_query_that_sees_nothing_gets_nothing(attend, dtype):
    q, k, v = (x.to(dtype).requires_grad_() for x in normal(3, 2, 2, 4, 8))
    visible = visibility(4, 4, True, torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]]))
    mixed = attend(q, k, v, visible)
    assert mixed[0, :, :2].eq(0).all() and mixed[1].eq(0).all() and mixed[0, :, 2:].ne(0).any()
    mixed.square().sum().backward()
    for x in (q, k, v):
        assert x.grad.isfinite().all() and x.grad[1].eq(0).all()


def test_hidden_keys_have_no_influence():
    q, k, v = normal(3, 1, 2, 4, 8)
    visible = visibility(4, 4, attention_mask=torch.tensor([[1, 1, 1, 0]]))
    before = fused_attention(q, k, v, visible)
    k[:, :, 3], v[:, :, 3] = 1e6, -1e6
    assert_close(before, fused_attention(q, k, v, visible), atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 1, 4, 5), (1, 1, 1, 4, 4)])
def test_a_mask_of_the_wrong_shape_is_refused(shape):
    q, k, v = normal(3, 3, 2, 4, 8)
    for attend in (fused_attention, dot_product_attention):
        with pytest.raises(
            ValueError, match=r"attention: visible must be bool and broadcast to \(3, 2, 4, 4\)"
        ):
            attend(q, k, v, torch.ones(shape, dtype=torch.bool))


def test_a_mask_that_is_no_bool_is_refused():
    with pytest.raises(ValueError, match="must be bool .* got int64"):
        masked_softmax(normal(1, 1, 2, 2), torch.ones(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="causal stands alone and needs as many queries as keys"):
        fused_attention(normal(1, 1, 2, 8), normal(1, 1, 3, 8), normal(1, 1, 3, 8), causal=True)


def test_neighbouring_heads_share_keys():
    x = torch.arange(2.0)[None, :, None, None].expand(1, 2, 3, 4)
    assert shared_heads(x, 6)[0, :, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(shared_heads(x, 2), x)


def test_saturation_needs_the_root():
    for scaled in (True, False):
        values = [
            softmax_saturation(d, 16, scaled, torch.Generator().manual_seed(0)) for d in (2, 512)
        ]
        (entropy_2, slope_2), (entropy_512, slope_512) = values
        if scaled:
            assert abs(entropy_2 - entropy_512) < 0.3
        else:
            assert entropy_512 < 0.3 < entropy_2 and slope_512 < slope_2


# ── masks and places ──────────────────────────────────────────────────────────────────────────


def test_visibility_written_out():
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    documents = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]])
    for T in (1, 2, 4):
        visible = visibility(T, 4, True, mask, documents)
        assert visible.shape == (2, 1, T, 4)
        for b in range(2):
            for t in range(T):
                for s in range(4):
                    place = 4 - T + t
                    want = (
                        s <= place and bool(mask[b, s]) and documents[b, s] == documents[b, place]
                    )
                    assert visible[b, 0, t, s] == want, (T, b, t, s)


@pytest.mark.parametrize("name", ["attention_mask", "documents"])
@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 1, 1, 4)])
def test_visibility_refuses_masks_of_the_wrong_shape(name, shape):
    with pytest.raises(ValueError, match=rf"visibility: {name} must be \(B, 4\), got"):
        visibility(4, 4, **{name: torch.ones(shape)})


def test_places_count_tokens_of_each_text():
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 2]])
    assert token_positions(7, mask, documents).tolist() == [[0, 0, 0, 1, 0, 1, 0]]
    assert token_positions(7, mask).tolist() == [[0, 0, 0, 1, 2, 3, 4]]
    assert token_positions(7, None, documents).tolist() == [[0, 1, 2, 3, 0, 1, 0]]
    assert token_positions(3).tolist() == [0, 1, 2]


def test_rotation_is_a_product_of_complex_numbers():
    x, at = normal(1, 1, 3, 8), torch.tensor([0, 5, 11])
    theta = 100.0 ** (-torch.arange(0, 8, 2).double() / 8)
    turn = torch.polar(torch.ones(3, 4).double(), at[:, None] * theta)
    wanted = torch.complex(x[..., :4], x[..., 4:]) * turn
    found = rotate(x, *rotation_table(at, 8, 100.0, torch.float64))
    assert_close(torch.complex(found[..., :4], found[..., 4:]), wanted, atol=1e-12, rtol=0)


def test_scores_depend_on_the_distance_alone():
    q, k = normal(1, 1, 1, 16), normal(1, 1, 1, 16, seed=1)

    def score(m, n):
        a, b = (
            rotate(x, *rotation_table(torch.tensor([p]), 16, dtype=torch.float64))
            for x, p in ((q, m), (k, n))
        )
        return (a * b).sum().item()

    assert score(9, 4) == pytest.approx(score(109, 104), abs=1e-10)
    assert score(9, 4) != pytest.approx(score(4, 9), abs=1e-3), "before and after differ"


def test_sinusoids_written_out():
    table = sinusoids(7, 5)
    for place in range(7):
        for i in range(3):
            assert table[place, i].item() == pytest.approx(
                math.sin(place / 10000 ** (2 * i / 5)), abs=1e-6
            )
        for i in range(2):
            assert table[place, 3 + i].item() == pytest.approx(
                math.cos(place / 10000 ** (2 * i / 5)), abs=1e-6
            )


# ── configurations ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_embd": 30}, "n_embd (30) must be a multiple of n_head (4)"),
        ({"n_head": 0}, "n_head (0)"),
        ({"n_kv_head": 3}, "n_head (4) must be a multiple of n_kv_head (3)"),
        ({"n_kv_head": 8}, "n_head (4) must be a multiple of n_kv_head (8)"),
        ({"n_kv_head": -2}, "n_kv_head (-2)"),
        ({"n_embd": 12}, "the width of a head (3) must be even"),
        ({"norm": "batch"}, "norm must be one of: rms, layer; got batch"),
        ({"activation": "tanh"}, "activation must be one of: relu, gelu, gelu_new, silu; got tanh"),
        ({"positions": "alibi"}, "positions must be one of"),
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"dropout": 1.0}, "dropout must be from 0 to under 1, got 1.0"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError) as error:
        replace(CONFIG, **change)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_all_problems_in_one_line():
    with pytest.raises(ValueError, match="multiple of n_head.*n_inner.*norm must be"):
        TransformerConfig(19, 16, 2, 4, 30, 0, norm="batch")


@pytest.mark.parametrize("config", EVERY)
def test_counts_are_those_of_the_model(config):
    model, ids = Decoder(config), batch()
    assert sum(p.numel() for p in model.parameters()) == sum(count_parameters(config).values())
    parts = count_parameters(config)
    blocks = [p for name, p in model.named_parameters() if "attention" in name]
    assert parts["attention"] == sum(p.numel() for p in blocks)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(ids)
    assert counter.get_total_flops() == sum(count_flops(config, 3, 12).values())


@pytest.mark.parametrize("config", [c for c in EVERY if c.tied])
def test_counts_of_a_pair_are_those_of_the_model(config):
    "Source and target of unequal length, so that no two of the products are alike."
    model = EncoderDecoder(config)
    source, target = batch(3, 12), batch(3, 5)
    parts = count_pair_parameters(config)
    assert sum(p.numel() for p in model.parameters()) == sum(parts.values())
    crossing = [p for name, p in model.named_parameters() if "cross_attention" in name]
    assert parts["cross-attention"] == sum(p.numel() for p in crossing)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(source, target)
    assert counter.get_total_flops() == sum(count_pair_flops(config, 3, 12, 5).values())


def test_operations_of_a_pair_seen_by_hooks():
    seen = {"self": 0, "cross": 0}

    def note(which, module, given, result):
        seen[which] += 2 * module.weight.numel() * given[0].numel() // module.in_features

    model = EncoderDecoder(CONFIG)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            which = "cross" if "cross_attention" in name else "self"
            module.register_forward_hook(partial(note, which))
    model(batch(3, 12), batch(3, 5))
    counted = count_pair_flops(CONFIG, 3, 12, 5)
    assert seen["self"] == counted["projections"] + counted["mlp"]
    assert seen["cross"] == counted["cross projections"]


def test_operations_seen_by_hooks():
    seen = []

    def note(module, given, result):
        seen.append(2 * module.weight.numel() * given[0].numel() // module.in_features)

    model = Decoder(replace(CONFIG, tied=False))
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not model.head:
            module.register_forward_hook(note)
    model(batch())
    counted = count_flops(model.config, 3, 12)
    assert sum(seen) == counted["projections"] + counted["mlp"]
    assert counted["head"] == 2 * model.head.weight.numel() * 36


def test_cache_bytes_are_those_of_a_cache():
    model, cache = Decoder(CONFIG), KVCache(2)
    model(batch(3, 5), cache=cache)
    held = [c for layer in cache.layers for c in (layer[0].k, layer[0].v)]
    assert sum(x.numel() * x.element_size() for x in held) == cache_bytes(CONFIG, 15, 4)


# ── models ────────────────────────────────────────────────────────────────────────────────────


def test_the_start_is_a_function_of_the_generator_alone():
    for kind in (Decoder, EncoderDecoder):
        state = torch.get_rng_state()
        first = kind(CONFIG, torch.Generator().manual_seed(7))
        assert torch.equal(state, torch.get_rng_state()), "the global generator was used"
        with torch.random.fork_rng():
            torch.manual_seed(3)
            second = kind(CONFIG, torch.Generator().manual_seed(7))
        assert all(
            torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
        )


@pytest.mark.parametrize("config", EVERY)
def test_the_first_loss_is_that_of_knowing_nothing(config):
    if config.scale_embedding:
        config = replace(config, scale_embedding=False)
    nats = (
        -Decoder(config)(batch(16)).log_softmax(-1).gather(-1, batch(16, seed=9)[..., None]).mean()
    )
    assert nats.item() == pytest.approx(math.log(19), abs=0.2)


@pytest.mark.parametrize("config", EVERY)
def test_the_future_changes_nothing(config):
    model, ids = loud(Decoder, config), batch()
    with torch.no_grad():
        for mask in (None, torch.ones_like(ids)):
            before = model(ids, mask)
            for t in range(ids.size(1)):
                changed = ids.clone()
                changed[:, t] = (ids[:, t] + 1) % 19
                moved = (model(changed, mask) - before).abs()
                assert moved[:, :t].eq(0).all() and moved[:, t].max() > 1e-3


def test_an_encoder_sees_both_sides():
    model, ids = loud(lambda c: Stack(c, causal=False), CONFIG), batch()
    with torch.no_grad():
        before = model(ids)
        moved = (model(ids.index_fill(1, torch.tensor([11]), 3)) - before).abs().amax(-1)
    assert moved[:, 0].max() > 1e-6


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("config", EVERY)
def test_padding_moves_nothing(config, side):
    model, ids = loud(Decoder, config), batch(1, 7)
    noise, ones = batch(1, 4, seed=5), torch.ones(1, 7, dtype=torch.long)
    parts = [(noise, torch.zeros_like(noise)), (ids, ones)]
    parts = parts if side == "left" else parts[::-1]
    where = slice(4, None) if side == "left" else slice(0, 7)
    padded, mask = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    with torch.no_grad():
        assert_close(model(padded, mask)[:, where], model(ids), atol=1e-10, rtol=0)


@pytest.mark.parametrize("config", EVERY)
def test_packing_moves_nothing(config):
    model, texts = loud(Decoder, config), [batch(1, n, seed=n).clamp(min=1) for n in (3, 5, 4)]
    texts = [torch.cat([text, torch.zeros(1, 1, dtype=torch.long)], dim=1) for text in texts]
    row = torch.cat(texts, dim=1)
    with torch.no_grad():
        together = model(row, documents=number_documents(row, 0))
        alone = torch.cat([model(text) for text in texts], dim=1)
        assert_close(together, alone, atol=1e-10, rtol=0)
        assert (model(row) - alone).abs().max() > 1e-3


def test_a_batch_of_only_padding_gives_numbers_and_gradients():
    for kind in (Decoder, EncoderDecoder):
        model, ids, mask = kind(CONFIG), batch(), torch.zeros(3, 12)
        logits = model(ids, mask) if kind is Decoder else model(ids, ids, mask, mask)
        logits.square().sum().backward()
        assert logits.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 6], [11, 1]])
@pytest.mark.parametrize("config", EVERY)
def test_a_cache_changes_nothing(config, pieces):
    model, ids, cache = loud(Decoder, config), batch(), KVCache(2)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in ids.split(pieces, dim=1)]
        assert_close(torch.cat(parts, dim=1), model(ids), atol=1e-10, rtol=0)
    assert len(cache) == 12


def test_a_cache_with_padding_in_front_changes_nothing():
    model, ids, cache = loud(Decoder, CONFIG), batch(), KVCache(2)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    with torch.no_grad():
        parts = [model(ids[:, a:b], mask[:, :b], cache=cache) for a, b in ((0, 6), (6, 7), (7, 12))]
        gap = (torch.cat(parts, dim=1) - model(ids, mask))[mask.bool()].abs().max()
    assert gap < 1e-10


def test_generation_with_a_cache_is_generation_without():
    model, ids = loud(Decoder, CONFIG), batch(3, 6)
    assert torch.equal(
        generate_cached(model, ids, 10), generate(model, ids, 10, temperature=0, cached=False)
    )
    draws = [
        generate_cached(model, ids, 10, None, 1.0, torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert (
        not model.training and generate_cached(model.train(), ids, 1) is not None and model.training
    )


def test_generation_refuses_what_does_not_fit():
    model = Decoder(CONFIG)
    with pytest.raises(ValueError, match="generate_cached: n_new must be at least 1, got 0"):
        generate_cached(model, batch(), 0)
    with pytest.raises(ValueError, match="Transformer: 17 tokens given, block_size is 16"):
        generate_cached(model, batch(), 6)
    with pytest.raises(ValueError, match="17 tokens given"):
        model(batch(1, 17))


@pytest.mark.parametrize("config", EVERY[:2])
def test_the_decoder_reads_its_source(config):
    model, source, target = loud(EncoderDecoder, config), batch(), batch(3, 9, seed=2)
    mask = torch.ones_like(source)
    mask[:, 8:] = 0
    with torch.no_grad():
        before = model(source, target, mask)
        hidden = source.clone()
        hidden[:, 8:] = 1
        assert_close(model(hidden, target, mask), before, atol=1e-12, rtol=0)
        moved = (model(source.index_fill(1, torch.tensor([7]), 3), target, mask) - before).abs()
        assert moved[:, 0].max() > 1e-3, "the first target token sees the last source token"
        later = (model(source, target.index_fill(1, torch.tensor([5]), 3), mask) - before).abs()
        assert later[:, :5].eq(0).all() and later[:, 5:].max() > 1e-3


@pytest.mark.parametrize("config", EVERY[:2])
def test_writing_with_a_cache_is_writing_without(config):
    model, source = loud(EncoderDecoder, config), batch()
    mask = torch.ones_like(source)
    mask[1, 7:] = 0
    written = write_greedily(model, source, 8, 1, mask)
    target = torch.full((3, 1), 1)
    with torch.no_grad():
        for _ in range(8):
            best = model(source, target, mask)[:, -1:].argmax(-1)
            target = torch.cat([target, best], dim=1)
    assert torch.equal(written, target[:, 1:])


def test_a_memory_goes_where_it_belongs():
    with pytest.raises(ValueError, match="a stack with cross=False takes no memory"):
        Stack(CONFIG, causal=True)(batch(), memory=normal(3, 4, 32).float())
    with pytest.raises(ValueError, match="a stack with cross=True needs memory"):
        Stack(CONFIG, causal=True, cross=True)(batch())
    with pytest.raises(ValueError, match="tied=False is no choice"):
        EncoderDecoder(replace(CONFIG, tied=False))


def test_norms_stand_where_the_switch_says():
    x = 100 * normal(2, 5, 32).float()
    for norm_first in (True, False):
        block = TransformerBlock(replace(CONFIG, norm_first=norm_first))
        size = block(x).square().mean(-1).sqrt().mean().item()
        assert (size > 50) if norm_first else size == pytest.approx(1.0, abs=0.05)


def test_tied_and_untied():
    tied, untied = Decoder(CONFIG), Decoder(replace(CONFIG, tied=False))
    for model, moves in ((tied, True), (untied, False)):
        hidden = torch.ones(1, 32)
        before = model.logits(hidden)[0, 5].item()
        model.stack.embedding.token.weight.data[5] += 1
        assert (abs(model.logits(hidden)[0, 5].item() - before) > 1) == moves


def test_dropout_is_silent_in_evaluation_and_loud_in_training():
    model, ids = Decoder(replace(CONFIG, dropout=0.5)).eval(), batch()
    with torch.random.fork_rng():
        assert torch.equal(model(ids), model(ids))
        model.train()
        assert not torch.equal(model(ids), model(ids))


def test_maps_are_the_weights_and_leave_no_hooks():
    model, ids = loud(Decoder, CONFIG), batch()
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    for given in ((ids,), (ids, mask)):
        maps = attention_maps(model, *given)
        assert list(maps) == ["stack.blocks.0.attention", "stack.blocks.1.attention"]
        for table in maps.values():
            assert table.shape == (3, 4, 12, 12) and table.triu(1).eq(0).all()
    assert maps["stack.blocks.0.attention"][0, :, :, :2].eq(0).all()
    assert not any(m._forward_pre_hooks for m in model.modules())
    first = model.stack.blocks[0]
    x = first.norm_1(model.stack.embedding(ids, torch.arange(12)))
    turn = rotation_table(torch.arange(12), 8)
    v = shared_heads(first.attention.keys_values(x, turn)[1], 4)
    mixed = attention_maps(model, ids)["stack.blocks.0.attention"] @ v
    wanted = first.attention(x, causal=True, rotation=turn)  # by the fused kernel
    assert_close(first.attention.out(mixed.transpose(1, 2).flatten(2)), wanted, atol=1e-10, rtol=0)


def test_the_objective_counts_only_what_is_asked():
    model, objective = loud(EncoderDecoder, CONFIG), Seq2SeqObjective()
    source, labels = batch(), batch(3, 6, seed=4)
    labels[1, 3:] = -100
    given = {"input_ids": source, "labels": labels, "decoder_input_ids": shift_right(labels, 1, 0)}
    logits = model(source, given["decoder_input_ids"])
    wanted = sum(-logits[b, t].log_softmax(-1)[labels[b, t]] for b in range(3) for t in range(6) if labels[b, t] >= 0)  # fmt: skip
    assert_close(objective.sums(model, given)["seq2seq"], wanted, atol=1e-9, rtol=0)


# ── the library ───────────────────────────────────────────────────────────────────────────────


def test_what_ours_does_not_compute_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    sizes = dict(vocab_size=19, hidden_size=16, intermediate_size=24, num_hidden_layers=1)
    sizes |= dict(num_attention_heads=2, max_position_embeddings=8)
    bad = LlamaForCausalLM(LlamaConfig(**sizes, attention_bias=True, head_dim=16))
    with pytest.raises(ValueError, match=r"attention_bias True \(only False\); head_dim·heads 32"):
        from_hf(bad)
    with pytest.raises(
        ValueError, match="model_type must be one of: llama, qwen3, marian; got gpt2"
    ):
        from_hf(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9)))
    with pytest.raises(ValueError, match="to_hf: cannot compute norm 'layer'"):
        to_hf(Decoder(CLASSIC))
    with pytest.raises(ValueError, match="to_hf: cannot compute .*positions 'rope'"):
        to_hf(EncoderDecoder(CONFIG))


def test_bf16_runs():
    model = Decoder(CONFIG).to(torch.bfloat16)
    mask = torch.ones(3, 12)
    mask[0, :4] = 0
    assert model(batch(), mask).isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("config", EVERY)
def test_a_gpu_computes_the_same(config):
    model, ids = Decoder(config).eval(), batch()
    mask = torch.ones_like(ids)
    mask[0, :4], mask[2] = 0, 0
    with torch.no_grad():
        here = model(ids, mask)
        there = model.cuda()(ids.cuda(), mask.cuda()).cpu()
        again = generate_cached(model, ids.cuda(), 3, mask.cuda()).cpu()
    assert_close(there[mask.bool()], here[mask.bool()], atol=1e-4, rtol=0)
    assert there.isfinite().all() and again.shape == (3, 15)
