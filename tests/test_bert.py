"""What the chapter on BERT promises beside equality: masks, modes, strict loading, errors."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmchain.pretrain.bert import (
    Bert,
    BertConfig,
    BertPretraining,
    bert_config_from_hf,
    fill_masks,
    load_bert,
    to_hf,
)

CONFIG = BertConfig(vocab_size=23, block_size=10, n_layer=2, n_head=2, n_embd=16, n_inner=40)


def batch(seed=0):
    ids = torch.randint(5, 23, (3, 10), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(10) < torch.tensor([[10], [7], [4]])).long()
    return ids, (torch.arange(10) > 3).long().expand_as(ids), mask


@pytest.fixture
def saved(tmp_path):
    "A folder as transformers writes it."
    model = BertPretraining(CONFIG, torch.Generator().manual_seed(1))
    to_hf(model).save_pretrained(tmp_path)
    return tmp_path, model


def test_the_start_is_a_function_of_the_generator_alone():
    state = torch.get_rng_state()
    first = BertPretraining(CONFIG, torch.Generator().manual_seed(7))
    assert torch.equal(state, torch.get_rng_state()), "the global generator was used"
    second = BertPretraining(CONFIG, torch.Generator().manual_seed(7))
    assert all(torch.equal(*p) for p in zip(first.parameters(), second.parameters(), strict=True))


def test_the_first_losses_are_those_of_knowing_nothing():
    model = BertPretraining(BertConfig(500, 10, 2, 2, 64, 128))
    mlm, nsp = model(*batch())
    assert mlm.log_softmax(-1)[..., 0].mean().item() == pytest.approx(-math.log(500), abs=0.1)
    assert nsp.log_softmax(-1)[:, 0].mean().item() == pytest.approx(-math.log(2), abs=0.1)


def test_every_token_sees_both_sides():
    model = Bert(CONFIG).double().eval()
    ids = batch()[0][:1]
    for s in range(10):
        changed = ids.clone()
        changed[0, s] = 0
        assert ((model(ids) - model(changed)).norm(dim=-1) > 1e-9).all()


def test_what_stands_in_the_padding_does_not_matter():
    model = BertPretraining(CONFIG).double().eval()
    ids, types, mask = batch()
    other = torch.where(mask == 0, 7, ids)
    for a, b in zip(model(ids, types, mask), model(other, types, mask), strict=True):
        real = mask.bool() if a.dim() == 3 else slice(None)
        assert torch.equal(a[real], b[real])


def test_segments_and_positions_matter():
    model = Bert(CONFIG).eval()
    ids, types, mask = batch()
    assert not torch.allclose(model(ids, types, mask), model(ids, None, mask))
    assert torch.allclose(
        model(ids), model(ids, torch.zeros_like(ids), torch.ones_like(ids)), atol=1e-6
    )
    turned = model(ids.flip(1)).flip(1)
    assert not torch.allclose(model(ids), turned, atol=1e-3)


def test_only_the_asked_places_are_scored():
    model = BertPretraining(CONFIG).eval()
    ids, types, mask = batch()
    positions = torch.tensor([0, 12, 23])
    some, every = model(ids, types, mask, positions)[0], model(ids, types, mask)[0]
    assert some.shape == (3, 23)
    assert torch.allclose(some, every.flatten(0, 1)[positions], atol=1e-6)
    assert model(ids, types, mask, torch.tensor([], dtype=torch.long))[0].shape == (0, 23)


def test_the_head_is_the_embedding_and_learns_through_both():
    model = BertPretraining(CONFIG)
    assert {n for n, p in model.named_parameters() if p.shape == (23, 16)} == {
        "bert.token_embedding.weight"
    }
    ids = torch.full((1, 4), 5)
    model(ids)[0][..., 9].sum().backward()
    gradient = model.bert.token_embedding.weight.grad
    assert gradient[9].abs().max() > 0, "the output side teaches the embedding"
    assert gradient[5].abs().max() > 0 and gradient[7].abs().max() == 0


def test_dropout_is_silent_in_evaluation():
    model = BertPretraining(BertConfig(23, 10, 2, 2, 16, 40, dropout=0.5)).eval()
    with torch.random.fork_rng():
        assert torch.equal(model(*batch())[0], model(*batch())[0])
        model.train()
        assert not torch.equal(model(*batch())[0], model(*batch())[0])
        ids = batch()[0]
        ids[:, 2] = 9
        answers = [fill_masks(model, ids, 9)[1] for _ in range(2)]
    assert len(answers[0]) >= 3 and torch.equal(*answers) and model.training


def test_fill_masks_answers_each_blank_best_first():
    model = BertPretraining(CONFIG)
    ids = batch()[0].where(batch()[0] != 9, 10)
    ids[0, 2] = ids[1, 3] = 9
    tokens, probabilities = fill_masks(model, ids, 9, 4)
    assert tokens.shape == probabilities.shape == (2, 4)
    every = model.eval()(ids)[0].softmax(-1)
    assert torch.allclose(probabilities[1], every[1, 3].topk(4).values, atol=1e-6)
    assert (probabilities.diff(dim=-1) <= 0).all()


def test_a_saved_encoder_is_read_in_evaluation_mode(saved):
    path, model = saved
    read = load_bert(str(path))
    ids, types, mask = batch()
    assert not read.training and read.config == CONFIG
    assert torch.allclose(read(ids, types, mask), model.bert(ids, types, mask), atol=1e-6)


@pytest.mark.parametrize(
    "lost", ["encoder.layer.1.attention.self.key.bias", "embeddings.LayerNorm"]
)
def test_a_missing_encoder_weight_is_an_error(saved, lost):
    path, _ = saved
    weights = load_file(path / "model.safetensors")
    kept = {name: w for name, w in weights.items() if lost not in name}
    assert len(kept) < len(weights)
    save_file(kept, path / "model.safetensors")
    with pytest.raises(ValueError, match="weights are missing"):
        load_bert(path)


def test_a_missing_pooler_is_said(saved):
    path, model = saved
    weights = load_file(path / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "pooler" not in n}, path / "model.safetensors")
    with pytest.warns(UserWarning, match="has no pooler"):
        read = load_bert(path)
    assert torch.equal(read.blocks[0].mlp.up.weight, model.bert.blocks[0].mlp.up.weight)


@pytest.mark.parametrize(
    "change", [dict(hidden_act="relu"), dict(layer_norm_eps=1e-5), dict(model_type="roberta")]
)
def test_what_ours_does_not_compute_is_refused(saved, change):
    path, _ = saved
    config = json.loads((path / "config.json").read_text()) | change
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"cannot compute {next(iter(change))}"):
        load_bert(path)


def test_a_pickle_is_not_read(tmp_path, saved):
    path, _ = saved
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(
        FileNotFoundError, match="no model.safetensors.*pytorch_model.bin is a pickle"
    ):
        load_bert(path)


def test_integers_are_no_weights(saved):
    path, _ = saved
    weights = load_file(path / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    weights[name] = (weights[name] * 100).to(torch.int8)
    save_file(weights, path / "model.safetensors")
    with pytest.raises(ValueError, match=f"`{name}` is torch.int8; needs floating-point"):
        load_bert(path)


def test_a_tokenizer_of_another_bert_is_refused(saved):
    path, _ = saved
    load_bert(path, vocab_size=23)
    with pytest.raises(ValueError, match="the tokenizer knows 24 tokens, the model 23"):
        load_bert(path, vocab_size=24)


def test_another_shape_is_refused(saved):
    path, _ = saved
    config = json.loads((path / "config.json").read_text()) | {"intermediate_size": 41}
    (path / "config.json").write_text(json.dumps(config))
    message = r"`blocks.0.mlp.up.weight` is \(40, 16\) in model.safetensors, config.json asks for \(41, 16\)"
    with pytest.raises(ValueError, match=message) as told:
        load_bert(path)
    assert "\n" not in str(told.value) and str(path) in str(told.value)


@pytest.mark.parametrize(
    "change",
    [dict(hidden_size=18), dict(vocab_size=24), dict(max_position_embeddings=9), dict(type_vocab_size=3)],
)  # fmt: skip
def test_no_size_of_another_model_is_half_read(saved, change):
    path, _ = saved
    config = json.loads((path / "config.json").read_text()) | change
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="they are of two models$") as told:
        load_bert(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_only_padding_gives_numbers_and_finite_gradients(dtype):
    "A softmax over nothing would be nan; what stands at padding means nothing, and spoils nothing."
    model = BertPretraining(CONFIG).to(dtype)
    ids = torch.zeros(2, 10, dtype=torch.long)
    hidden = model.bert(ids, None, torch.zeros_like(ids))
    mlm, nsp = model(ids, None, torch.zeros_like(ids))
    (mlm.float().square().mean() + nsp.float().square().mean() + hidden.float().sum()).backward()
    assert all(x.isfinite().all() for x in (hidden, mlm, nsp))
    assert all(p.grad.isfinite().all() for p in model.parameters())
    tokens, p = fill_masks(model, ids, 4, attention_mask=torch.zeros_like(ids))
    assert tokens.shape == p.shape == (0, 5), "no place is asked for"


def test_mask_and_documents_together_are_refused():
    ids, types, mask = batch()
    with pytest.raises(ValueError, match="give attention_mask or document_ids, not both"):
        BertPretraining(CONFIG)(ids, types, mask, document_ids=mask)


def test_packed_pairs_have_a_first_token_each():
    model = BertPretraining(CONFIG).eval()
    ids, types, _ = batch()
    which = torch.tensor([[0] * 10, [0] * 4 + [1] * 6, [0] * 3 + [1] * 3 + [-1] * 4])
    with torch.no_grad():
        _, nsp = model(ids, types, document_ids=which)
        alone = [model(ids[1:2, 4:], types[1:2, 4:])[1], model(ids[2:, 3:6], types[2:, 3:6])[1]]
    assert nsp.shape == (5, 2), "five pairs; padding is none"
    assert torch.allclose(nsp[[2, 4]], torch.cat(alone), atol=1e-6)


def test_no_folder_no_bert(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load_bert(tmp_path)


def test_impossible_sizes_are_refused_all_at_once():
    with pytest.raises(
        ValueError, match="multiple of n_head .*; n_inner must be at least 1; dropout"
    ):
        BertConfig(10, 4, 1, 4, 30, 0, dropout=1.0)
    with pytest.raises(ValueError, match="11 tokens given, block_size is 10"):
        Bert(CONFIG)(torch.zeros(1, 11, dtype=torch.long))


def test_sizes_come_from_the_configuration():
    config = bert_config_from_hf(to_hf(Bert(CONFIG)).config)
    assert config == CONFIG
