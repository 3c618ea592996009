"""Right and wrong answers to the exercises of 16_peft."""

import math

import torch

RIGHT = {
    1: lambda n, m: (n * m - 1) // (n + m),
    2: lambda alpha, r, wide, rs: alpha * (math.sqrt(wide / r) if rs else wide / r),
    3: lambda first, second: (
        torch.cat([first.lora_A, second.lora_A]),
        torch.cat([first.scale * first.lora_B, second.scale * second.lora_B], 1),
    ),
}
WRONG = {
    1: [lambda n, m: n * m // (n + m), lambda n, m: min(n, m) // 2],
    2: [lambda alpha, r, wide, rs: alpha, lambda alpha, r, wide, rs: alpha * wide / r],
    3: [
        lambda first, second: (
            torch.cat([first.lora_A, second.lora_A]),
            torch.cat([first.lora_B, second.lora_B], 1),
        ),
        lambda first, second: (torch.eye(9), first.delta() + second.delta()),
    ],
}
