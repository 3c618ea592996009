"""What the chapter on GPT promises beside equality: seeds, modes, edges, sampling, bits."""

import math

import numpy as np
import pytest
import torch

from llmchain.pretrain.gpt import (
    GPT,
    GPTConfig,
    KVCache,
    attend,
    attention,
    bigram_nats,
    bits_per_byte,
    causal_visibility,
    check_vocabulary,
    choose_precision,
    document_positions,
    from_hf_weights,
    generate,
    linear_probe,
    load_gpt,
    next_token_probabilities,
    penalize_repetition,
    stream_windows,
    token_nats,
    unigram_log_probabilities,
)

CONFIG = GPTConfig(vocab_size=19, block_size=12, n_layer=2, n_head=2, n_embd=16)


def batch(n=3, length=12, seed=0):
    return torch.randint(19, (n, length), generator=torch.Generator().manual_seed(seed))


def test_the_start_is_a_function_of_the_generator_alone():
    state = torch.get_rng_state()
    first, second = (GPT(CONFIG, torch.Generator().manual_seed(7)) for _ in range(2))
    torch.manual_seed(1)
    third = GPT(CONFIG, torch.Generator().manual_seed(7))
    for a, b, c in zip(first.parameters(), second.parameters(), third.parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    torch.set_rng_state(state)
    GPT(CONFIG)
    assert torch.equal(state, torch.get_rng_state()), "the global generator was used"


def test_the_start_has_the_written_deviations():
    model = GPT(GPTConfig(500, 64, 8, 2, 64))
    block = model.blocks[0]
    assert model.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for writes in (block.attention.out, block.mlp.down):
        assert writes.weight.std().item() == pytest.approx(0.02 / 16**0.5, rel=0.05)
    assert block.norm_1.weight.eq(1).all() and block.mlp.up.bias.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", ["attention_mask", "document_ids"])
def test_a_batch_of_only_padding_gives_numbers_and_finite_gradients(how, dtype):
    "A softmax over nothing would be nan; what stands at padding means nothing, and spoils nothing."
    model, ids = GPT(CONFIG).to(dtype), torch.zeros(2, 12, dtype=torch.long)
    given = {how: torch.full_like(ids, 0 if how == "attention_mask" else -1)}
    logits = model(ids, **given)
    logits.float().square().mean().backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(ValueError, match="prompt 0 must be padded on the left, and not whole"):
        generate(model.float(), ids, 2, attention_mask=torch.zeros_like(ids))


def test_the_first_loss_is_that_of_knowing_nothing():
    ids = batch(16)
    nats = torch.cat(token_nats(GPT(CONFIG), [{"input_ids": ids}])).mean().item()
    assert nats == pytest.approx(math.log(19), abs=0.1)


def test_the_head_is_the_embedding():
    model = GPT(CONFIG)
    assert not [name for name, _ in model.named_parameters() if "head" in name]
    hidden = torch.ones(1, 16)
    before = model.logits(hidden)[0, 5].item()
    model.token_embedding.weight.data[5] += 1
    assert model.logits(hidden)[0, 5].item() == pytest.approx(before + 16, abs=1e-3)


def test_dropout_is_silent_in_evaluation_and_loud_in_training():
    model = GPT(GPTConfig(19, 12, 2, 2, 16, dropout=0.5)).eval()
    ids = batch()
    with torch.random.fork_rng():
        assert torch.equal(model(ids), model(ids))
        model.train()
        assert not torch.equal(model(ids), model(ids))


def test_sampling_and_measuring_leave_the_mode_and_drop_nothing():
    model = GPT(GPTConfig(19, 12, 2, 2, 16, dropout=0.5))
    model.token_embedding.weight.data *= 30  # near-uniform answers would hide what is dropped
    for training in (True, False):
        model.train(training)
        first = generate(model, batch()[:, :3], 8, generator=torch.Generator().manual_seed(0))
        again = generate(model, batch()[:, :3], 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(first, again) and model.training is training
        nats = [token_nats(model, [{"input_ids": batch()}])[0] for _ in range(2)]
        assert torch.equal(*nats) and model.training is training


def test_sampling_goes_on_beyond_the_context():
    out = generate(GPT(CONFIG), batch(2, 5), 20, generator=torch.Generator().manual_seed(0))
    assert out.shape == (2, 25) and torch.equal(out[:, :5], batch(2, 5))


def test_sampled_frequencies_are_the_probabilities():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])

    class Fixed:
        "A model whose answer never changes."

        training = False
        config = GPTConfig(4, 4, 1, 1, 4)
        hidden = staticmethod(lambda ids, mask: torch.zeros(*ids.shape, 1))
        logits = staticmethod(lambda hidden: logits.expand(len(hidden), 4))
        eval = train = staticmethod(lambda *mode: None)

    out = generate(
        Fixed(), torch.zeros(20000, 1, dtype=torch.long), 1, temperature=0.5, cached=False
    )
    shares = out[:, 1].bincount(minlength=4) / 20000
    assert (shares - (logits[0] / 0.5).softmax(-1)).abs().max() < 0.02


