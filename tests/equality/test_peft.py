"""Our adapters next to those of the library peft: same weights, fp64."""

import copy

import peft
import pytest
import torch
from side_by_side import bert_config, loud
from torch import nn
from torch.testing import assert_close
from transformers import BertForSequenceClassification

from llmchain.finetune.classification import Classifier, to_hf_classifier
from llmchain.finetune.peft import (
    DoRALinear,
    IA3Linear,
    LoRALinear,
    WordPrompted,
    adapt,
    adapters,
    attach,
    plain_copy,
    read_adapter,
    save_adapter,
    split_projections,
)
from llmchain.pretrain.bert import from_hf

EXACT = {"atol": 1e-10, "rtol": 0}


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def a_pair(ours, config):
    "Our adapter, and theirs on a copy of the same base layer."
    base = nn.Sequential(copy.deepcopy(ours.base))
    return ours, peft.get_peft_model(base, config).base_model.model[0]


def lora_pair(r, alpha, rs, dora=False):
    base = nn.Linear(12, 10).double()
    ours = DoRALinear(base, r, alpha) if dora else LoRALinear(base, r, alpha, rs=rs)
    with torch.no_grad():
        ours.lora_B.copy_(numbers(10, r))
        if dora:
            ours.magnitude.mul_(1 + 0.3 * numbers(10, seed=5))
    config = peft.LoraConfig(
        r=r, lora_alpha=alpha, use_rslora=rs, use_dora=dora, target_modules=["0"]
    )
    ours, theirs = a_pair(ours, config)
    with torch.no_grad():
        theirs.lora_A["default"].weight.copy_(ours.lora_A)
        theirs.lora_B["default"].weight.copy_(ours.lora_B)
        if dora:
            theirs.lora_magnitude_vector["default"].weight.copy_(ours.magnitude)
    return ours, theirs


def parameters(ours, theirs):
    "Pairs of what learns."
    pairs = [(ours.lora_A, theirs.lora_A), (ours.lora_B, theirs.lora_B)]
    if isinstance(ours, DoRALinear):
        pairs.append((ours.magnitude, theirs.lora_magnitude_vector))
    return [(mine, other["default"].weight) for mine, other in pairs]


@pytest.mark.parametrize("r, alpha, rs, dora", [(1, 2, False, False), (3, 7, False, False), (4, 7, True, False), (3, 7, False, True)])  # fmt: skip
def test_lora_and_dora(r, alpha, rs, dora):
    ours, theirs = lora_pair(r, alpha, rs, dora)
    x = numbers(6, 5, 12, seed=1)
    mine, other = ours(x), theirs(x)
    assert_close(mine, other, **EXACT)
    mine.sin().sum().backward()
    other.sin().sum().backward()
    pairs = parameters(ours, theirs)
    for a, b in pairs:
        assert b.requires_grad and a.grad.abs().max() > 1e-3
        assert_close(a.grad, b.grad, **EXACT)
    for side in zip(*pairs, strict=True):
        torch.optim.AdamW(side, lr=0.01, weight_decay=0.1).step()
    for a, b in pairs:
        assert_close(a, b, **EXACT)
    assert_close(ours(x), theirs(x), **EXACT)
    before = ours.base.weight.clone()
    ours.merge()
    theirs.merge()
    assert_close(ours.base.weight, theirs.base_layer.weight, **EXACT)
    ours.unmerge()
    theirs.unmerge()
    assert torch.equal(ours.base.weight, before)


@pytest.mark.parametrize("of_input", [False, True])
def test_ia3(of_input):
    ours = IA3Linear(nn.Linear(12, 10).double(), of_input)
    with torch.no_grad():
        ours.gain.copy_(numbers(len(ours.gain)))
    config = peft.IA3Config(target_modules=["0"], feedforward_modules=["0"] if of_input else [])
    ours, theirs = a_pair(ours, config)
    gain = theirs.ia3_l["default"]
    with torch.no_grad():
        gain.copy_(ours.gain.view(gain.shape))
    x = numbers(6, 5, 12, seed=1)
    assert_close(ours(x), theirs(x), **EXACT)
    ours(x).sin().sum().backward()
    theirs(x).sin().sum().backward()
    assert_close(ours.gain.grad, gain.grad.flatten(), **EXACT)
    ours.merge()
    theirs.merge()
    assert_close(ours.base.weight, theirs.base_layer.weight, **EXACT)
    assert_close(ours.base.bias, theirs.base_layer.bias, **EXACT)


