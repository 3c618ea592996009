"""Time to a loss: our loop beside nanoGPT's and beside the Trainer of transformers, on the same tokens.

One size for all: width 256, depth 4, 4 heads, context 256, the vocabulary of the course (4096), the tokens of
07_objectives at profile cpu, no dropout. nanoGPT's recipe, written here in our own words, trains for SECONDS and its
validation loss is the target; the others train until they are under it. The clock stands still while the loss is
measured, the same way for all, on the same held-out tokens. Where there is a GPU, the trunk of GPT-2 124M at its context
of 1024, in bf16 for all, nanoGPT's model and ours compiled: that has not been run yet, and nobody's rate was searched.

Learning rates fall to the end of a budget, so everybody has one: steps are timed first, and as many are planned as fit.
The Trainer has its defaults but for the learning rate (its own, 5e-5, is one for fine-tuning). RATES are the best of
1e-3, 2e-3 and 4e-3 for nanoGPT and of 5e-4, 1e-3 and 2e-3 for the Trainer; ours is that of 08_gpt and was not searched
here. Others can be tried over a given number of steps with
`python benchmarks/clm.py <who> <data> <folder> <rate> <steps>`. Who is not under the target when the budget ends
keeps the time that it took, and `quality` says so; where ours is not, no goal is reached."""

import contextlib
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNIT = "seconds of training to the validation loss of nanoGPT's recipe after 150 s"
GOALS = {"nanogpt": 1.2, "trainer": 1.6}
MEMORY = 1.0  # of a peer's peak, at most
MUST = ("under_target",)  # in every round of ours, or its seconds are those of its plan
WARM_UP = False  # a contender takes minutes; what is loaded in them does not matter
SECONDS = 150.0
# ours where the processor has bf16, and where it has not: a plan too short ends over the target, one too long is late
OURS = {"bf16": 90.0, "fp32": 130.0}
BUDGETS = {"nanogpt": SECONDS, "trainer": 240.0}
RATES = {
    "cpu": {"ours": 3e-3, "nanogpt": 2e-3, "trainer": 5e-4},
    "cuda": {"ours": 2e-3, "nanogpt": 6e-4, "trainer": 6e-4},  # not searched
}
EVALUATIONS, HELD_OUT = 30, 16_384


@dataclass(frozen=True)
class Size:
    """What all contenders have in common: the model, the rows of a step, where it trains."""

    width: int = 256
    depth: int = 4
    heads: int = 4
    context: int = 256
    batch: int = 8
    device: str = "cpu"

    def matrices(self, vocab_size: int, scored: float = 1.0) -> int:
        """Weights that multiply for a token: four of C² in attention, eight in the MLP, C for each word scored."""
        return 12 * self.depth * self.width**2 + int(scored * vocab_size * self.width)


SIZES = {"cpu": Size(), "cuda": Size(768, 12, 12, 1024, 16, "cuda")}


def size_here() -> Size:
    """That of the machine's device."""
    import torch

    return SIZES["cuda" if torch.cuda.is_available() else "cpu"]


