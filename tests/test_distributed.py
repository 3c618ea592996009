"""Several processes: what is read by whom, checkpoints of shards, ranks that fall, and what is refused."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_world import in_world
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from llmchain.pretrain import distributed
from llmchain.pretrain.distributed import (
    backward_ranks,
    check_space,
    clm_recipe,
    command,
    distribute,
    evaluate_ranks,
    failure_line,
    held_out_rows,
    launch,
    launch_ray,
    load_sharded,
    own_rank,
    rank_batches,
    rank_rows,
    rank_seed,
    ray_failure_line,
    ray_running,
    ring_all_reduce,
    save_sharded,
    sharded_fault,
    train_distributed,
    whole,
)
from llmchain.pretrain.gpt import GPT, GPTConfig
from llmchain.pretrain.objectives import CausalObjective, batch_indices
from llmchain.pretrain.training import (
    backward_batch,
    make_optimizer,
    newest_checkpoint,
    warmup_cosine,
)

V, T, B, N_STEPS = 30, 8, 6, 9
MODULE = "llmchain.pretrain.distributed"
TIMES = ("seconds", "tokens_per_second")


def gpt(dropout=0.2, dtype=torch.float64, width=12, seed=1):
    sizes = GPTConfig(V, T, 1, 2, width, dropout)
    return GPT(sizes, torch.Generator().manual_seed(seed)).to(dtype)


def batches(step):
    ids = torch.from_numpy(np.random.default_rng(step).integers(0, V, (B, T)))
    return {"input_ids": ids}


def schedule(step):
    return warmup_cosine(step, N_STEPS, 2, 1e-2)


def stop_at(step):
    def on_step(i, row):
        if i == step:
            raise KeyboardInterrupt

    return on_step


def run(model, folder=None, **kw):
    kw = {"n_steps": N_STEPS, "schedule": schedule, "checkpoint_every": 3} | kw
    return train_distributed(model, CausalObjective(), batches, checkpoint_dir=folder, **kw)


def ended(strategy, folder=None, stop=None, dropout=0.2, **kw):
    "Trained weights of a run, or None of one that was stopped."
    model = gpt(dropout)
    try:
        result = run(model, folder, strategy=strategy, on_step=stop_at(stop), **kw)
    except KeyboardInterrupt:
        return None
    return {k: whole(v).tolist() for k, v in model.state_dict().items()}, result["resumed_from"]


# ---------------------------------------------------------------- who reads and says what


@given(n_ranks=st.integers(1, 7), size=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_ring_gives_every_rank_the_sum_and_sends_what_the_formula_says(n_ranks, size, seed):
    rng = np.random.default_rng(seed)
    vectors = [torch.from_numpy(rng.integers(-99, 99, size)) for _ in range(n_ranks)]
    sums, sent = ring_all_reduce(vectors)
    assert all(torch.equal(got, sum(vectors)) for got in sums)
    assert sum(sent) == 2 * (n_ranks - 1) * size  # on average 2 (P - 1) / P · N for each rank


@given(n_ranks=st.integers(1, 8), each=st.integers(1, 6), n_items=st.integers(1, 60), seed=st.integers(0, 99))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_ranks_read_every_row_of_an_epoch_once(n_ranks, each, n_items, seed):
    size = n_ranks * each
    read = []
    for step in range(-(-n_items // size)):
        batch = {"rows": torch.from_numpy(batch_indices(n_items, step, size, seed)), "kind": "text"}
        parts = [rank_rows(batch, rank, n_ranks) for rank in range(n_ranks)]
        assert torch.equal(torch.cat([part["rows"] for part in parts]), batch["rows"])
        assert {len(part["rows"]) for part in parts} == {each} and parts[-1]["kind"] == "text"
        read += batch["rows"].tolist()
    assert sorted(read[:n_items]) == list(range(n_items))


def test_a_world_that_does_not_divide_the_batch_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="4 ranks cannot share a batch of 6 rows; the number"):
        rank_rows(batches(0), 0, 4)
    with pytest.raises(RuntimeError, match="ValueError: rank_rows: 4 ranks cannot share"):
        in_world(4, ended, "ddp", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="n_micro must be from 1 to the batch's 6, got 7"):
        run(gpt(), n_micro=7)


def test_each_rank_has_its_own_dropout_and_rank_0_that_of_the_run():
    seeds = [rank_seed(seed, rank) for seed in range(5) for rank in range(5)]
    assert len(set(seeds)) == 25 and [rank_seed(seed, 0) for seed in range(5)] == list(range(5))


def test_the_batch_is_the_same_whoever_asks(monkeypatch):
    drawn = lambda step: {"ids": torch.randint(99, (B, 2))}  # noqa: E731, from the global stream
    parts = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "own_rank", lambda rank=rank: (rank, 3))
        torch.manual_seed(rank)
        parts.append(rank_batches(drawn, 5)(4)["ids"])
    monkeypatch.setattr(distributed, "own_rank", lambda: (0, 1))
    assert torch.equal(torch.cat(parts), rank_batches(drawn, 5)(4)["ids"])


class Draws(nn.Module):
    "Says what its dropout drew."

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.drawn = []

    def forward(self, input_ids):
        self.drawn.append(torch.rand(3).tolist())
        return self.weight * input_ids.sum()


class Sum:
    "The sum itself."

    def counts(self, batch):
        return {"sum": len(batch["input_ids"])}

    def sums(self, model, batch):
        return {"sum": model(batch["input_ids"])}


def draws():
    model = Draws()
    how = {"n_steps": 2, "schedule": lambda step: 1e-3, "seed": 3}
    train_distributed(model, Sum(), batches, **how)
    return model.drawn


def test_dropout_differs_from_rank_to_rank():
    first, second = in_world(2, draws)
    assert first == draws() and first[0] != second[0] and second[0] != second[1]


def messages_of_a_step(n_micro):
    "How often DDP talks about gradients."
    wrapped, sent = distribute(gpt(), "ddp"), []

    def hook(state, bucket):
        sent.append(1)
        future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return future.then(lambda done: done.value()[0] / dist.get_world_size())

    wrapped.register_comm_hook(None, hook)
    backward_ranks(wrapped, CausalObjective(), rank_rows(batches(0), *own_rank()), n_micro)
    return len(sent)


def test_gradients_are_sent_once_a_step_not_once_a_part():
    assert in_world(2, messages_of_a_step, 3) == in_world(2, messages_of_a_step, 1)


def test_a_rank_without_a_count_takes_part(monkeypatch):
    """Another rank has all the tokens: this one must still make its forward and backward pass."""
    monkeypatch.setattr(distributed, "sum_over_ranks", lambda values, device: {k: v + 8.0 for k, v in values.items()})  # fmt: skip
    model = gpt()
    empty = batches(0) | {"attention_mask": torch.zeros(B, T, dtype=torch.long)}
    backward_ranks(model, CausalObjective(), empty)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_ranks_that_start_from_different_weights_are_refused():
    def start():
        distribute(gpt(seed=own_rank()[0]), "fsdp")

    with pytest.raises(RuntimeError, match="start from different weights; use one seed"):
        in_world(2, start)


@given(n_ranks=st.integers(1, 8), size=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_held_out_rows_are_read_once_however_uneven(n_ranks, size):
    batch = {"rows": torch.arange(size), "kind": "text"}
    parts = [held_out_rows(batch, rank, n_ranks) for rank in range(n_ranks)]
    assert torch.equal(torch.cat([part["rows"] for part in parts]), batch["rows"])
    assert max(len(p["rows"]) for p in parts) - min(len(p["rows"]) for p in parts) <= 1


def test_held_out_rows_with_nothing_to_count_are_refused():
    with pytest.raises(ValueError, match="evaluate: the batches hold nothing to count"):
        evaluate_ranks(gpt(), CausalObjective(), [])


# ---------------------------------------------------------------- checkpoints of shards


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    "Checkpoints of two FSDP ranks that were stopped after seven steps, and the run undisturbed."
    folder = tmp_path_factory.mktemp("written")
    assert in_world(2, ended, "fsdp", folder / "of_two", 6) == [None, None]
    return folder, in_world(2, ended, "fsdp")[0][0]


def copy(written, tmp_path):
    shutil.copytree(written[0] / "of_two", tmp_path / "run")
    return tmp_path / "run"


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(written, tmp_path):
    for weights, resumed_from in in_world(2, ended, "fsdp", copy(written, tmp_path)):
        assert resumed_from == 6 and weights == written[1]


@pytest.mark.parametrize("n_ranks,strategy", [(1, "ddp"), (2, "ddp"), (3, "fsdp")])
def test_a_checkpoint_loads_at_another_number_of_ranks(written, tmp_path, n_ranks, strategy):
    def loaded(folder):
        model = gpt()
        wrapped = distribute(model, strategy)
        optimizer = make_optimizer(model, 0.1, (0.9, 0.95))
        state = load_sharded(newest_checkpoint(folder, sharded_fault), model, optimizer)
        again = save_sharded(folder / "again", model, optimizer, state)
        assert wrapped is not None
        return str(again)

    folder = copy(written, tmp_path)
    again = Path(in_world(n_ranks, loaded, folder)[0])
    assert len(list(again.glob("*.safetensors"))) == n_ranks
    assert tensors(again) == tensors(folder / again.name)


def tensors(path):
    "All tensors of a checkpoint, put together in one process."
    model = gpt()
    optimizer = make_optimizer(model, 0.1, (0.9, 0.95))
    load_sharded(path, model, optimizer)
    return {k: v.tolist() for k, v in distributed.sharded_tensors(model, optimizer).items()}


def test_one_writes_and_two_go_on(tmp_path):
    alone, _ = ended("ddp", dropout=0.0)
    assert ended("ddp", tmp_path, 4, 0.0) is None
    for weights, resumed_from in in_world(2, ended, "fsdp", tmp_path, None, 0.0):
        assert resumed_from == 3 and weights.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(
                torch.tensor(weights[name]), torch.tensor(value), atol=1e-9, rtol=0
            )


def test_shards_together_are_all_and_none_is_a_pickle(written):
    path = newest_checkpoint(written[0] / "of_two", sharded_fault)
    names = sorted(file.name for file in path.iterdir())
    assert [name.rpartition(".")[2] for name in names] == ["json"] + ["safetensors"] * 2 + ["json"]
    halves = [load_file(file) for file in sorted(path.glob("*.safetensors"))]
    key = "model/token_embedding.weight"
    assert [len(half[key]) for half in halves] == [V // 2, V // 2]
    assert not any("module." in name for half in halves for name in half)


FAULTS = {
    "a shard is lost": lambda path: next(path.glob("*2-model*")).unlink(),
    "a byte is flipped": lambda path: flip(next(path.glob("*.safetensors"))),
    "a shard of another run": lambda path: (path / "other.safetensors").write_bytes(b"x"),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "half a manifest": lambda path: (path / "manifest.json").write_text('{"step": 6'),
    "a manifest of letters": lambda path: (path / "manifest.json").write_text(
        '{"step": "x", "sha256": {}}'
    ),
    "a state without a hash": lambda path: unhashed(path),
    "renamed": lambda path: path.rename(path.with_name("step_00000008")),
}


def unhashed(path):
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]["state.json"]
    (path / "manifest.json").write_text(json.dumps(manifest))


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_torn_checkpoint_is_passed_over(written, tmp_path, fault):
    folder = copy(written, tmp_path)
    FAULTS[fault](folder / "step_00000006")
    with pytest.warns(UserWarning, match="going back to step_00000003"):
        assert newest_checkpoint(folder, sharded_fault).name == "step_00000003"


@pytest.mark.parametrize(
    "model,message",
    [
        (lambda: gpt(width=8), r"is \(12,\) .* there and \(8,\) .* in this"),
        (lambda: gpt(dtype=torch.float32), "torch.float64 there and .* torch.float32 in this"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), "is missing there and .* in this"),
    ],
    ids=["shape", "precision", "model"],
)
def test_a_checkpoint_of_another_model_is_refused_and_nothing_moves(written, model, message):
    other = model()
    before = [p.clone() for p in other.parameters()]
    path = newest_checkpoint(written[0] / "of_two", sharded_fault)
    with pytest.raises(ValueError, match=message) as told:
        load_sharded(path, other, make_optimizer(other, 0.1, (0.9, 0.95)))
    assert "\n" not in str(told.value)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_a_file_that_claims_shards_it_does_not_have_is_refused(written, tmp_path):
    folder = copy(written, tmp_path)
    path = folder / "step_00000006"
    shard = next(path.glob("*2-model*"))
    save_file({"model/extra": torch.ones(1)}, shard)  # no notes where its pieces belong
    with pytest.raises(ValueError, match="there and"):
        load_sharded(path, model := gpt(), make_optimizer(model, 0.1, (0.9, 0.95)))


def test_no_space_is_said_before_the_first_step(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(distributed.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"checkpoints need 0.2 MB in .*, 0.0 MB are free; make room"):
        run(gpt(), tmp_path / "new" / "deep", on_step=stop_at(0))
    check_space(tmp_path, 1000)
    with pytest.raises(OSError, match=r"no space for a checkpoint of .* MB .* 0.0 MB are free"):
        check_space(tmp_path / "new", 1001)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"schedule": lambda step: float("nan")}, "learning rate of step 0 is nan"),
        ({"schedule": lambda step: -1.0}, "learning rate of step 0 is -1.0"),
        ({"schedule": lambda step: 0.0}, "the learning rate is 0 at every step"),
        ({"eval_every": -1}, "eval_every must not be negative, got -1"),
    ],
)
def test_what_the_plain_loop_refuses_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(gpt(), **options)


def test_pickles_and_data_with_nothing_to_count_are_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="holds model.pt, a pickle"):
        run(gpt(), tmp_path)
    long = lambda step: {"input_ids": torch.zeros(B, T + 1, dtype=torch.long)}  # noqa: E731
    with pytest.raises(ValueError, match="train: the rows have 9 tokens, the model's context is 8"):
        train_distributed(gpt(), CausalObjective(), long, n_steps=N_STEPS, schedule=schedule)
    padding = lambda step: batches(step) | {"attention_mask": torch.zeros(B, T)}  # noqa: E731
    with pytest.raises(ValueError, match="nothing to count for clm in the batches of steps 0 to 8"):
        train_distributed(gpt(), CausalObjective(), padding, n_steps=N_STEPS, schedule=schedule)


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(written, tmp_path, monkeypatch):
    folder = copy(written, tmp_path)

    def space(folder, n_bytes):
        raise OSError("no space")

    monkeypatch.setattr(distributed, "check_space", space)  # asked when it is saved
    with pytest.raises(OSError, match="no space"):
        ended("ddp", folder)
    assert newest_checkpoint(folder, sharded_fault).name == "step_00000006"


def test_a_disk_that_is_full_while_shards_are_written_is_one_line(tmp_path):
    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
        run(gpt(), tmp_path / "run", strategy="fsdp")

    with pytest.raises(RuntimeError, match="OSError: train: no checkpoint could be written into .*File too large"):  # fmt: skip
        in_world(2, full)
    assert list((tmp_path / "run").iterdir()) == []


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    def save():
        model = gpt()
        distribute(model, "fsdp")
        optimizer = make_optimizer(model, 0.1, (0.9, 0.95))
        if own_rank()[0] == 1:
            next(model.parameters()).detach().to_local()[0] = float("nan")
        save_sharded(tmp_path, model, optimizer, {"step": 1})

    with pytest.raises(RuntimeError, match="FloatingPointError.*not finite after 1 steps"):
        in_world(2, save)
    assert list(tmp_path.iterdir()) == []


def test_only_the_newest_stay_and_leftovers_go(written, tmp_path):
    folder = copy(written, tmp_path)
    (folder / ".writing_shards").mkdir()
    ended("ddp", folder)
    assert sorted(p.name for p in folder.iterdir()) == ["step_00000006", "step_00000009"]


# ---------------------------------------------------------------- one clear line


def failure(folder, rank, exitcode, message="", at=0):
    "As torchrun's agent finds it: with an error file if the rank could still write one."
    file = folder / f"error_{rank}.json"
    if message:
        extra = {"py_callstack": "", "timestamp": str(at)}
        file.write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))
    return ProcessFailure(rank, 4711, exitcode, str(file))


@pytest.mark.parametrize(
    "failures,line",
    [
        ({0: (1, "RuntimeError: Connection closed by peer"), 1: (-9,)}, "rank 1 of 2 was killed by SIGKILL (often the kernel, out of memory), the"),
        ({0: (-15,), 1: (1, "ValueError: no", 9)}, "rank 1 of 2: ValueError: no"),
        ({0: (1, "RuntimeError: Connection reset"), 1: (1, "KeyError: 'x'\n at", 9)}, "rank 1 of 2: KeyError: 'x'"),
        ({0: (1, "RuntimeError: Timed out waiting 1000ms"), 1: (-15,)}, "rank 0 of 2: waited in vain for another rank, which is stuck; call again"),
        ({0: (1, "RuntimeError: Timed out waiting 1000ms"), 1: (-9, "", 9)}, "rank 0 of 2: waited in vain for another rank"),
        ({1: (-11,)}, "rank 1 of 2 was killed by SIGSEGV (last), the others were stopped; call again"),
        ({1: (3,)}, "rank 1 of 2: last"),
        ({0: (-6, "ValueError: no")}, "rank 0 of 2: ValueError: no"),
        ({0: (-6,), 1: (1, "ValueError: no", 9)}, "rank 1 of 2: ValueError: no"),
        ({0: (-6,), 1: (1, "RuntimeError: Connection closed")}, "rank 0 of 2 was killed by SIGABRT (last)"),
    ],
)  # fmt: skip
def test_the_cause_is_told_and_not_its_consequences(tmp_path, failures, line):
    found = {rank: failure(tmp_path, rank, *how) for rank, how in failures.items()}
    told = failure_line(found, 2, lambda rank: "last")
    assert told.startswith(line) and "\n" not in told


def test_a_lost_connection_is_not_the_cause(tmp_path):
    """The survivor complains first, since who is killed leaves no note of the time."""
    survivor = failure(tmp_path, 0, 1, "RuntimeError: Connection closed by peer", at=1)
    told = failure_line({0: survivor, 1: failure(tmp_path, 1, -9)}, 2)
    assert told.startswith("rank 1 of 2 was killed by SIGKILL")


@pytest.mark.parametrize(
    "words,message",
    [
        ({"n_processes": 0}, "launch: n_processes must be at least 1, got 0"),
        ({"n_processes": 4}, "launch: 4 ranks cannot share a batch of 6 rows"),
        ({"device": "tpu"}, "launch: device must be one of: auto, cpu, cuda; got tpu"),
        ({"function": f"{MODULE}:nothing"}, "launch: no function `.*:nothing`.*write `package"),
        ({"function": "no.such.module:f"}, "launch: no function `no.such.module:f`"),
        ({"device": "cuda", "n_processes": 6}, "6 ranks need as many GPUs, this machine has"),
    ],
)
def test_a_launch_that_cannot_be_meant_is_refused(words, message):
    words = {"function": f"{MODULE}:train_job", "n_processes": 2, "device": "cpu"} | words
    with pytest.raises(ValueError, match=message):
        launch(settings={"batch_size": 6}, **words)


# ---------------------------------------------------------------- torchrun


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    np.save(folder / "train.npy", np.random.default_rng(0).integers(0, V, 900).astype(np.uint16))
    (folder / "meta.json").write_text("{}")
    sizes = {"vocab_size": V, "block_size": T, "n_layer": 1, "n_head": 2, "n_embd": 12}
    made = {"tokens": str(folder), "sizes": sizes, "batch_size": B, "n_steps": N_STEPS}
    return made | {"lr": 1e-2, "seed": 0, "dtype": "float64", "ragged": True}


def started(recipe, n_ranks=2, timeout=60.0, on_line=None, fall=None, **options):
    job = recipe | {"options": options, "fall": fall}
    how = {"device": "cpu", "timeout": timeout, "n_threads": 1, "on_line": on_line}
    return launch(f"{MODULE}:train_job", job, n_ranks, **how)


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named_and_the_run_goes_on_to_the_same_bits(recipe, tmp_path):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    lines = []
    calm = started(recipe, strategy="fsdp", on_line=lines.append)
    assert [json.loads(line)["step"] for line in lines] == list(range(N_STEPS))
    assert calm[0]["digest"] == calm[1]["digest"]
    saving = {"strategy": "fsdp", "checkpoint_dir": str(tmp_path), "checkpoint_every": 2}
    with pytest.raises(RuntimeError, match="rank 1 of 2 was killed by SIGKILL"):
        started(recipe, fall=[1, 5], **saving)
    other = recipe | {"sizes": recipe["sizes"] | {"n_embd": 16}}
    with pytest.raises(RuntimeError, match="rank . of 2: ValueError: train: the checkpoint of step 4 belongs to another run .n_embd was 12, is 16"):  # fmt: skip
        started(other, **saving)
    again = started(recipe, **saving)
    assert again[0]["resumed_from"] == 4 and again[0]["digest"] == calm[0]["digest"]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.slow
@pytest.mark.parametrize(
    "options,words",
    [
        ({"strategy": "dp"}, "ValueError: distribute: strategy must be one of: ddp, fsdp; got dp"),
        ({"checkpoint_dir": "/proc/none"}, "OSError: train: checkpoints need 0.2 MB in /proc/none, 0.0 MB are free"),
    ],
    ids=["strategy", "no space"],
)  # fmt: skip
def test_an_error_on_a_rank_is_one_line(recipe, options, words):
    with pytest.raises(RuntimeError) as told:
        started(recipe, **options)
    assert str(told.value).startswith("launch: rank ") and "\n" not in str(told.value)
    assert words in str(told.value)


@pytest.mark.slow
def test_the_plain_command_says_one_line_and_ends_with_1(recipe, tmp_path):
    job = {"function": f"{MODULE}:train_job", "n_processes": 4, "device": "cpu", "n_threads": 1}
    (tmp_path / "job.json").write_text(json.dumps(job | {"settings": recipe}))
    words = [sys.executable, "-m", MODULE, str(tmp_path / "job.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "llmchain: launch: 4 ranks cannot share a batch of 6 rows; the number of ranks must divide it\n"  # fmt: skip


def test_the_plain_command_without_a_job_says_how(capsys, tmp_path):
    assert command() == 2 and capsys.readouterr().err.startswith("usage: python -m llmchain")
    assert command(str(tmp_path / "none.json")) == 1
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "job.json").write_text('{"functions": 1}')
    assert command(str(tmp_path / "job.json")) == 1
    assert "unexpected keyword argument 'functions'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rank_that_is_stuck_is_not_waited_for(recipe):
    def stop_one(line):
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        ranks = [
            int(pid)
            for pid in children
            if MODULE in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        ]
        os.kill(max(ranks), signal.SIGSTOP)

    with pytest.raises(RuntimeError, match="waited in vain for another rank"):
        started(recipe | {"n_steps": 2000}, timeout=2.0, on_line=stop_one)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_ranks_end_with_their_launcher_and_ctrl_c_is_ctrl_c(recipe, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(recipe | {"n_steps": 100000}))
    code = (
        "import json, os, sys, test_distributed as t\n"
        f"recipe = json.loads(open({str(tmp_path / 'recipe.json')!r}).read())\n"
        "try:\n    t.started(recipe, on_line=lambda line: print('step', flush=True))\n"
        "except KeyboardInterrupt:\n    print('Ctrl-C', flush=True)\n"
    )
    for number in (signal.SIGINT, signal.SIGKILL):
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        runner = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
        )  # fmt: skip
        assert runner.stdout.readline() == "step\n"
        pid = runner.pid
        ranks = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        runner.send_signal(number)
        # how many more steps were printed before the signal is the scheduler's affair
        told = set(runner.stdout.read().split("\n")) - {"step", ""}
        assert told == ({"Ctrl-C"} if number == signal.SIGINT else set())
        assert runner.wait(20) == (0 if number == signal.SIGINT else -signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any(alive(pid) for pid in ranks) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(ranks) >= 2 and not any(alive(pid) for pid in ranks)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_the_command_line_does_the_same(recipe, tmp_path):
    job = {"function": f"{MODULE}:train_job", "settings": recipe, "device": "cpu", "n_threads": 1}
    (tmp_path / "job.json").write_text(json.dumps(job))
    torchrun = Path(sys.executable).parent / "torchrun"
    words = ["--standalone", "--nproc-per-node", "2", "-m", MODULE, str(tmp_path / "job.json")]
    done = subprocess.run([torchrun, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / f"result_{rank}.json").read_text()) for rank in (0, 1)]
    assert results[0]["digest"] == started(recipe)[0]["digest"] == results[1]["digest"]


# ---------------------------------------------------------------- Ray Train


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    before = dict(os.environ)
    with pytest.raises(
        ImportError, match=r"^launch_ray: needs Ray: pip install 'llmchain\[scale\]'"
    ):
        launch_ray(f"{MODULE}:train_job", {"batch_size": 6}, 2, "cpu")
    with pytest.raises(ValueError, match="4 ranks cannot share a batch of 6 rows"):
        launch_ray(f"{MODULE}:train_job", {"batch_size": 6}, 4, "cpu")
    assert dict(os.environ) == before


class WorkerHealthCheckFailedError(Exception):
    "Named as Ray's, which says a page."


@pytest.mark.parametrize(
    "failures,line",
    [
        ({0: RuntimeError("Connection reset by peer"), 1: WorkerHealthCheckFailedError("a\npage")}, "rank 1 of 2 was killed (often"),
        ({0: RuntimeError("Connection reset by peer"), 1: KeyError("x")}, "rank 1 of 2: KeyError: 'x'"),
        ({1: ValueError("two\nlines")}, "rank 1 of 2: ValueError: two"),
        ({0: ValueError()}, "rank 0 of 2: ValueError: "),
    ],
)  # fmt: skip
def test_the_cause_is_told_of_ray_s_failures_too(failures, line):
    told = ray_failure_line(failures, 2)
    assert told.startswith(line) and "\n" not in told


@pytest.mark.slow
def test_ray_train_does_what_torchrun_does(recipe, tmp_path):
    """Two runs, since each start takes Ray ten seconds and more: one that ends with an error, one that goes on."""
    pytest.importorskip("ray", reason="extra scale is not installed")
    saving = {"strategy": "fsdp", "checkpoint_dir": str(tmp_path / "run"), "checkpoint_every": 4}
    file = lambda strategy: {"gradients": str(tmp_path / strategy), "strategy": strategy}  # noqa: E731
    jobs = [["gradient_job", recipe | file(strategy)] for strategy in ("ddp", "fsdp")]
    jobs += [
        ["train_job", recipe | {"options": options}] for options in (saving, {"strategy": "dp"})
    ]
    with ray_running(None, 2, 0):
        with pytest.raises(RuntimeError) as told:
            launch_ray(f"{MODULE}:jobs_in_turn", {"jobs": jobs}, 2, "cpu", n_threads=1)
        ends = launch_ray(
            f"{MODULE}:train_job", recipe | {"options": saving}, 2, "cpu", n_threads=1
        )
    words = "ValueError: distribute: strategy must be one of: ddp, fsdp; got dp"
    assert str(told.value).startswith("launch_ray: rank ") and str(told.value).endswith(words)
    model, objective, rows, _ = clm_recipe(recipe)
    backward_batch(model, objective, rows(0))
    for strategy in ("ddp", "fsdp"):
        found = load_file(tmp_path / strategy)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-10, rtol=0)
    newest = newest_checkpoint(tmp_path / "run", sharded_fault)
    assert newest.name == f"step_{N_STEPS:08d}" and len(list(newest.glob("*.safetensors"))) == 2
    calm = started(recipe, strategy="fsdp")
    assert [end["resumed_from"] for end in ends] == [N_STEPS] * 2
    assert {end["digest"] for end in ends} == {calm[0]["digest"]}
