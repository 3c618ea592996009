"""Our GPT next to GPT2LMHeadModel of transformers: same weights, fp64, no dropout."""

import pytest
import torch
from side_by_side import gap_after_a_step, gap_by_block, gradient_gap, loud, padding_mask, states_of
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from llmchain.pretrain.gpt import (
    GPT,
    GPT_TRANSPOSED,
    GPTConfig,
    generate,
    gpt_names,
    initialize,
    next_token_probabilities,
    penalize_repetition,
)
from llmchain.pretrain.objectives import CausalObjective, causal_lm_sums

SIZES = [(1, 1, 8, 11, 5), (2, 4, 32, 97, 24), (3, 2, 48, 211, 16)]  # layers, heads, C, V, block
PADDINGS = ["none", "right", "left"]


def make_reference(n_layer, n_head, n_embd, vocab_size, block_size):
    sizes = dict(n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    sizes |= dict(vocab_size=vocab_size, n_positions=block_size, bos_token_id=0, eos_token_id=0)
    silent = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return loud(GPT2LMHeadModel, GPT2Config(**silent, **sizes))


def make_batch(vocab_size, block_size, padding, seed=1):
    "Three texts of different lengths, padded on the side asked for."
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocab_size, (3, block_size), generator=generator)
    mask = padding_mask(block_size, padding)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return ids, mask, positions


def shared_loss(logits, ids, mask):
    "Mean of −ln p over predicted tokens, in the precision of the logits, the same for both sides."
    predicted = (mask[:, 1:] * mask[:, :-1]).bool()
    log_p = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return -log_p[predicted].mean()


def both(sizes, padding):
    reference = make_reference(*sizes)
    ours = GPT.from_hf(reference)
    ids, mask, positions = make_batch(*sizes[3:], padding)
    if padding == "none":
        return ours, reference, ids, mask, ours(ids), reference(ids).logits
    theirs = reference(ids, attention_mask=mask, position_ids=positions).logits
    return ours, reference, ids, mask, ours(ids, mask), theirs


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sizes", SIZES)
def test_logits(sizes, padding):
    _, _, _, mask, ours, theirs = both(sizes, padding)
    assert ours.dtype == torch.float64
    gap = (ours - theirs)[mask.bool()].abs().max().item()
    print(f"max |Δlogits| = {gap:.1e}")
    assert gap <= 1e-10


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sizes", SIZES)
def test_hidden_states_behind_every_block(sizes, padding):
    reference = make_reference(*sizes)
    ours = GPT.from_hf(reference)
    ids, mask, positions = make_batch(*sizes[3:], padding)
    runs = (lambda: ours(ids), lambda: reference(ids))
    if padding != "none":
        given = dict(attention_mask=mask, position_ids=positions)
        runs = (lambda: ours(ids, mask), lambda: reference(ids, **given))
    gaps = gap_by_block(ours.blocks, runs[0], reference.transformer.h, runs[1], mask.bool())
    assert len(gaps) == sizes[0] and max(gaps) <= 1e-10


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sizes", SIZES)
def test_loss_and_every_gradient(sizes, padding):
    ours, reference, ids, mask, our_logits, their_logits = both(sizes, padding)
    our_loss, their_loss = (shared_loss(x, ids, mask) for x in (our_logits, their_logits))
    assert abs(our_loss.item() / their_loss.item() - 1) <= 1e-9
    our_loss.backward()
    their_loss.backward()
    assert gradient_gap(ours, reference, gpt_names(sizes[0]), GPT_TRANSPOSED) <= 1e-9


@pytest.mark.parametrize("sizes", SIZES)
def test_one_adamw_step(sizes):
    ours, reference, ids, mask, our_logits, their_logits = both(sizes, "right")
    losses = (shared_loss(x, ids, mask) for x in (our_logits, their_logits))
    gap = gap_after_a_step(ours, reference, *losses, gpt_names(sizes[0]), GPT_TRANSPOSED)
    assert gap <= 1e-10


def test_hf_loss_is_ours_but_for_its_cast_to_fp32():
    _, reference, ids, mask, our_logits, _ = both(SIZES[1], "none")
    with torch.no_grad():
        theirs = reference(ids, labels=ids).loss
        cast = shared_loss(our_logits.float(), ids, mask)
        assert_close(cast, theirs, atol=1e-6, rtol=0, check_dtype=False)
        assert abs(theirs.item() - shared_loss(our_logits, ids, mask).item()) < 1e-5