@pytest.mark.parametrize(
    "bad", [dict(temperature=-1), dict(top_k=-1), dict(top_p=0), dict(top_p=2)]
)
def test_sampling_refuses_nonsense(bad):
    with pytest.raises(ValueError, match="needs temperature"):
        next_token_probabilities(torch.zeros(1, 4), **bad)


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="13 tokens given, block_size is 12"):
        GPT(CONFIG)(batch(1, 13))


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((10, 4, 1, 4, 30), "n_embd .30. must be a multiple of n_head .4."),
        ((10, 1, 1, 4, 32), "block_size must be at least 2"),
        ((0, 4, 1, 4, 32), "must be at least 1"),
        ((10, 4, 1, 4, 32, 1.5), "dropout must be"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(*sizes)


def test_padding_gives_no_nan_not_even_in_gradients():
    model = GPT(CONFIG)
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[0, :6] = 0
    model(batch(), mask)[mask.bool()].logsumexp(-1).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_each_token_sees_itself_and_what_is_before_it():
    visible = causal_visibility(5)
    assert visible.tolist() == [[s <= t for s in range(5)] for t in range(5)]


def test_written_out_is_the_fused_kernel():
    q, k, v = torch.randn(3, 2, 3, 7, 5, generator=torch.Generator().manual_seed(0)).double()
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert (attention(q, k, v, causal_visibility(7)) - fused).abs().max() < 1e-12


def in_bf16(n_keys=7, seed=0):
    "Queries, keys and values as a model makes them: bf16, and a gradient is wanted."
    draw = torch.Generator().manual_seed(seed)
    shapes = ((2, 3, 7, 16), (2, 3, n_keys, 16), (2, 3, n_keys, 16))
    return [torch.randn(shape, generator=draw).bfloat16().requires_grad_() for shape in shapes]


def no_kernel(monkeypatch):
    def never(*given, **how):
        raise AssertionError("the kernel was asked")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", never)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("case", ["causal", "padding", "nothing hidden", "more keys"])
def test_the_table_in_bf16_is_attention_with_its_gradients(monkeypatch, case, inside):
    no_kernel(monkeypatch)
    q, k, v = in_bf16(11 if case == "more keys" else 7)
    padding = torch.ones(2, 1, 1, k.size(2), dtype=torch.bool)
    padding[0, ..., 4:] = False
    visible = {"causal": causal_visibility(7), "nothing hidden": None}.get(case, padding)
    with torch.autocast("cpu", torch.bfloat16, enabled=inside):
        given = None if case == "causal" else visible
        mixed = attend(q, k, v, given, causal=case == "causal")
    assert mixed.dtype == torch.bfloat16
    truth = attention(*(t.double() for t in (q, k, v)), visible)
    for found, wanted in zip(
        (mixed, *torch.autograd.grad(mixed.float().square().sum(), (q, k, v))),
        (truth, *torch.autograd.grad(truth.square().sum(), (q, k, v))),
        strict=True,
    ):
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_the_table_gives_hidden_keys_no_weight_at_all():
    q, k, v = in_bf16()
    visible = torch.ones(7, 7, dtype=torch.bool)
    visible[:, 5:], visible[0] = False, False  # the first query sees nothing
    mixed = attend(q, k, v, visible)
    gradients = torch.autograd.grad(mixed[:, :, 1:].float().sum(), (k, v))
    assert mixed.isfinite().all() and all((g[:, :, 5:] == 0).all() for g in gradients)


def test_the_table_stays_narrow():
    kept, (q, k, v) = [], in_bf16()
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype), lambda t: t),
        torch.autocast("cpu", torch.bfloat16),
    ):
        attend(q, k, v, causal=True)
    assert kept and set(kept) == {torch.bfloat16}