def test_lora_starts_from_the_same_distribution():
    base = nn.Linear(400, 300)
    theirs = peft.get_peft_model(
        nn.Sequential(copy.deepcopy(base)), peft.LoraConfig(r=40, target_modules=["0"])
    ).base_model.model[0]
    ours, other = LoRALinear(base, 40, 8).lora_A.data, theirs.lora_A["default"].weight.data
    assert abs(float(ours.std() / other.std()) - 1) < 0.02
    assert abs(float(ours.abs().max() / other.abs().max()) - 1) < 0.01
    assert not theirs.lora_B["default"].weight.any()


def whole_pair():
    "A BertForSequenceClassification, and our Classifier with its weights."
    theirs = loud(BertForSequenceClassification, bert_config(3, 4, 32, 64, 97, 24, num_labels=3))
    return split_projections(ours_of(theirs)), theirs


def ours_of(theirs):
    ours = Classifier(from_hf(theirs.bert), 3).to(next(theirs.parameters()).dtype)
    ours.head.load_state_dict(theirs.classifier.state_dict())
    return ours.eval()


def words():
    ids = torch.randint(1, 97, (4, 24), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(24) < torch.tensor([24, 23, 12, 1])[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("rs", [False, True])
def test_they_read_what_we_write(tmp_path, rs):
    ours, theirs = whole_pair()
    adapt(
        ours, ["query", "value", "attention.out", "mlp.down"], lambda b: LoRALinear(b, 4, 6, rs=rs)
    )
    with torch.no_grad():
        for i, adapter in enumerate(adapters(ours).values()):
            adapter.lora_A.copy_(
                adapter.lora_A.float()
            )  # a file of fp32, so that nothing is rounded
            adapter.lora_B.copy_(0.1 * numbers(*adapter.lora_B.shape, seed=i).float())
        ours.head.weight.add_(0.5)
    save_adapter(tmp_path, ours, "loud")
    before = theirs(**words()).logits
    read = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    assert not [n for n, p in read.named_parameters() if p.requires_grad]
    assert_close(read(**words()).logits.double(), ours(**words()), atol=1e-6, rtol=0)
    assert (before - ours(**words())).abs().max() > 1e-2


@pytest.mark.parametrize(
    "targets", [["query", "value"], ["key", "intermediate.dense"], "all-linear"]
)
def test_we_read_what_they_write(tmp_path, targets):
    ours, theirs = whole_pair()
    theirs.name_or_path = "loud"
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False
    )
    made = peft.get_peft_model(theirs, config).double().eval()
    made.save_pretrained(tmp_path)
    attached = attach(ours, read_adapter(tmp_path), base_name="loud").double().eval()
    gap = (attached(**words()) - made(**words()).logits).abs().max()
    assert gap < 1e-5, gap  # the file is read as fp32


def test_a_merged_model_is_opened_by_transformers_alone(tmp_path):
    ours, _ = whole_pair()
    adapt(ours, ["query", "mlp.up", "pooler"], lambda b: LoRALinear(b, 4, 6))
    with torch.no_grad():
        for i, adapter in enumerate(adapters(ours).values()):
            adapter.lora_B.copy_(0.1 * numbers(*adapter.lora_B.shape, seed=i))
    to_hf_classifier(plain_copy(ours), {0: "a", 1: "b", 2: "c"}).save_pretrained(tmp_path)
    opened = BertForSequenceClassification.from_pretrained(tmp_path, dtype=torch.double).eval()
    assert_close(opened(**words()).logits, ours(**words()), **EXACT)


def test_prompt_tuning():
    "Same prompt, same head: scores, gradients, one step of AdamW."
    ours, theirs = whole_pair()
    ours = WordPrompted(ours, 4).double().eval()
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)
    theirs = peft.get_peft_model(theirs, config).double().eval()
    prompt = theirs.prompt_encoder["default"].embedding
    prompt.weight.data = ours.prompt.detach().clone()
    batch = {k: v[:, :20] for k, v in words().items()}
    mine, other = ours(**batch), theirs(**batch).logits
    assert_close(mine, other, **EXACT)
    mine.sin().sum().backward()
    other.sin().sum().backward()
    head = theirs.base_model.classifier.modules_to_save["default"]
    heads = zip(ours.model.head.parameters(), head.parameters(), strict=True)
    pairs = [(ours.prompt, prompt.weight), *heads]
    learning = [p for p in theirs.parameters() if p.requires_grad]
    assert len(pairs) == len(learning) == len([p for p in ours.parameters() if p.requires_grad])
    for a, b in pairs:
        assert a.grad.abs().max() > 1e-6
        assert_close(a.grad, b.grad, **EXACT)
    for side in zip(*pairs, strict=True):
        torch.optim.AdamW(side, lr=0.01, weight_decay=0.1).step()
    for a, b in pairs:
        assert_close(a, b, **EXACT)
