"""Adapters: what they compute, what they refuse, how they merge, are stored and are served together."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from llmchain.finetune.classification import ClassificationObjective, Classifier
from llmchain.finetune.peft import (
    BottleneckLinear,
    DoRALinear,
    IA3Linear,
    LoRALinear,
    Prompted,
    SharedLinear,
    WordPrompted,
    activation_bytes,
    adapt,
    adapters,
    attach,
    base_sha256,
    energy,
    factors,
    matching,
    merged,
    n_trainable,
    plain_copy,
    read_adapter,
    rows_use,
    save_adapter,
    share,
    split_projections,
    state_bytes,
)
from llmchain.pretrain.bert import Bert, BertConfig
from llmchain.pretrain.training import make_optimizer, parameter_groups, train, train_step

ALL = ["query", "key", "value", "attention.out", "mlp.up", "mlp.down"]
KINDS = {
    "lora": lambda base: LoRALinear(base, 2, 6),
    "dora": lambda base: DoRALinear(base, 2, 6),
    "gain of outputs": IA3Linear,
    "gain of inputs": lambda base: IA3Linear(base, of_input=True),
}


def small_bert(seed=1, n_layer=3, n_embd=16):
    "Random weights, and biases that are not zero, so that a forgotten one is seen."
    generator = torch.Generator().manual_seed(seed)
    bert = Bert(BertConfig(50, 20, n_layer, 2, n_embd, 32), generator)
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.mul_(5).add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return bert


def small(pooling="pooler", n_frozen=0, seed=1):
    generator, bert = torch.Generator().manual_seed(seed), small_bert(seed)
    return split_projections(Classifier(bert, 3, pooling, n_frozen, generator)).eval()


def louder(model, seed=0):
    "The same adapters, none of them at its start."
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in adapters(model).values():
            for parameter in (p for p in adapter.parameters() if p.requires_grad):
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        model.head.bias.add_(torch.randn(3, generator=generator))
    return model


def with_lora(r=2, seed=0, targets=ALL, **more):
    model = small(**more)
    adapt(model, targets, lambda base: LoRALinear(base, r, 3 * r))
    return louder(model, seed).eval()


def some_batch(n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 50, (n, 9), generator=generator)
    mask = (torch.arange(9) < torch.tensor([9, 7, 4, 2][:n])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def test_factors_give_the_nearest_matrix_of_every_rank():
    for shape in ((7, 5), (5, 7)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
        left, right = factors(matrix)
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        for r in range(6):
            torch.testing.assert_close(left[:, :r] @ right[:r], (u[:, :r] * s[:r]) @ vt[:r])
        torch.testing.assert_close(energy(left, right), (s**2).cumsum(0) / (s**2).sum())


def test_split_projections_compute_the_same_and_learn_the_same():
    bert = small_bert()
    for pooling in ("mean", "cls"):  # cls computes the last block for the first token only
        stacked = Classifier(bert, 3, pooling).double().eval()
        parted = split_projections(copy.deepcopy(stacked))
        torch.testing.assert_close(parted(**some_batch()), stacked(**some_batch()))
    assert split_projections(parted) is parted and n_trainable(parted) == n_trainable(stacked)


def test_scale_is_alpha_over_r_or_its_root():
    base = nn.Linear(20, 20)
    assert LoRALinear(base, 4, 6).scale == 1.5
    assert LoRALinear(base, 4, 6, rs=True).scale == 3.0


def test_at_first_nothing_has_changed():
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    for kind in (*KINDS.values(), lambda base: BottleneckLinear(base, 2)):
        base = nn.Linear(16, 8)
        torch.testing.assert_close(kind(base)(x), base(x))
    lora = LoRALinear(nn.Linear(16, 8), 2, 4)
    assert lora.lora_A.abs().min() > 0 and not lora.lora_B.any()
    assert lora.lora_A.abs().max() <= 1 / 16**0.5  # Kaiming uniform with a = √5


def test_only_adapters_and_head_learn():
    model = with_lora()
    start = copy.deepcopy(model.state_dict())
    batch = some_batch() | {"labels": torch.tensor([0, 1, 2, 0])}
    how = {"n_steps": 3, "schedule": lambda step: 0.05}
    train(model, ClassificationObjective(), lambda step: batch, **how)
    moved = {n for n, w in model.state_dict().items() if not torch.equal(w, start[n])}
    assert moved == {n for n in start if "lora_" in n or n.startswith("head.")}
    assert n_trainable(model) == sum(start[n].numel() for n in moved)


def test_dropout_is_of_training_only():
    lora = LoRALinear(nn.Linear(16, 8), 2, 4, dropout=0.5)
    nn.init.normal_(lora.lora_B, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(lora.eval()(x), lora(x))
    torch.testing.assert_close(lora(x), x @ lora.merged()[0].T + lora.base.bias)
    assert not torch.equal(lora.train()(x), lora(x))


@pytest.mark.parametrize("kind", KINDS)
def test_merging_changes_no_output_and_leaves_no_trace(kind):
    model = small()
    adapt(model, ALL, KINDS[kind])
    louder(model).eval()
    bits, apart = copy.deepcopy(model.state_dict()), model(**some_batch())
    with merged(model):
        torch.testing.assert_close(model(**some_batch()), apart, atol=1e-5, rtol=1e-5)
        changed = [n for n, w in model.state_dict().items() if not torch.equal(w, bits[n])]
        assert len(changed) >= len(adapters(model))
    assert all(torch.equal(w, bits[n]) for n, w in model.state_dict().items())
    assert (apart - small()(**some_batch())).abs().max() > 1e-3


def test_merging_twice_is_refused_and_an_error_inside_unmerges():
    lora = LoRALinear(nn.Linear(6, 4), 2, 4)
    with pytest.raises(RuntimeError, match="not merged"):
        lora.unmerge()
    lora.merge()
    with pytest.raises(RuntimeError, match="already merged; unmerge first"):
        lora.merge()
    with pytest.raises(RuntimeError, match="merged, so nothing would learn; unmerge first"):
        lora.train()
    lora.eval().unmerge()
    assert lora.train().training
    model = with_lora()
    start = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), merged(model):
        raise KeyError
    assert all(torch.equal(w, start[n]) for n, w in model.state_dict().items())
    broken = list(adapters(model).values())[-1]
    with torch.no_grad():
        broken.lora_B[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"), merged(model):
        pass
    assert not any(a.kept for a in adapters(model).values())
    with pytest.raises(TypeError, match="cannot be merged"):
        BottleneckLinear(nn.Linear(6, 4), 2).merge()


@pytest.mark.parametrize(
    "given, said",
    [
        ((0, 4, 0.0), "r must be from 1 to 4, the smaller side"),
        ((-1, 4, 0.0), "got -1"),
        ((5, 4, 0.0), "got 5"),
        ((2, float("nan"), 0.0), "alpha must be above 0 and finite, got nan"),
        ((2, 0.0, 0.0), "alpha must be above 0 and finite, got 0"),
        ((2, float("inf"), 0.0), "got inf"),
        ((2, 4, 1.0), "dropout must be from 0 to under 1, got 1"),
        ((0, -1, 2), "r must be .* alpha must be .* dropout must be"),
    ],
)
def test_what_lora_refuses(given, said):
    with pytest.raises(ValueError, match=said) as error:
        LoRALinear(nn.Linear(6, 4), *given)
    assert "\n" not in str(error.value)


def test_a_rank_too_large_for_one_layer_changes_no_layer():
    model = small()
    names = [n for n, _ in model.named_modules()]
    with pytest.raises(ValueError, match="r must be from 1 to 16"):
        adapt(model, ALL, lambda base: LoRALinear(base, 17, 4))
    assert [n for n, _ in model.named_modules()] == names
    assert all(p.requires_grad for p in model.bert.blocks.parameters())


def test_targets_are_ends_of_names():
    model = small()
    assert matching(model, ["mlp.up"]) == [f"bert.blocks.{i}.mlp.up" for i in range(3)]
    assert matching(model, ["blocks.1.mlp.up", "up"]) == matching(model, ["up"])
    assert len(matching(model, ALL)) == 18
    assert matching(small(n_frozen=2), ["key"]) == ["bert.blocks.2.attention.qkv.key"]
    for wrong, near in (("querry", "query"), ("mlp.upp", "mlp.up"), ("uery", "query")):
        with pytest.raises(
            ValueError, match=f"no linear layer ends in '{wrong}'; nearest: .*{near}"
        ):
            matching(model, ["key", wrong])
    with pytest.raises(ValueError, match="no linear layer ends in"):
        matching(model, [])
    with pytest.raises(ValueError, match="adapted already"):
        adapt(with_lora(), ["key"], IA3Linear)


def test_gains_and_lengths_do_not_decay():
    for kind in ("dora", "gain of outputs"):
        model = small()
        adapt(model, ["key", "value"], KINDS[kind], learn=())
        vectors = [p for n, p in model.named_parameters() if n.endswith((".gain", ".magnitude"))]
        groups = parameter_groups(model, 0.1)
        free = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
        assert len(vectors) == 6 and {id(p) for p in vectors} <= free


def test_prompt_is_read_and_padding_is_not():
    model = small().double()
    prompted = Prompted(model, 3).double().eval()
    batch = some_batch()
    together = prompted(**batch)
    for i, n in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = prompted(batch["input_ids"][i : i + 1, :n])
        torch.testing.assert_close(together[i : i + 1], alone)
    assert (together - model(**batch)).abs().max() > 1e-3
    assert n_trainable(prompted) == 3 * 16 + 3 * 17
    hidden = model.frozen_states(**batch)
    kept = prompted(hidden=hidden, attention_mask=batch["attention_mask"])
    torch.testing.assert_close(kept, together)
    with pytest.raises(ValueError, match="n_prompts must be at least 1, got 0"):
        Prompted(model, 0)


def test_state_is_twelve_bytes_a_weight_and_activations_stay():
    batch = some_batch() | {"labels": torch.tensor([0, 1, 2, 0])}
    objective, held = ClassificationObjective(), {}
    for name, model in (("full", small()), ("lora", with_lora())):
        held[name] = activation_bytes(model.train(), objective, batch)
        assert all(p.grad is None for p in model.parameters())
        optimizer = make_optimizer(model, 0.0, (0.9, 0.95))
        train_step(model, optimizer, objective, batch, 0.01)
        n_tensors = sum(p.requires_grad for p in model.parameters())
        assert abs(state_bytes(optimizer) - 12 * n_trainable(model)) <= 8 * n_tensors
    assert held["lora"] > held["full"] / 2 > 0


@pytest.fixture
def stored(tmp_path):
    model = with_lora()
    save_adapter(tmp_path, model, "small")
    return tmp_path, model


def test_a_file_holds_the_adapter_alone_and_comes_back(stored):
    folder, model = stored
    tensors = load_file(folder / "adapter_model.safetensors")
    assert sum(t.numel() for t in tensors.values()) == n_trainable(model)
    assert all("lora_" in name or "classifier" in name for name in tensors)
    again = attach(small(), read_adapter(folder)).eval()
    assert torch.equal(again(**some_batch()), model(**some_batch()))
    assert not torch.equal(small()(**some_batch()), model(**some_batch()))


def test_fingerprint_is_of_the_base():
    here = base_sha256(small())
    assert base_sha256(with_lora()) == here
    stacked = Classifier(small_bert(), 3)
    assert base_sha256(stacked) == here  # stacked or split: the same weights
    adapt(stacked, ["qkv"], lambda base: LoRALinear(base, 2, 4.0))
    assert base_sha256(stacked) == here  # and with an adapter on the stacked matrix itself
    other = small()
    with torch.no_grad():
        other.bert.blocks[1].mlp.up.weight[0, 0] += 1e-3
    assert base_sha256(other) != here


def rewrite(folder, change):
    "The tensors of an adapter, changed; its note stays."
    file = folder / "adapter_model.safetensors"
    with safe_open(file, "pt") as stored:
        note = stored.metadata()
    save_file(change(load_file(file)), file, note)


def test_an_adapter_of_another_base_changes_nothing(stored):
    folder, _ = stored
    adapter = read_adapter(folder)
    with pytest.raises(ValueError, match="another base: it was trained on weights .*, these are"):
        attach(small(seed=2), adapter)
    wide, short = small_bert(n_embd=24), small_bert(n_layer=2)
    for bert, said in ((wide, "this model needs"), (short, "this model has no .*layer.2")):
        model = split_projections(Classifier(bert, 3))
        with pytest.raises(ValueError, match=f"is of another base: .*{said}"):
            attach(model, adapter)
        assert not adapters(model)
    with pytest.raises(ValueError, match="this model has n_frozen=1, needs 0"):
        attach(small(n_frozen=1), adapter)
    rewrite(
        folder, lambda t: {n: w for n, w in t.items() if "layer.1" not in n or "lora_B" not in n}
    )
    with pytest.raises(ValueError, match="None"):
        attach(small(), read_adapter(folder))


def without_fingerprint(folder, name="small"):
    "As peft writes it: a name of the base, and no fingerprint."
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    save_file(load_file(file), file, {"format": "pt"})
    said = json.loads(config.read_text()) | {"base_model_name_or_path": name}
    config.write_text(json.dumps(said))
    return read_adapter(folder)


def test_a_base_that_cannot_be_verified_is_named_or_refused(stored):
    folder, model = stored
    adapter = without_fingerprint(folder)
    for base_name, said in (
        (None, "cannot be verified: peft wrote it .*'small'; .*say attach.*base_name='small'"),
        ("other", "is for 'small', not 'other'; load that one"),
    ):
        base = small(seed=2)  # of the same shapes
        with pytest.raises(ValueError, match=said) as error:
            attach(base, adapter, base_name)
        assert not adapters(base) and "\n" not in str(error.value)
        assert all(p.requires_grad for p in base.bert.blocks.parameters())
    again = attach(small(), adapter, base_name="small").eval()
    assert torch.equal(again(**some_batch()), model(**some_batch()))
    for nobody in (None, ""):
        with pytest.raises(ValueError, match="without a name; write it into adapter_config.json"):
            attach(small(), without_fingerprint(folder, nobody), base_name="")


def test_a_name_does_not_overrule_the_fingerprint(stored):
    with pytest.raises(ValueError, match="trained on weights .*; load the base it was trained on"):
        attach(small(seed=2), read_adapter(stored[0]), base_name="small")


def test_pooling_is_that_of_the_library(stored, tmp_path):
    "SEQ_CLS is opened as BertForSequenceClassification, which has a pooler."
    for pooling in ("mean", "cls"):
        other = small(pooling)
        with pytest.raises(ValueError, match=f"this model pools with '{pooling}'; build it with"):
            attach(other, read_adapter(stored[0]))
        assert not adapters(other)
        with pytest.raises(ValueError, match=f"pools with '{pooling}'; .* train it with that"):
            save_adapter(tmp_path, with_lora(pooling=pooling), "small")


@pytest.mark.parametrize("pooling", ["pooler", "mean", "cls"])
def test_a_plain_copy_computes_the_same_and_has_nothing_of_ours(pooling):
    targets = [*ALL, "pooler"] if pooling == "pooler" else ALL
    model = with_lora(targets=targets, pooling=pooling)
    start = copy.deepcopy(model.state_dict())
    plain, want = plain_copy(model), Classifier(small_bert(), 3, pooling).state_dict()
    torch.testing.assert_close(plain(**some_batch()), model(**some_batch()), atol=1e-5, rtol=1e-5)
    assert {n: w.shape for n, w in plain.state_dict().items()} == {
        n: w.shape for n, w in want.items()
    }
    assert all(torch.equal(w, start[n]) for n, w in model.state_dict().items())
    bare = small(pooling)
    assert torch.equal(
        plain_copy(bare).bert.blocks[0].attention.qkv.weight,
        small_bert().blocks[0].attention.qkv.weight,
    )
    model.bert.blocks[0].mlp.up.merge()
    with pytest.raises(RuntimeError, match="already merged; unmerge first"):
        plain_copy(model)


def test_a_prompt_before_the_words_leaves_room_for_itself():
    prompted, batch = WordPrompted(small(), 3).eval(), some_batch()
    together = prompted(**batch)
    for i, n in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = prompted(**{k: v[i : i + 1, :n] for k, v in batch.items()})
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)
    long = torch.ones(1, 18, dtype=torch.long)
    with pytest.raises(ValueError, match="at most 17 tokens beside 3 prompts.*got .* 18 tokens"):
        prompted(long, long)
    with pytest.raises(ValueError, match="needs n_frozen=0"):
        WordPrompted(small(n_frozen=1), 3)(**batch)


def test_what_reading_refuses(stored):
    folder, _ = stored
    config = json.loads((folder / "adapter_config.json").read_text())
    for change, said in (
        ({"r": None}, "adapter_config.json: no r"),
        ({"lora_alpha": None, "target_modules": None}, "no lora_alpha, target_modules"),
        ({"use_dora": True}, r"cannot compute use_dora True \(only False\)"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"rank_pattern": {"query": 4}}, "rank_pattern"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=said):
            read_adapter(folder)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"this is text")
    with pytest.raises(ValueError, match="is no safetensors file"):
        read_adapter(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="is a pickle and may run code"):
        read_adapter(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="no adapter_config.json in"):
        read_adapter(folder)


def test_what_saving_refuses(tmp_path):
    with pytest.raises(ValueError, match="needs LoRALinear"):
        save_adapter(tmp_path, small(), "small")
    model = with_lora()
    with merged(model), pytest.raises(ValueError, match="not merged"):
        save_adapter(tmp_path, model, "small")
    model = small()
    adapt(model, ["key"], IA3Linear)
    with pytest.raises(ValueError, match="needs LoRALinear"):
        save_adapter(tmp_path, model, "small")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_each_row_of_a_batch_has_its_own_adapter(pooling):
    models = [
        with_lora(2, 1, pooling=pooling),
        with_lora(4, 2, ["query", "mlp.up"], pooling=pooling),
        with_lora(2, 3, pooling=pooling),
    ]
    shared, batch = share(small(pooling), models), some_batch()
    alone = torch.stack([m(**batch) for m in models])
    for which in ([0, 1, 2, 1], [2, 2, 0, 0], [1, 1, 1, 1]):
        with rows_use(shared, torch.tensor(which)):
            torch.testing.assert_close(
                shared(**batch), alone[which, range(4)], atol=1e-5, rtol=1e-5
            )
    with pytest.raises(RuntimeError, match="4 rows, but 0 are told their adapter"):
        shared(**batch)
    with (
        rows_use(shared, torch.tensor([0, 1])),
        pytest.raises(RuntimeError, match="but 2 are told"),
    ):
        shared(**batch)
    with pytest.raises(ValueError, match=r"models \[1\] are adapted on another base"):
        share(small(pooling), [models[0], small(pooling, seed=2)])
    assert any(isinstance(m, SharedLinear) for m in shared.modules())
    other = small(pooling)
    adapt(other, ["key"], lambda base: DoRALinear(base, 2, 4))
    with pytest.raises(ValueError, match="share: only LoRALinear"):
        share(small(pooling), [models[0], other])


def test_a_head_of_other_classes_and_unread_tensors_are_refused(stored):
    folder, _ = stored
    two = split_projections(Classifier(small_bert(), 2))
    with pytest.raises(ValueError, match="tells 3 classes apart, this model 2"):
        attach(two, read_adapter(folder))
    assert not adapters(two)
    rewrite(
        folder, lambda t: t | {"base_model.model.bert.pooler.dense.weight": torch.zeros(16, 16)}
    )
    with pytest.raises(ValueError, match="holds bert.pooler.dense.weight, which is neither"):
        attach(small(), read_adapter(folder))