def test_the_table_drops_weights_and_keeps_their_mean():
    torch.manual_seed(0)
    q, k, v = in_bf16()
    ones = torch.ones_like(v).requires_grad_()
    found = torch.stack([attend(q, k, ones, dropout=0.25).detach().float() for _ in range(300)])
    assert found.std() > 0.1 and abs(float(found.mean()) - 1) < 0.02


@pytest.mark.parametrize("case", ["fp32", "no gradient", "large"])
def test_the_kernel_is_asked_for_all_else(monkeypatch, case):
    no_kernel(monkeypatch)
    q, k, v = in_bf16()
    if case == "fp32":
        q, k, v = (t.detach().float().requires_grad_() for t in (q, k, v))
    if case == "large":
        monkeypatch.setattr("llmchain.pretrain.gpt.TABLE", 2 * 3 * 7 * 7 - 1)
    with (
        torch.set_grad_enabled(case != "no gradient"),
        pytest.raises(AssertionError, match="asked"),
    ):
        attend(*((t.detach() for t in (q, k, v)) if case == "no gradient" else (q, k, v)))


def test_padding_in_front_leaves_no_row_empty():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert causal_visibility(4, mask).any(-1).all()
    q, k, v = torch.randn(3, 2, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    assert attention(q, k, v, causal_visibility(4, mask)).isfinite().all()


def test_weights_of_one_give_the_mean_of_the_values():
    v = torch.randn(1, 1, 4, 3, generator=torch.Generator().manual_seed(0))
    same = torch.zeros(1, 1, 4, 3)
    out = attention(same, same, v, causal_visibility(4))
    expected = torch.stack([v[0, 0, : t + 1].mean(0) for t in range(4)])
    assert torch.allclose(out[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 6, 7, 8, 50])
def test_windows_predict_each_token_once(n):
    found = stream_windows(np.arange(1, n + 1), block_size=8, batch_size=3, first=0)
    predicted = torch.cat([w["input_ids"][:, 1:].flatten() for w in found])
    assert predicted.tolist() == list(range(1, n + 1))


def test_bits_per_byte():
    assert bits_per_byte(math.log(256) * 10, 10) == pytest.approx(8)
    with pytest.raises(ValueError, match="n_bytes"):
        bits_per_byte(1.0, 0)


def test_the_tables_are_probabilities_and_the_bigram_learns():
    stream = np.tile([0, 1, 2], 300)
    log_p = unigram_log_probabilities(stream, 5)
    assert np.exp(log_p).sum() == pytest.approx(1)
    total = sum(math.exp(-bigram_nats(stream, np.array([b]), 5, 1, 2.0)) for b in range(5))
    assert total == pytest.approx(1)
    assert bigram_nats(stream, stream, 5, 2, 1.0) / len(stream) < 0.05 < -log_p[0]


def test_missing_weights_are_named():
    with pytest.raises(ValueError, match="1 weights are missing: .'b'."):
        from_hf_weights({"a": torch.ones(1)}, {"x": ("a", "b")})


def test_precision_is_what_was_asked_for():
    assert choose_precision("bf16") == "bf16" and choose_precision("fp32") == "fp32"
    assert choose_precision("auto") in ("fp32", "bf16")


def test_positions_begin_again_with_every_document():
    ids = torch.tensor([[0, 0, 0, 1, 1, -1], [5, 7, 7, 7, 2, 2]])
    assert document_positions(ids).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 0, 1]]


def test_another_document_changes_nothing():
    model, ids = GPT(CONFIG).eval(), batch(1)
    which = torch.tensor([[0] * 5 + [1] * 7])
    changed = ids.clone()
    changed[0, :5] = (ids[0, :5] + 1) % 19
    with torch.no_grad():
        before, after = (model(x, document_ids=which)[0] for x in (ids, changed))
    assert torch.equal(before[5:], after[5:]) and not torch.equal(before[:5], after[:5])


