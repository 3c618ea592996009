"""Right and wrong answers to the exercises of chapter 09."""

import torch


def single(logits):
    return logits[:, 1] - logits[:, 0]


def other_sign(logits):
    return logits[:, 0] - logits[:, 1]


def second_alone(logits):
    return logits[:, 1]


def kept_dimension(logits):
    return logits[:, 1:] - logits[:, :1]


def mean_pool(hidden, attention_mask):
    mask = attention_mask[..., None].to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


def plain_mean(hidden, attention_mask):
    return hidden.mean(1)


def divided_by_all(hidden, attention_mask):
    return (hidden * attention_mask[..., None]).mean(1)


def first_token(hidden, attention_mask):
    return hidden[:, 0]


def pseudo_nats(model, ids, mask_id):
    rows = ids.repeat(len(ids), 1)
    rows.fill_diagonal_(mask_id)
    log_p = model(rows)[0].diagonal().mT.log_softmax(-1)
    return -log_p.gather(-1, ids[:, None]).sum().item()


def nothing_hidden(model, ids, mask_id):
    return -model(ids[None])[0][0].log_softmax(-1).gather(-1, ids[:, None]).sum().item()


def all_hidden(model, ids, mask_id):
    logits = model(torch.full_like(ids, mask_id)[None])[0][0]
    return -logits.log_softmax(-1).gather(-1, ids[:, None]).sum().item()


def mean(model, ids, mask_id):
    return pseudo_nats(model, ids, mask_id) / len(ids)


RIGHT = {1: single, 2: mean_pool, 3: pseudo_nats}
WRONG = {
    1: [other_sign, second_alone, kept_dimension],
    2: [plain_mean, divided_by_all, first_token],
    3: [nothing_hidden, all_hidden, mean],
}