def clock(device: str) -> float:
    """Seconds, when all that was asked of the device is done."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def precision_of(at: Size) -> str:
    """That of our loop: bf16 where the device computes in it."""
    from llmchain.pretrain.gpt import choose_precision

    return "bf16" if at.device == "cuda" else choose_precision("auto")


def artifact(name: str, chapter: str, *words: str) -> Path:
    """The folder of an artifact at profile cpu; what it needs runs if it has not."""
    from llmchain.workbench.store import Store

    command = [sys.executable, "-m", "llmchain.workbench.cli", "run", chapter, "--profile", "cpu", "--json", *words]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"no {name}: {(done.stdout + done.stderr).strip()[-300:]}")
    found = {e["id"]: e["outputs"] for e in json.loads(done.stdout)["chapters"]}
    return Store().path(name, found[chapter][name])


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """nanoGPT first: it sets the target of the round."""
    data = str(artifact("tokens/clm", "07_objectives"))
    heap = "MALLOC_MMAP_THRESHOLD_=4194304"  # tensors from 4 MiB on go back to the system at once
    contenders = ("nanogpt", "ours", "trainer")
    return {who: [command(__file__, who, data, folder, heap)] for who in contenders}


def command(
    file: str, who: str, data: str, folder: Path, heap: str = "MALLOC_ARENA_MAX=1"
) -> list[str]:
    """A contender as a command. All have the same heap: left to itself, with one for each thread and its bound of what
    is large, their peaks are those of the gaps that the C library leaves (see 11_scaling), not of what they hold."""
    return [shutil.which("env") or "env", heap, sys.executable, file, who, data, str(folder)]


# ── one clock for all ─────────────────────────────────────────────────────────────────────────


class Race:
    """The clock of one contender and what it runs for; the first one sets the target of the round."""

    def __init__(
        self,
        folder: Path,
        loss: Callable[[], float],
        budget: float,
        sets_target: bool = False,
        steps: int = 0,
        at: Size = SIZES["cpu"],
        target: float = 0.0,
    ) -> None:
        self.at, self.file = at, folder / "target.json"
        self.loss, self.budget, self.steps = loss, budget, steps
        self.sets_target = sets_target = sets_target or steps > 0  # a search runs to its end
        if not target:
            target = -math.inf if sets_target else json.loads(self.file.read_text())["loss"]
        self.target = target
        self.seconds, self.curve = 0.0, []  # type: ignore[var-annotated]

    def planned(self, step: Callable[[int], Any], n: int = 6) -> int:
        """Steps that fit into the budget, from the median time of a few; those of a search are given."""
        times = []
        for number in range(n):
            begun = clock(self.at.device)
            step(number)
            times.append(clock(self.at.device) - begun)
        return self.steps or max(EVALUATIONS, int(self.budget / sorted(times)[n // 2]))

    def is_due(self, done: int, n_steps: int) -> bool:
        """Measure at the end, and from a third of the way on now and then, if there is a target."""
        now = done > n_steps // 3 and done % max(1, n_steps // EVALUATIONS) == 0
        return done == n_steps or (now and not self.sets_target)

    def follow(self, rows: Callable[..., Iterator[dict]], lr: float) -> int:
        """Steps that our loop takes to the target, or all it has; `rows(schedule, steps)` is the loop."""
        from llmchain.pretrain.training import warmup_cosine

        timing = rows(lambda step: 0.0, range(6))
        n_steps = self.planned(lambda number: next(timing))
        timing.close()  # and let go of its optimizer's moments
        schedule = lambda step: warmup_cosine(step, n_steps, n_steps // 20, lr, lr / 10)  # noqa: E731
        for done, row in enumerate(rows(schedule, range(n_steps)), 1):
            self.seconds += row["seconds"]
            if self.is_due(done, n_steps) and self.measured():
                return done
        return n_steps

    def measured(self) -> bool:
        """Measure; True when the race is over for this contender."""
        self.curve.append((round(self.seconds, 1), self.loss()))
        return self.curve[-1][1] <= self.target

    def told(
        self, n_steps: int, tokens: int, n_matrix: int, precision: str = "fp32"
    ) -> dict[str, Any]:
        """The result as the benchmark prints it; `n_matrix` weights are multiplied for each token."""
        from llmchain.pretrain.training import flops_per_token, matmul_flops_per_second

        loss = self.curve[-1][1]
        quality: dict[str, Any] = {"loss": round(loss, 4)}
        if self.sets_target:
            self.file.write_text(json.dumps({"loss": loss, "steps": n_steps}))
        else:
            quality |= {"target": round(self.target, 4), "under_target": loss <= self.target}
        speed = tokens / self.seconds
        at = self.at
        flops = speed * flops_per_token(n_matrix, at.depth, at.width, at.context)
        ceiling = matmul_flops_per_second(precision, at.device)  # of this machine, now
        quality |= {"steps": n_steps, "tokens_per_second": round(speed), "precision": precision}
        quality |= {"gflops": round(flops / 1e9), "ceiling_gflops": round(ceiling / 1e9)}
        quality["of_ceiling"] = round(flops / ceiling, 3)
        if at.device == "cuda":
            import torch

            quality["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
        return {"value": self.seconds, "quality": quality}


def blocks(stream: Any, at: Size, seed: int = 0) -> Iterator[Any]:
    """Batches of random blocks, as nanoGPT draws them: (batch, context + 1)."""
    import numpy as np
    import torch

    rng = np.random.default_rng(seed)
    while True:
        starts = rng.integers(0, len(stream) - at.context - 1, at.batch)
        places = starts[:, None] + np.arange(at.context + 1)
        yield torch.from_numpy(np.asarray(stream)[places].astype(np.int64)).to(at.device)


def held_out(stream: Any, at: Size) -> Any:
    """(N, context + 1) held-out tokens."""
    import numpy as np
    import torch

    n = HELD_OUT // at.context
    places = np.arange(n)[:, None] * at.context + np.arange(at.context + 1)
    return torch.from_numpy(np.asarray(stream)[places].astype(np.int64)).to(at.device)


def mean_loss(logits_of: Callable[[Any], Any], windows: Any) -> float:
    """Nats a token in fp32, for any model."""
    import torch
    import torch.nn.functional as F

    total = 0.0
    with torch.inference_mode():
        for part in windows.split(8):
            logits = logits_of(part[:, :-1]).float()
            total += float(
                F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
            )
    return total / windows[:, 1:].numel()


# ── contenders ────────────────────────────────────────────────────────────────────────────────


def nanogpt(
    train: Any, windows: Any, vocab_size: int, folder: Path, rate: float, steps: int, at: Size
) -> dict[str, Any]:
    """Its loop: random blocks, AdamW with decay on matrices, warm-up, cosine to a tenth, clipping; fp32 on
    a processor, compiled and in bf16 on a GPU, as its own settings have it."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = (nn.LayerNorm(at.width, bias=False) for _ in range(2))
            self.qkv, self.out = (nn.Linear(at.width, n * at.width, bias=False) for n in (3, 1))
            self.up = nn.Linear(at.width, 4 * at.width, bias=False)
            self.down = nn.Linear(4 * at.width, at.width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shape = (*x.shape[:2], at.heads, at.width // at.heads)
            q, k, v = (
                t.view(shape).transpose(1, 2) for t in self.qkv(self.before(x)).split(at.width, 2)
            )
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(seen.transpose(1, 2).reshape(x.shape))
            return x + self.down(F.gelu(self.up(self.after(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(vocab_size, at.width)
            self.places = nn.Embedding(at.context, at.width)
            self.layers = nn.ModuleList(Layer() for _ in range(at.depth))
            self.norm = nn.LayerNorm(at.width, bias=False)
            for name, p in self.named_parameters():
                if p.dim() > 1:
                    residual = name.endswith(("out.weight", "down.weight"))
                    nn.init.normal_(p, std=0.02 / (2 * at.depth) ** 0.5 if residual else 0.02)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.tokens(ids) + self.places.weight[: ids.size(1)]
            for layer in self.layers:
                x = layer(x)
            return self.norm(x) @ self.tokens.weight.T

    torch.manual_seed(0)
    model = Model().to(at.device)
    autocast = contextlib.nullcontext()
    if at.device == "cuda":
        autocast = torch.autocast("cuda", torch.bfloat16)
        model.compile()
    race = Race(folder, lambda: mean_loss(model, windows), BUDGETS["nanogpt"], True, steps, at)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99))
    drawn = blocks(train, at)

    def step(scale: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
        part = next(drawn)
        with autocast:
            logits = model(part[:, :-1])
            loss = F.cross_entropy(logits.view(-1, vocab_size), part[:, 1:].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    n_steps = race.planned(lambda number: step(0.0))
    for number in range(n_steps):
        begun = clock(at.device)
        progress = max(0.0, (number - 100) / max(1, n_steps - 100))
        step(min((number + 1) / 100, 0.1 + 0.45 * (1 + math.cos(math.pi * progress))))
        race.seconds += clock(at.device) - begun
    race.measured()
    precision = "bf16" if at.device == "cuda" else "fp32"
    n_matrix = at.matrices(vocab_size)
    return race.told(n_steps, n_steps * at.batch * at.context, n_matrix, precision)


def ours(
    train: Any, windows: Any, vocab_size: int, folder: Path, rate: float, steps: int, at: Size,
    target: float = 0.0, budget: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """The model of 08_gpt, the loop of 10_training: Muon, bf16 where there is any. Its target is that of the round,
    or one that is given with a budget of seconds."""
    import numpy as np
    import torch

    from llmchain.pretrain.gpt import GPT, GPTConfig
    from llmchain.pretrain.objectives import CausalObjective, clm_batch
    from llmchain.pretrain.training import compiled, make_optimizer, training_steps

    sizes = {"n_layer": at.depth, "n_head": at.heads, "n_embd": at.width}
    sizes |= {"block_size": at.context}
    config = GPTConfig(vocab_size=vocab_size, dropout=0.0, **sizes)
    model = GPT(config, torch.Generator().manual_seed(0)).to(at.device)
    stream, precision = np.asarray(train), precision_of(at)
    loss = lambda: mean_loss(model.eval(), windows)  # noqa: E731
    race = Race(folder, loss, budget or OURS[precision], steps=steps, at=at, target=target)

    def rows(schedule: Callable[[int], float], steps: range) -> Iterator[dict]:
        optimizer = make_optimizer(model, 0.1, (0.9, 0.99), muon=7.0)
        batches = lambda step: clm_batch(stream, step, at.batch, at.context, 0)  # noqa: E731
        how = {"precision": precision, "device": at.device}
        return training_steps(model, optimizer, CausalObjective(), batches, schedule, steps, **how)

    with compiled(model) if at.device == "cuda" else contextlib.nullcontext():
        done = race.follow(rows, lr=rate)
    return race.told(done, done * at.batch * at.context, at.matrices(vocab_size), precision)


def trainer(
    train: Any, windows: Any, vocab_size: int, folder: Path, rate: float, steps: int, at: Size
) -> dict[str, Any]:
    """GPT-2 of transformers under its Trainer."""
    import numpy as np
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    on_gpu = at.device == "cuda"
    sizes = {"n_layer": at.depth, "n_head": at.heads, "n_embd": at.width, "n_positions": at.context}
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **sizes, **off)).to(at.device)
    loss = lambda: mean_loss(lambda ids: model(ids).logits, windows)  # noqa: E731
    race = Race(folder, loss, BUDGETS["trainer"], steps=steps, at=at)
    drawn = blocks(train, at)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def timed(number: int) -> None:
        ids = next(drawn)[:, :-1]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    n_steps = race.planned(timed)
    starts = np.random.default_rng(0).integers(0, len(train) - at.context, n_steps * at.batch)
    rows = [{"input_ids": (ids := np.asarray(train[s : s + at.context]).astype(np.int64)), "labels": ids} for s in starts.tolist()]  # fmt: skip
    n_done = run_trainer(model, rows, race, n_steps, at.batch, learning_rate=rate, bf16=on_gpu)
    precision, n_matrix = "bf16" if on_gpu else "fp32", at.matrices(vocab_size)
    return race.told(n_done, n_done * at.batch * at.context, n_matrix, precision)


def run_trainer(model: Any, rows: list, race: Race, n_steps: int, batch: int, **how: Any) -> int:
    """Steps that the Trainer took to the target; its clock stands while the loss is measured."""
    import tempfile

    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Watch(TrainerCallback):
        begun = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not state.global_step:
                self.begun = clock(race.at.device)

        def on_step_end(
            self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
        ) -> Any:
            if not race.is_due(state.global_step, n_steps):
                return control
            race.seconds += clock(race.at.device) - self.begun
            model.eval()
            control.should_training_stop |= race.measured()
            model.train()
            self.begun = clock(race.at.device)
            return control

    collate = how.pop("data_collator", None)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            max_steps=n_steps,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=race.at.device == "cpu",
            seed=0,
            **how,
        )
        extra = {"data_collator": collate} if collate else {}
        run = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Watch()], **extra)
        run.train()
    return run.state.global_step


def main(
    who: str, data: Path, folder: Path, rate: float | str = 0.0, steps: int | str = 0
) -> dict[str, Any]:
    """One contender; a rate and a number of steps are those of a search."""
    from llmchain.pretrain.objectives import load_clm

    at = size_here()
    train, meta = load_clm(data, "train")
    windows = held_out(load_clm(data, "validation")[0], at)
    contender = {"ours": ours, "nanogpt": nanogpt, "trainer": trainer}[who]
    rate = float(rate) or RATES[at.device][who]
    return contender(train, windows, meta["vocab_size"], folder, rate, int(steps), at)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])))