def test_two_ways_to_say_what_is_seen_are_refused():
    mask = torch.ones(3, 12, dtype=torch.long)
    with pytest.raises(ValueError, match="document_ids go with no attention_mask"):
        GPT(CONFIG)(batch(), mask, document_ids=mask)


def test_a_cache_refuses_more_than_its_room():
    k = torch.zeros(1, 1, 3, 2)
    cache = KVCache(4)
    cache.append(k, k)
    with pytest.raises(ValueError, match="6 tokens do not fit into 4"):
        cache.append(k, k)
    model = GPT(CONFIG)
    caches = model.new_cache()
    model.hidden(batch(1, 10), cache=caches)
    with pytest.raises(ValueError, match="13 tokens given, block_size is 12"):
        model.hidden(batch(1, 3), cache=caches)


def test_the_cache_saves_work(monkeypatch):
    model, seen = GPT(CONFIG).eval(), []
    forward = model.blocks[0].forward
    monkeypatch.setattr(
        model.blocks[0],
        "forward",
        lambda x, *a, **kw: seen.append(x.size(1)) or forward(x, *a, **kw),
    )
    generate(model, batch(1, 4), 6)
    assert seen == [4, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "mask, says",
    [
        ([[1, 1, 1, 1]], r"is \(1, 4\), must be \(2, 4\)"),
        ([[1, 1, 1, 1], [1, 1, 0, 0]], "prompt 1 must be padded on the left"),
        ([[1, 0, 1, 1], [1, 1, 1, 1]], "prompt 0 must be padded on the left"),
        ([[0, 0, 0, 0], [1, 1, 1, 1]], "prompt 0 must be padded on the left, and not whole"),
    ],
)
def test_a_mask_that_leaves_nothing_to_continue_is_refused(mask, says):
    with pytest.raises(ValueError, match=says):
        generate(GPT(CONFIG), batch(2, 4), 1, attention_mask=torch.tensor(mask))
    with pytest.raises(ValueError, match=r"is \(2, 3\), must be \(2, 4\)"):
        GPT(CONFIG)(batch(2, 4), torch.ones(2, 3))


def test_padding_is_not_penalized():
    class Fixed:
        "Likes the padding token best, then 1 and 2."

        training = False
        config = GPTConfig(4, 8, 1, 1, 4)
        hidden = staticmethod(lambda ids, mask: torch.zeros(*ids.shape, 1))
        logits = staticmethod(lambda hidden: torch.tensor([[3.0, 2.5, 2.0, 0.0]]))
        eval = train = staticmethod(lambda *mode: None)

    mask = torch.tensor([[0, 0, 1]])
    ids = torch.tensor([[0, 0, 1]])
    how = dict(temperature=0, repetition_penalty=2.0, cached=False, attention_mask=mask)
    assert generate(Fixed(), ids, 2, **how).tolist() == [[0, 0, 1, 0, 2]]


def test_settings_are_refused_before_the_first_token():
    model = GPT(CONFIG)
    with pytest.raises(ValueError, match="top_p=1.5"):
        generate(model, batch(1, 4), 0, temperature=0, top_p=1.5)


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.nan])
def test_a_penalty_that_cannot_be_meant_is_refused(penalty):
    with pytest.raises(ValueError, match="repetition_penalty must be above 0"):
        generate(GPT(CONFIG), batch(1, 4), 1, repetition_penalty=penalty)


def test_the_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    logits = torch.tensor([[3.0, -3.0, 1.0, 0.0]])
    found = penalize_repetition(logits, torch.tensor([[0, 0, 1]]), 2.0)
    assert found.tolist() == [[1.5, -6.0, 1.0, 0.0]]


@pytest.mark.parametrize("n", [18, 20])
def test_a_tokenizer_of_another_model_is_refused(n):
    check_vocabulary(19, CONFIG.vocab_size)
    with pytest.raises(ValueError, match=f"the tokenizer knows {n} tokens, the model 19"):
        check_vocabulary(n, CONFIG.vocab_size)


