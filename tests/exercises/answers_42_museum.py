"""Right and wrong answers to the exercises of chapter 42."""

import torch
import torch.nn.functional as F


def verdict(end, other_ends):
    if end > max(other_ends):
        return "shows"
    return "flatters" if end < min(other_ends) else "hides"


def by_the_mean(end, other_ends):
    mean = sum(other_ends) / len(other_ends)
    return "shows" if end > mean else "flatters"


def never_flatters(end, other_ends):
    return "shows" if end > max(other_ends) else "hides"


def padding_check(loss):
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 2, -100, 0, -100, 4])
    asked = labels != -100
    return float(loss(logits, labels) - loss(logits[asked], labels[asked]))


def without_padding(loss):
    logits, labels = torch.zeros(3, 5), torch.tensor([1, 2, 0])
    return float(loss(logits, labels) - F.cross_entropy(logits, labels))


def value_alone(loss):
    return float(loss(torch.zeros(2, 5), torch.tensor([1, -100])))


def sees_future(model, ids, t):
    changed = ids.clone()
    changed[:, t:] = (changed[:, t:] + 1) % 10
    return not torch.equal(model(changed)[:, :t], model(ids)[:, :t])


def looks_behind(model, ids, t):
    changed = ids.clone()
    changed[:, t:] = (changed[:, t:] + 1) % 10
    return not torch.equal(model(changed), model(ids))


def one_place_late(model, ids, t):
    changed = ids.clone()
    changed[:, t:] = (changed[:, t:] + 1) % 10
    return not torch.equal(model(changed)[:, : t - 1], model(ids)[:, : t - 1])


def same_token(model, ids, t):
    changed = ids.clone()
    changed[:, t:] = 9
    return not torch.equal(model(changed)[:, :t], model(ids)[:, :t])


RIGHT = {1: verdict, 2: padding_check, 3: sees_future}
WRONG = {
    1: [by_the_mean, never_flatters],
    2: [without_padding, value_alone],
    3: [looks_behind, one_place_late, same_token],
}