@pytest.mark.parametrize("sizes", SIZES)
def test_weights_go_both_ways(sizes):
    reference = make_reference(*sizes)
    back = GPT.from_hf(reference).to_hf()
    assert back.dtype == torch.float64
    for name, weight in reference.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name
    ids = make_batch(*sizes[3:], "none")[0]
    assert torch.equal(reference(ids).logits, back(ids).logits)
    ours = initialize(
        GPT(GPTConfig(sizes[3], sizes[4], *sizes[:3])), torch.Generator().manual_seed(3)
    )
    again = GPT.from_hf(ours.to_hf())
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize("given_mask", [False, True])
def test_the_future_changes_nothing(given_mask):
    ours = GPT.from_hf(make_reference(*SIZES[1]))
    ids, mask, _ = make_batch(*SIZES[1][3:], "none")
    inputs = (mask,) if given_mask else ()
    with torch.no_grad():
        before = ours(ids, *inputs)
        for t in range(ids.size(1)):
            changed = ids.clone()
            changed[:, t] = (ids[:, t] + 1) % SIZES[1][3]
            after = ours(changed, *inputs)
            assert torch.equal(before[:, :t], after[:, :t])  # exactly
            assert (before[:, t] - after[:, t]).abs().max() > 1e-3


@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_moves_nothing(padding):
    ours = GPT.from_hf(make_reference(*SIZES[1]))
    ids, mask, _ = make_batch(*SIZES[1][3:], padding)
    with torch.no_grad():
        padded = ours(ids, mask)
        for row in range(len(ids)):
            real = mask[row].bool()
            alone = ours(ids[row][real][None])[0]
            assert_close(padded[row][real], alone, atol=1e-10, rtol=0)


def test_greedy_continuation_is_theirs():
    reference = make_reference(*SIZES[1]).float()
    ids = make_batch(*SIZES[1][3:], "none")[0][:, :4]
    settings = dict(do_sample=False, max_new_tokens=15, min_new_tokens=15, pad_token_id=0)
    settings |= dict(attention_mask=torch.ones_like(ids), eos_token_id=None)
    theirs = reference.generate(ids, **settings)
    assert torch.equal(generate(GPT.from_hf(reference), ids, 15, temperature=0), theirs)


@pytest.mark.parametrize(
    "temperature, top_k, top_p", [(0.7, 0, 1.0), (1.3, 5, 1.0), (1.0, 0, 0.6), (0.9, 7, 0.4)]
)
def test_sampling_filters_are_theirs(temperature, top_k, top_p):
    from transformers.generation.logits_process import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = 3 * torch.randn(50, 33, generator=torch.Generator().manual_seed(0)).double()
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    ours = next_token_probabilities(logits, temperature, top_k, top_p)
    assert_close(ours, expected.softmax(-1), atol=1e-12, rtol=0)