def test_the_probe_finds_a_line_and_learns_nothing_from_the_judged():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator) * torch.tensor([1.0, 50, 1, 1, 1e-3, 1]) + 3
    y = (x[:, 0] + x[:, 4] * 1e3 > x.mean(0)[0] + 3e3).long()  # both columns, after scaling
    right = linear_probe(x[:300], y[:300], x[300:], y[300:])
    assert right.double().mean() > 0.9
    noise = torch.randint(2, (400,), generator=generator)
    guessed = linear_probe(x[:300], noise[:300], x[300:], noise[300:]).double().mean()
    assert abs(guessed - 0.5) < 0.2
    alone = torch.cat(
        [linear_probe(x[:300], y[:300], x[i : i + 1], y[i : i + 1]) for i in range(300, 310)]
    )
    assert torch.equal(alone, right[:10]), "a judged row does not depend on the other judged ones"


def test_a_repeated_token_is_penalized_when_written():
    "A model that always wants token 3, then 5: with a penalty it takes each once, then the next."

    class Fixed:
        training = False
        config = GPTConfig(8, 8, 1, 1, 4)
        hidden = staticmethod(lambda ids, mask: torch.zeros(*ids.shape, 1))
        logits = staticmethod(lambda h: torch.tensor([[0, 0, 0, 4.0, 0, 3.0, 2.5, 0]]).expand(len(h), 8))  # fmt: skip
        eval = train = staticmethod(lambda *mode: None)

    out = generate(Fixed(), torch.tensor([[0]]), 3, 0.0, repetition_penalty=10.0, cached=False)
    assert out.tolist() == [[0, 3, 5, 6]]


# ---------------------------------------------------------------- a folder of somebody else's


def saved_gpt(folder, **more):
    "GPT-2 as transformers saves it, with a tokenizer of 19 tokens beside it."
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 19, "n_positions": 12, "n_layer": 2, "n_head": 2, "n_embd": 16}
    theirs = GPT2LMHeadModel(GPT2Config(**sizes | more)).eval()
    theirs.save_pretrained(folder)
    words = {f"w{n}": n for n in range(19)}
    Tokenizer(models.WordLevel(words, "w0")).save(str(folder / "tokenizer.json"))
    return theirs


@pytest.mark.parametrize("more", [{}, {"vocab_size": 128}], ids=["own", "padded"])
def test_a_folder_of_transformers_is_read(tmp_path, more):
    theirs, ids = saved_gpt(tmp_path, **more), batch()
    with torch.inference_mode():
        assert (load_gpt(tmp_path)(ids) - theirs(ids).logits).abs().max() < 1e-5


def test_names_without_their_prefix_are_read_as_well(tmp_path):
    "As the first GPT-2 was published."
    from safetensors.torch import load_file, save_file

    theirs, ids, file = saved_gpt(tmp_path), batch(), tmp_path / "model.safetensors"
    bare = {n.removeprefix("transformer."): w.half() for n, w in load_file(file).items()}
    save_file(bare, file)
    model = load_gpt(str(tmp_path))
    assert {p.dtype for p in model.parameters()} == {torch.float32} and not model.training
    with torch.inference_mode():
        assert (model(ids) - theirs(ids).logits).abs().max() < 1e-2


@pytest.mark.parametrize(
    ("vocab_size", "refused"), [(18, True), (19, False), (146, False), (147, True)]
)
def test_a_tokenizer_in_the_folder_must_be_its_own(tmp_path, vocab_size, refused):
    "Fewer rows than tokens, or more than padding explains."
    saved_gpt(tmp_path, vocab_size=vocab_size)
    if not refused:
        assert load_gpt(tmp_path).config.vocab_size == vocab_size
        return
    with pytest.raises(ValueError, match=f"knows 19 tokens, the model {vocab_size}; take the"):
        load_gpt(tmp_path)


def test_a_folder_that_is_not_what_it_says_is_one_line(tmp_path):
    import json

    saved_gpt(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong, says in [
        ({"n_positions": 24}, "is .12, 16. in model.safetensors, config.json asks for .24, 16.;"),
        ({"n_layer": 3}, "12 weights are missing"),
        ({"activation_function": "relu"}, "needs gelu_new"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config | wrong))
        with pytest.raises(ValueError, match=says) as told:
            load_gpt(tmp_path)
        assert "\n" not in str(told.value)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pytorch_model.bin is a pickle and may run code"):
        load_gpt(tmp_path)
