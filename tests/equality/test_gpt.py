"""Our GPT next to GPT2LMHeadModel of transformers: same weights, fp64, no dropout."""

import pytest
import torch
from side_by_side import gap_after_a_step, gradient_gap, loud, padding_mask
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
)

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