def packed_row(block_size, vocab_size):
    "Three documents in one row and padding behind them; and each in a row of its own."
    generator = torch.Generator().manual_seed(2)
    lengths = [block_size // 2 - 1, block_size // 4, block_size // 4 - 1]
    documents = [torch.randint(vocab_size, (n,), generator=generator) for n in lengths]
    ids = torch.zeros(1, block_size, dtype=torch.long)
    which = torch.full((1, block_size), -1)
    ids[0, : sum(lengths)] = torch.cat(documents)
    which[0, : sum(lengths)] = torch.arange(3).repeat_interleave(torch.tensor(lengths))
    return ids, which, documents


@pytest.mark.parametrize("sizes", SIZES[1:])
def test_packed_documents_are_theirs_alone(sizes):
    reference = make_reference(*sizes)
    ours = GPT.from_hf(reference)
    ids, which, documents = packed_row(sizes[4], sizes[3])
    with torch.no_grad():
        packed = ours(ids, document_ids=which)[0]
        for number, document in enumerate(documents):
            theirs = reference(document[None]).logits[0]
            assert (packed[which[0] == number] - theirs).abs().max() <= 1e-10
        assert packed.isfinite().all(), "padding sees padding, and never nothing"


@pytest.mark.parametrize("sizes", SIZES[1:])
def test_packed_hidden_states_behind_every_block(sizes):
    reference = make_reference(*sizes)
    ours = GPT.from_hf(reference)
    ids, which, documents = packed_row(sizes[4], sizes[3])
    for number, document in enumerate(documents):
        theirs = states_of(reference.transformer.h, lambda d=document: reference(d[None]))
        packed = states_of(ours.blocks, lambda: ours(ids, document_ids=which))
        for here, there in zip(packed, theirs, strict=True):
            assert (here[which == number] - there[0]).abs().max() <= 1e-10


def packed_and_alone(sizes):
    reference = make_reference(*sizes)
    ours = GPT.from_hf(reference)
    ids, which, documents = packed_row(sizes[4], sizes[3])
    batch = {"input_ids": ids, "document_ids": which}
    n = CausalObjective().counts(batch)["clm"]
    assert n == sum(len(d) - 1 for d in documents)
    our_loss = CausalObjective().sums(ours, batch)["clm"] / n
    alone = [causal_lm_sums(reference(d[None]).logits, d[None])[0] for d in documents]
    return ours, reference, our_loss, sum(alone) / n


@pytest.mark.parametrize("sizes", SIZES[1:])
def test_packed_loss_and_every_gradient(sizes):
    ours, reference, our_loss, their_loss = packed_and_alone(sizes)
    assert abs(our_loss.item() / their_loss.item() - 1) <= 1e-9
    our_loss.backward()
    their_loss.backward()
    assert gradient_gap(ours, reference, gpt_names(sizes[0]), GPT_TRANSPOSED) <= 1e-9


def test_packed_adamw_step():
    names = gpt_names(SIZES[1][0])
    assert gap_after_a_step(*packed_and_alone(SIZES[1]), names, GPT_TRANSPOSED) <= 1e-10


@pytest.mark.parametrize("parts", [[4, 1, 1, 1], [1] * 7, [3, 4], [2, 5]])
def test_the_cache_gives_the_logits_of_the_whole(parts):
    "One token at a time, or several at once."
    ours = GPT.from_hf(make_reference(*SIZES[1]))
    ids = make_batch(*SIZES[1][3:], "none")[0][:, :7]
    cache = ours.new_cache()
    with torch.no_grad():
        found = [ours.logits(ours.hidden(part, cache=cache)) for part in ids.split(parts, dim=1)]
        assert (torch.cat(found, 1) - ours(ids)).abs().max() <= 1e-10
    assert cache[0].n_tokens == 7


@pytest.mark.parametrize("temperature, penalty", [(0.0, 1.0), (1.0, 1.0), (0.8, 1.5)])
@pytest.mark.parametrize("n_new", [15, 40])  # 40 goes beyond the context of 24
def test_tokens_are_the_same_with_and_without_a_cache(temperature, penalty, n_new):
    ours = GPT.from_hf(make_reference(*SIZES[1]))
    ids = make_batch(*SIZES[1][3:], "none")[0][:, :4]
    texts = [
        generate(
            ours, ids, n_new, temperature, top_k=20, top_p=0.95, repetition_penalty=penalty,
            generator=torch.Generator().manual_seed(5), cached=cached,
        )
        for cached in (True, False)
    ]  # fmt: skip
    assert torch.equal(*texts)


def left_padded() -> tuple[torch.Tensor, torch.Tensor]:
    "Three prompts of 6, 3 and 1 tokens, and their mask."
    ids = make_batch(*SIZES[1][3:], "none")[0][:3, :6].clone()
    mask = torch.ones_like(ids)
    for row, n_padding in ((1, 3), (2, 5)):
        ids[row, :n_padding], mask[row, :n_padding] = 0, 0
    return ids, mask


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("cached", [True, False])
def test_left_padded_prompts_continue_as_alone(cached, penalty):
    ours = GPT.from_hf(make_reference(*SIZES[1]))
    with torch.no_grad():  # where a token stands shall tell
        ours.position_embedding.weight *= 20
    ids, mask = left_padded()
    how = dict(n_new=12, temperature=0, repetition_penalty=penalty, cached=cached)
    together = generate(ours, ids, attention_mask=mask, **how)
    assert torch.equal(together[:, :6], ids)
    for row in range(3):
        alone = generate(ours, ids[row][mask[row].bool()][None], **how)[0]
        assert torch.equal(together[row, 6:], alone[-12:]), row


def test_left_padded_prompts_continue_as_theirs():
    reference = make_reference(*SIZES[1]).float()
    ids, mask = left_padded()
    settings = dict(do_sample=False, max_new_tokens=15, min_new_tokens=15, pad_token_id=0)
    theirs = reference.generate(ids, attention_mask=mask, eos_token_id=None, **settings)
    ours = generate(GPT.from_hf(reference), ids, 15, temperature=0, attention_mask=mask)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_padded_batch_goes_through_a_cache_as_a_whole(padding):
    ours = GPT.from_hf(make_reference(*SIZES[1]))
    ids, mask, _ = make_batch(*SIZES[1][3:], padding)
    cache, found, n = ours.new_cache(), [], 0
    with torch.no_grad():
        for part in ids.split([3, 1, 1, ids.size(1) - 5], dim=1):
            n += part.size(1)
            found.append(ours.logits(ours.hidden(part, mask[:, :n], cache=cache)))
        whole = ours(ids, mask)
    real = mask.bool()
    assert_close(torch.cat(found, 1)[real], whole[real], atol=1e-10, rtol=0)


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.8])
def test_the_penalty_is_theirs(penalty):
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20, 33, generator=generator).double()
    seen = torch.randint(33, (20, 12), generator=generator)  # with repetitions
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits.clone())
    assert_close(penalize_repetition(logits, seen, penalty), theirs, atol=0, rtol=0)
