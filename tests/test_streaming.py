"""Shards that survive kills, an order without a table, batches made ahead, and recipes at tiny size."""

import json
import shutil
import threading
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmchain.data.rows import Notice
from llmchain.pretrain import streaming
from llmchain.pretrain.scaling import HARDWARE
from llmchain.pretrain.streaming import (
    RECIPES,
    MaskTokens,
    PaddedCausal,
    PaddedMasked,
    TokenShards,
    card_named,
    cut_runs,
    hub_files,
    hub_rows,
    keyed_order,
    new_model,
    padded_size,
    parts_that_fit,
    pinned,
    prefetched,
    recipe_batches,
    recipe_flops,
    recipe_parameters,
    recipe_schedule,
    rows_of,
    shard_dtype,
    source_rows,
    split_of,
    stream_clm_batch,
    stream_mlm_batch,
    texts_of,
    token_runs,
    train_recipe,
    window_numbers,
    write_token_shards,
)
from llmchain.pretrain.training import backward_batch

EOS, V = 0, 50
ABOUT = {"tokenizer": "a" * 64, "vocab_size": V, "eos_token_id": EOS, "source": "s", "revision": ""}
MASKS = MaskTokens(cls_id=1, sep_id=0, mask_id=2, special_ids=(0, 1, 2))
GPT_TINY, BERT_TINY = RECIPES["gpt-tiny"], RECIPES["bert-tiny"]


def tokens_of(text):
    "A token for each character."
    return [3 + ord(c) % (V - 3) for c in text]


def encode(texts):
    return [tokens_of(text) for text in texts]


def documents(n=60, seed=0):
    "Texts of 1 to 90 characters."
    rng = np.random.default_rng(seed)
    return ["".join(map(chr, rng.integers(97, 123, rng.integers(1, 90)))) for _ in range(n)]


def one_array(texts):
    "The stream as 07 packs it."
    return np.array([t for text in texts for t in [*tokens_of(text), EOS]])


def stream_of(folder, texts=None, shard_tokens=100, **more):
    write_token_shards(folder, texts or documents(), encode, ABOUT | more, shard_tokens)
    return TokenShards(folder)


@pytest.fixture
def stream(tmp_path):
    return stream_of(tmp_path / "stream")


@pytest.fixture(scope="module")
def long_stream(tmp_path_factory):
    return stream_of(tmp_path_factory.mktemp("long"), documents(400), 2000)


# ── shards ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shard_tokens", [1, 7, 100, 10_000])
def test_shards_joined_are_the_stream_whatever_their_size(tmp_path, shard_tokens):
    found = stream_of(tmp_path / "s", shard_tokens=shard_tokens)
    whole = one_array(documents())
    assert np.array_equal(np.concatenate(found.shards), whole)
    assert {len(s) for s in found.shards[:-1]} <= {shard_tokens}
    assert np.array_equal(found.window(0, found.n_tokens), whole)


def test_a_window_is_that_of_one_array_wherever_it_lies(stream):
    whole = one_array(documents())
    for start in range(0, stream.n_tokens - 250, 37):
        assert stream.window(start, 250).tolist() == whole[start : start + 250].tolist()
    with pytest.raises(IndexError, match="no window"):
        stream.window(stream.n_tokens - 1, 2)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_killed_call_is_not_finished_and_goes_on_with_the_same_bytes(tmp_path, calls):
    "More than 64 documents, so that the encoder is called several times."
    texts = documents(300)
    whole = write_token_shards(tmp_path / "whole", texts, encode, ABOUT, 100)
    n_called, encoded = 0, []

    def killed(batch):
        nonlocal n_called
        n_called += 1
        if n_called > calls:
            raise KeyboardInterrupt
        return encode(batch)

    def counting(batch):
        encoded.extend(batch)
        return encode(batch)

    with pytest.raises(KeyboardInterrupt):
        write_token_shards(tmp_path / "killed", texts, killed, ABOUT, 100)
    with pytest.raises(FileNotFoundError, match="was not finished"):
        TokenShards(tmp_path / "killed")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("*.npy")}
    resumed = write_token_shards(tmp_path / "killed", texts, counting, ABOUT, 100)
    assert resumed["shards"] == whole["shards"] and before
    assert all((tmp_path / "killed" / n).stat().st_mtime_ns == t for n, t in before.items())
    assert len(encoded) < len(texts) - 64 * (calls - 1) + 3, "what is done is not encoded again"


def test_a_kill_inside_a_document_that_fills_many_shards(tmp_path, monkeypatch):
    texts = ["a" * 5, "b" * 1000, "c" * 30]
    whole = write_token_shards(tmp_path / "whole", texts, encode, ABOUT, 64)
    real, saved = streaming.save_shard, []

    def dies(*given):
        if len(saved) == 7:
            raise KeyboardInterrupt
        saved.append(given)
        return real(*given)

    monkeypatch.setattr(streaming, "save_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        write_token_shards(tmp_path / "killed", texts, encode, ABOUT, 64)
    monkeypatch.setattr(streaming, "save_shard", real)
    assert write_token_shards(tmp_path / "killed", texts, encode, ABOUT, 64)["shards"] == whole["shards"]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), max_size=12), st.integers(1, 30), st.integers(0, 120), st.data()
)
def test_cutting_goes_on_from_any_shard(lengths, shard_tokens, max_tokens, data):
    runs = [np.arange(n) + 100 * i for i, n in enumerate(lengths)]
    nothing = {"shards": [], "documents": 0, "skip": 0}
    cut = list(cut_runs(runs, shard_tokens, max_tokens, nothing))
    whole = np.concatenate([*runs, np.zeros(0)])[: max_tokens or None]
    assert np.concatenate([t for t, _ in cut] + [np.zeros(0)]).tolist() == whole.tolist()
    if cut:
        k = data.draw(st.integers(1, len(cut)))
        state = cut[k - 1][1] | {"shards": [{"tokens": len(t)} for t, _ in cut[:k]]}
        rest = list(cut_runs(runs[state["documents"] :], shard_tokens, max_tokens, state))
        assert [t.tolist() for t, _ in rest] == [t.tolist() for t, _ in cut[k:]]
        assert [place for _, place in rest] == [place for _, place in cut[k:]]


def test_a_finished_folder_is_not_written_again(tmp_path):
    first = write_token_shards(tmp_path, documents(), encode, ABOUT, 100)
    again = write_token_shards(tmp_path, [], lambda batch: 1 / 0, ABOUT, 100)
    assert again["shards"] == first["shards"] and again["tokens"] == first["tokens"]


def test_max_tokens_is_where_it_ends(tmp_path):
    made = write_token_shards(tmp_path, documents(), encode, ABOUT, 100, max_tokens=250)
    assert [e["tokens"] for e in made["shards"]] == [100, 100, 50] and made["tokens"] == 250


def test_two_bytes_a_token_as_long_as_they_do(tmp_path):
    assert shard_dtype(50_257) == shard_dtype(1 << 16) == np.uint16
    assert shard_dtype((1 << 16) + 1) == np.uint32
    with pytest.raises(ValueError, match="from 1 to 2\\*\\*32, got 0"):
        shard_dtype(0)
    big = ABOUT | {"vocab_size": 100_000}
    write_token_shards(tmp_path, ["ab"], lambda texts: [[70_000, 99_999]], big)
    assert TokenShards(tmp_path).window(0, 3).tolist() == [70_000, 99_999, EOS]


def test_texts_without_tokens_leave_no_lonely_end(tmp_path):
    made = write_token_shards(tmp_path, ["ab", "", "c"], encode, ABOUT)
    assert TokenShards(tmp_path).window(0, 5).tolist() == [*tokens_of("ab"), EOS, *tokens_of("c"), EOS]  # fmt: skip
    assert made["tokens"] == 5


# ── what is wrong with shards is one line ─────────────────────────────────────────────────────


def one_line(error, *words):
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-10])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def pickled(path):
    with path.open("wb") as file:
        np.save(file, np.array([print], dtype=object), allow_pickle=True)


def of_another_stream(path):
    np.save(path, np.arange(100).astype(np.uint16))


def of_floats(path):
    np.save(path, np.full(100, np.nan))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (Path.unlink, "is missing"),
        (truncated, "is no whole array of tokens"),
        (emptied, "is no whole array of tokens"),
        (pickled, "a pickle"),
        (flipped, "differs from its sha256"),
        (of_another_stream, "belongs to another stream"),
        (of_floats, "its manifest says 100 of uint16"),
    ],
)
def test_a_bad_shard_is_told_with_its_file_and_a_way_out(stream, tmp_path, damage, told):
    damage(tmp_path / "stream" / "shard-00001.npy")
    with pytest.raises(ValueError, match="remove the folder") as error:
        TokenShards(tmp_path / "stream")
    one_line(error, "shard-00001.npy", told)


def test_a_shard_that_is_in_no_manifest_is_refused(stream, tmp_path):
    np.save(tmp_path / "stream" / "shard-00099.npy", np.zeros(3, np.uint16))
    with pytest.raises(ValueError, match="shard-00099.npy is not in the manifest"):
        TokenShards(tmp_path / "stream")


def test_a_damaged_shard_is_seen_before_a_killed_call_goes_on(tmp_path):
    def killed(batch):
        if batch[0] != texts[0]:
            raise KeyboardInterrupt
        return encode(batch)

    texts = documents(100)
    with pytest.raises(KeyboardInterrupt):
        write_token_shards(tmp_path, texts, killed, ABOUT, 100)
    flipped(tmp_path / "shard-00000.npy")
    with pytest.raises(ValueError, match="shard-00000.npy differs from its sha256"):
        write_token_shards(tmp_path, texts, encode, ABOUT, 100)


def test_another_tokenizer_and_a_smaller_model_are_refused(stream, tmp_path):
    with pytest.raises(ValueError, match="the tokenizer is another one") as error:
        TokenShards(tmp_path / "stream", "b" * 64, vocab_size=V - 1)
    one_line(error, "aaaaaaaa…", "bbbbbbbb…", f"it has {V} tokens, the model {V - 1}")
    TokenShards(tmp_path / "stream", "a" * 64, vocab_size=V)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tokenizer": "b" * 64}, "tokenizer was aaaa"),
        ({"source": "another"}, "source was s, is another"),
        ({"revision": "1"}, "revision was , is 1"),
    ],
)
def test_a_folder_of_another_job_is_refused(stream, tmp_path, change, told):
    with pytest.raises(ValueError, match="take another folder") as error:
        write_token_shards(tmp_path / "stream", documents(), encode, ABOUT | change, 100)
    one_line(error, told)


def test_shards_without_a_record_are_not_written_over(tmp_path):
    np.save(tmp_path / "shard-00000.npy", np.zeros(3, np.uint16))
    with pytest.raises(ValueError, match="no record of it; take another folder"):
        write_token_shards(tmp_path, documents(), encode, ABOUT)


def test_an_empty_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the source s gave no token"):
        write_token_shards(tmp_path, [], encode, ABOUT)


def test_tokens_beyond_the_vocabulary_name_the_document(tmp_path):
    def wrong(texts):
        return [[V if text == "bad" else 5] for text in texts]

    with pytest.raises(
        ValueError, match=f"document 2 has token {V}, the vocabulary is 0 to {V - 1}"
    ):
        list(token_runs(["a", "b", "bad"], wrong, EOS, V))
    with pytest.raises(ValueError, match="end-of-text 50 is not in 0 to 49"):
        list(token_runs(["a"], encode, V, V))
    with pytest.raises(TypeError, match="document 8: a text must be str, got float"):
        list(token_runs(["a", float("nan")], encode, EOS, V, first=7))
    with pytest.raises(
        ValueError, match="document 0 is the lone surrogate|document 0: character 0"
    ):
        list(token_runs(["\ud800"], encode, EOS, V))


def test_no_space_is_told_before_a_shard_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10))
    with pytest.raises(OSError, match="no space for a shard of"):
        write_token_shards(tmp_path, documents(), encode, ABOUT, 100)
    assert not list(tmp_path.glob("*.npy"))


def test_a_disk_that_fills_up_leaves_no_half_shard(tmp_path, monkeypatch):
    def full(file, *given, **how):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(streaming.np, "save", full)
    with pytest.raises(OSError, match="shard-00000.npy could not be written: No space left"):
        write_token_shards(tmp_path, documents(), encode, ABOUT, 100)
    assert not [p for p in tmp_path.iterdir() if "shard" in p.name]


# ── sources ───────────────────────────────────────────────────────────────────────────────────


def test_a_text_falls_on_one_side_whatever_the_order():
    rows = [{"text": text} for text in documents(400)]
    sides = {row["text"]: split_of(row, 0.2) for row in rows}
    held_out = list(texts_of(reversed(rows), "validation", 0.2))
    assert set(held_out) == {t for t, s in sides.items() if s == "validation"}
    assert (
        40 < len(held_out) < 120 and len(held_out) + len(list(texts_of(rows, "train", 0.2))) == 400
    )
    assert split_of({"text": "x", "split": "test"}, 0.2) == "test"


def test_what_is_no_text_is_counted_and_not_dropped_in_silence():
    noted = {}
    items = [
        {"text": "a"},
        {"text": "  "},
        {"html": "<p>"},
        Notice("f", "not JSON"),
        {"text": None},
    ]
    assert list(texts_of(items, "train", 0.0, noted)) == ["a"]
    assert noted == {"no text": 3, "not JSON": 1}


def test_a_folder_is_read_by_the_readers_of_the_course(tmp_path):
    long = "x" * 100_000
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": "one"}) + "\nnot json\n" + json.dumps({"text": long})
    )
    (tmp_path / "b.txt").write_bytes(b"zwei")
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "d.txt").write_bytes(b"")
    noted = {}
    assert list(texts_of(source_rows(str(tmp_path)), "train", 0.0, noted)) == ["one", long, "zwei"]
    assert sum(noted.values()) == 3, noted
    with pytest.raises(FileNotFoundError, match="there is no folder /nowhere; give corpus"):
        list(source_rows("/nowhere"))


COMMIT = "0123456789abcdef0123456789abcdef01234567"
ADDRESS = f"hub:owner/name@{COMMIT}/data/*.parquet"


class FakeHub:
    "A local folder behind the two methods that are used of huggingface_hub.HfApi."

    def __init__(self, folder, licence="odc-by", fails=None):
        self.folder, self.licence, self.fails, self.asked = folder, licence, fails, []

    def dataset_info(self, repo_id, *, revision):
        if self.fails:
            raise self.fails
        names = [p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*.parquet")]
        files = [types.SimpleNamespace(rfilename=name) for name in names]
        return types.SimpleNamespace(siblings=files, card_data={"license": self.licence})

    def hf_hub_download(self, repo_id, filename, *, repo_type, revision):
        assert (repo_id, repo_type, revision) == ("owner/name", "dataset", COMMIT)
        self.asked.append(filename)
        return str(self.folder / filename)


@pytest.fixture
def hub(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, texts in {
        "data/b": ["three"],
        "data/a": ["one", "two", None],
        "other/c": ["no"],
    }.items():
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"text": texts}), path, row_group_size=1)
    return FakeHub(tmp_path)


def test_rows_of_the_hub_come_file_by_file_in_order(hub):
    rows = hub_rows(ADDRESS, hub)
    assert next(rows)["text"] == "one" and hub.asked == ["data/a.parquet"]
    noted = {}
    assert list(texts_of(rows, "train", 0.0, noted)) == ["two", "three"] and noted == {"no text": 1}
    assert hub.asked == ["data/a.parquet", "data/b.parquet"]


def test_rows_of_the_hub_know_where_they_are_from(hub):
    row = next(hub_rows(ADDRESS, hub))
    assert (row["package"], row["version"], row["licence"]) == ("owner/name", COMMIT, "odc-by")


@pytest.mark.parametrize(
    "address",
    [
        "hub:owner/name@main/data/*",
        "hub:owner/name/data/*",
        f"hub:name@{COMMIT}/x",
        f"hub:o/n@{COMMIT}/",
    ],
)
def test_an_address_without_a_commit_is_refused(address):
    with pytest.raises(ValueError, match="is no address of the form hub:") as error:
        hub_files(address, api=object())
    one_line(error, address)


def test_a_pattern_that_fits_nothing_and_a_licence_that_forbids_are_refused(hub):
    with pytest.raises(ValueError, match=r"none of its 3 files fits \*\.csv"):
        hub_files(f"hub:owner/name@{COMMIT}/*.csv", hub)
    hub.licence = "cc-by-nc-4.0"
    with pytest.raises(ValueError, match="licence cc-by-nc-4.0, which forbids this use"):
        hub_files(ADDRESS, hub)


def test_no_network_and_an_unknown_revision_are_one_line(hub):
    hub.fails = OSError("404 Client Error.\n\nRevision Not Found for url")
    with pytest.raises(
        ConnectionError, match="404 Client Error.; check address and network"
    ) as error:
        next(hub_rows(ADDRESS, hub))
    one_line(error, ADDRESS)


def test_the_real_library_without_a_network_is_one_line_too(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="check address and network") as error:
        next(hub_rows(ADDRESS))
    one_line(error, ADDRESS)


# ── order ─────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_an_epoch_reads_each_item_once(n, seed, epoch):
    assert sorted(keyed_order(np.arange(n), n, seed, epoch).tolist()) == list(range(n))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    orders = [keyed_order(np.arange(500), 500, s, e) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert all((a != b).mean() > 0.9 for a, b in ((orders[0], orders[1]), (orders[0], orders[2])))
    backwards = keyed_order(np.arange(500)[::-1], 500, 0, 0)
    assert backwards[::-1].tolist() == orders[0].tolist()


def test_the_order_of_a_trillion_windows_needs_no_table():
    n = 10**12
    found = keyed_order(np.arange(n - 2000, n), n, 0)
    assert len(set(found.tolist())) == 2000 and 0 <= found.min() and found.max() < n
    assert abs(found.mean() / n - 0.5) < 0.05


def test_neighbours_are_torn_apart():
    order = keyed_order(np.arange(4000), 4000, 3)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.06
    assert 0.9 < np.abs(np.diff(order)).mean() / (4000 / 3) < 1.1


@pytest.mark.parametrize("n_windows", [1, 3, 29, 30, 31])
@pytest.mark.parametrize("n_ranks", [1, 2, 5])
def test_epochs_are_complete_and_ranks_share_them(n_windows, n_ranks):
    read = [
        [window_numbers(n_windows, step, 10, 7, rank, n_ranks) for rank in range(n_ranks)]
        for step in range(12)
    ]
    flat = np.concatenate([np.concatenate(step) for step in read])
    for epoch in range(120 // n_windows):
        assert sorted(flat[epoch * n_windows : (epoch + 1) * n_windows]) == list(range(n_windows))
    alone = np.concatenate([window_numbers(n_windows, step, 10, 7) for step in range(12)])
    assert flat.tolist() == alone.tolist()


def test_a_world_that_does_not_divide_the_batch_is_refused():
    for batch, rank, ranks in ((10, 0, 3), (10, 2, 2), (10, 0, 0), (0, 0, 1)):
        with pytest.raises(ValueError, match="the ranks must divide the batch"):
            window_numbers(20, 0, batch, 0, rank, ranks)
    with pytest.raises(ValueError, match="shorter than one window"):
        window_numbers(0, 0, 10, 0)


# ── batches ───────────────────────────────────────────────────────────────────────────────────


def test_an_epoch_predicts_each_token_once(stream):
    T, B = 12, 4
    n = (stream.n_tokens - 1) // (T - 1)
    rows = torch.cat([stream_clm_batch(stream, s, B, T, 5)["input_ids"] for s in range(-(-n // B))])
    predicted = rows[:n, 1:].flatten().sort().values
    assert predicted.tolist() == sorted(one_array(documents())[1 : n * (T - 1) + 1].tolist())


def test_the_last_window_is_read(stream):
    T = 12
    n = (stream.n_tokens - 1) // (T - 1)
    last = stream.window((n - 1) * (T - 1), T).tolist()
    rows = torch.cat([stream_clm_batch(stream, s, 4, T, 5)["input_ids"] for s in range(-(-n // 4))])
    assert last in rows[:n].tolist()


def test_a_batch_is_that_of_one_array(stream):
    whole, T = one_array(documents()), 20
    for step in (0, 3, 50):
        numbers = window_numbers((stream.n_tokens - 1) // (T - 1), step, 6, 1)
        wanted = [whole[n * (T - 1) : n * (T - 1) + T].tolist() for n in numbers.tolist()]
        assert stream_clm_batch(stream, step, 6, T, 1)["input_ids"].tolist() == wanted


@pytest.mark.parametrize("kind", ["clm", "mlm"])
def test_ranks_together_read_what_one_process_reads(stream, kind):
    tiny = GPT_TINY if kind == "clm" else BERT_TINY
    for step in (0, 7):
        whole = recipe_batches(tiny, stream, 12, 3, MASKS)(step)
        parts = [recipe_batches(tiny, stream, 12, 3, MASKS, r, 4)(step) for r in range(4)]
        for name in whole:
            assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])


def test_masked_rows_are_framed_and_hide_what_the_stream_has(stream):
    batch = stream_mlm_batch(stream, 4, 8, 30, 2, MASKS)
    assert (batch["input_ids"][:, 0] == 1).all() and (batch["input_ids"][:, -1] == 0).all()
    asked = batch["labels"] != -100
    assert not asked[:, [0, -1]].any() and 0.05 < asked.float().mean() < 0.3
    intact = torch.where(asked, batch["labels"], batch["input_ids"])
    numbers = window_numbers(stream.n_tokens // 28, 4, 8, 2)
    assert intact[:, 1:-1].tolist() == [
        stream.window(n * 28, 28).tolist() for n in numbers.tolist()
    ]
    again = stream_mlm_batch(stream, 4, 8, 30, 2, MASKS)
    assert all(torch.equal(batch[k], again[k]) for k in batch)


def test_masks_are_drawn_anew_each_epoch(tmp_path):
    stream = stream_of(tmp_path / "short", documents(4), 100)
    inside = stream.n_tokens // 2
    seen = [stream_mlm_batch(stream, s, 2, inside + 2, 0, MASKS)["labels"] for s in range(2)]
    assert not torch.equal(seen[0], seen[1])


def test_a_context_longer_than_the_stream_is_refused(stream):
    T = stream.n_tokens + 3
    with pytest.raises(ValueError, match="take more text or a shorter context"):
        stream_clm_batch(stream, 0, 4, T, 0)
    with pytest.raises(ValueError, match="take more text or another context"):
        stream_mlm_batch(stream, 0, 4, T, 0, MASKS)
    with pytest.raises(ValueError, match="block_size must be at least 2, got 1"):
        stream_clm_batch(stream, 0, 4, 1, 0)
    with pytest.raises(ValueError, match="give its MaskTokens"):
        recipe_batches(BERT_TINY, stream, 4, 0)


# ── prefetching ───────────────────────────────────────────────────────────────────────────────


def workers():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


@pytest.mark.parametrize("n_ahead", [0, 1, 3])
def test_order_and_content_are_those_without_the_thread(n_ahead):
    with prefetched(lambda step: {"step": step}, 12, n_ahead) as ahead:
        for step in (0, 0, 1, 2, 3, 7, 8, 2, 11, 11):
            assert ahead(step)["step"] == step
    assert not workers()


def test_nothing_is_made_beyond_the_run_and_nothing_twice():
    made = []
    with prefetched(lambda step: made.append(step) or {"step": step}, 5, 2) as ahead:
        for step in range(5):
            ahead(step)
    assert made == [0, 1, 2, 3, 4]


def test_a_batch_is_made_while_the_step_runs():
    begun, free = threading.Event(), threading.Event()

    def batches(step):
        if step == 1:
            begun.set()
            assert free.wait(2)
        return {"step": step}

    with prefetched(batches, 3) as ahead:
        ahead(0)
        assert begun.wait(2), "the next batch is begun before it is asked for"
        free.set()
        assert ahead(1) == {"step": 1}


def test_an_error_in_the_thread_reaches_the_caller_at_its_step():
    with (
        pytest.raises(ZeroDivisionError),
        prefetched(lambda step: {"x": 1 / (2 - step)}, 9) as ahead,
    ):
        for step in range(9):
            ahead(step)
            assert step < 2
    assert not workers()


def test_the_thread_ends_when_the_run_fails(long_stream):
    def dies(step, row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recipe(GPT_TINY, long_stream, n_steps=3, batch_tokens=256, on_step=dies)
    assert not workers()


def test_pinning_pins_tensors_and_only_when_asked(monkeypatch):
    pins = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pins.append(1) or self)
    batch = {"input_ids": torch.ones(2, 3), "note": "text"}
    with prefetched(lambda step: batch, 2, pin=False) as ahead:
        ahead(0)
    assert not pins
    with prefetched(lambda step: batch, 1, pin=True) as ahead:
        assert ahead(0)["note"] == "text" and len(pins) == 1
    assert pinned(batch).keys() == batch.keys()
    with pytest.raises(ValueError, match="n_ahead must not be negative"), prefetched(None, 1, -1):
        pass


# ── recipes ───────────────────────────────────────────────────────────────────────────────────

SHORT = {"n_steps": 6, "batch_tokens": 512, "tokens": MASKS}


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("tiny", [GPT_TINY, BERT_TINY], ids=["gpt", "bert"])
def test_killed_and_called_again_gives_the_same_bits(long_stream, tmp_path, tiny):
    whole, _ = train_recipe(tiny, long_stream, **SHORT)

    def dies(step, row):
        if step == 3:
            raise KeyboardInterrupt

    saved = SHORT | {"checkpoint_dir": tmp_path, "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        train_recipe(tiny, long_stream, on_step=dies, **saved)
    resumed, run = train_recipe(tiny, long_stream, **saved)
    assert run["resumed_from"] == 2 and torch.equal(flat(resumed), flat(whole))


def test_going_on_with_other_text_or_another_batch_is_refused(long_stream, stream, tmp_path):
    saved = SHORT | {"checkpoint_dir": tmp_path / "c", "n_steps": 2}
    train_recipe(GPT_TINY, long_stream, **saved)
    with pytest.raises(ValueError, match="batch_tokens was 512, is 1024") as error:
        train_recipe(GPT_TINY, long_stream, **saved | {"batch_tokens": 1024})
    one_line(error, "use another checkpoint_dir")
    with pytest.raises(ValueError, match="shard_tokens was 2000, is 100; tokens was"):
        train_recipe(GPT_TINY, stream, **saved)


@pytest.mark.parametrize("tiny", [GPT_TINY, BERT_TINY], ids=["gpt", "bert"])
def test_the_thread_changes_no_bit(long_stream, tiny):
    runs = [flat(train_recipe(tiny, long_stream, n_ahead=n, **SHORT)[0]) for n in (0, 3)]
    assert torch.equal(*runs)


@pytest.mark.parametrize("kind", ["clm", "mlm"])
def test_parts_of_a_batch_give_its_gradient(long_stream, kind):
    tiny = GPT_TINY if kind == "clm" else BERT_TINY
    batch = recipe_batches(tiny, long_stream, 8, 0, MASKS)(1)
    objective = (PaddedCausal if kind == "clm" else PaddedMasked)(V)
    gradients = []
    for n_micro in (1, 4):
        model = new_model(tiny, padded_size(V)).double().eval()
        backward_batch(model, objective, batch, n_micro)
        gradients.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["clm", "mlm"])
def test_rows_that_stand_for_no_token_change_nothing(long_stream, kind):
    tiny = GPT_TINY if kind == "clm" else BERT_TINY
    batch = recipe_batches(tiny, long_stream, 4, 0, MASKS)(0)
    objective = (PaddedCausal if kind == "clm" else PaddedMasked)(V)
    wide = new_model(tiny, padded_size(V)).double()
    bare = new_model(tiny, V).double()
    bare.load_state_dict({k: v[:V] if v.ndim and len(v) == padded_size(V) else v for k, v in wide.state_dict().items()})  # fmt: skip
    losses = []
    for model in (wide, bare):
        losses.append(objective.sums(model.eval(), batch)[kind])
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    for (name, p), q in zip(wide.named_parameters(), bare.parameters(), strict=True):
        if q.grad is not None:
            torch.testing.assert_close(p.grad[: len(q)], q.grad, atol=1e-10, rtol=1e-9)
            assert not p.grad[len(q) :].any(), name


def test_a_padded_size_is_the_next_multiple():
    assert [padded_size(n) for n in (1, 128, 129, 50_257)] == [128, 128, 256, 50_304]
    with pytest.raises(ValueError, match="both must be at least 1"):
        padded_size(0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_gpu_adds_runs_on_a_processor(long_stream, precision):
    "bf16, parts of a batch and the compiler, which only traces here."
    how = SHORT | {"n_steps": 3, "n_micro": 2, "precision": precision}
    _, plain = train_recipe(GPT_TINY, long_stream, **how)
    _, traced = train_recipe(GPT_TINY, long_stream, backend="aot_eager", **how)
    gaps = np.subtract(*[[row["loss"] for row in run["history"]] for run in (plain, traced)])
    assert np.abs(gaps).max() < (1e-4 if precision == "fp32" else 0.05)


def test_a_compiled_bert_trains_alike(long_stream):
    how = SHORT | {"n_steps": 2}
    still = replace(BERT_TINY, dropout=0.0)
    _, plain = train_recipe(still, long_stream, **how)
    _, traced = train_recipe(still, long_stream, backend="aot_eager", **how)
    gaps = np.subtract(*[[row["loss"] for row in run["history"]] for run in (plain, traced)])
    assert np.abs(gaps).max() < 1e-4


def test_muon_is_a_field_of_the_recipe(long_stream):
    with_muon = replace(GPT_TINY, muon=5.0)
    a, b = (flat(train_recipe(r, long_stream, **SHORT)[0]) for r in (GPT_TINY, with_muon))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("name", ["gpt-124m", "bert-base"])
def test_schedules_begin_peak_and_end_where_the_papers_say(name):
    recipe = RECIPES[name]
    rate = recipe_schedule(recipe, recipe.n_steps)
    assert rate(recipe.n_warmup - 1) == rate(recipe.n_warmup) == recipe.lr
    assert 0 < rate(0) == recipe.lr / recipe.n_warmup
    assert rate(recipe.n_steps) == pytest.approx(recipe.lr_min, abs=1e-12)
    middle = (recipe.n_warmup + recipe.n_steps) // 2
    assert rate(middle) == pytest.approx((recipe.lr + recipe.lr_min) / 2, rel=1e-3)


def test_a_short_run_warms_up_for_a_tenth():
    rate = recipe_schedule(RECIPES["gpt-124m"], 50)
    assert rate(4) == RECIPES["gpt-124m"].lr and rate(49) < rate(25)


def test_a_batch_is_stated_in_tokens():
    assert (
        rows_of(RECIPES["gpt-124m"], 491_520) == 480
        and rows_of(RECIPES["bert-base"], 131_072) == 256
    )
    with pytest.raises(ValueError, match="batch_tokens 1000 is no multiple of the context 1024"):
        rows_of(RECIPES["gpt-124m"], 1000)
    for recipe in RECIPES.values():
        assert rows_of(recipe, recipe.batch_tokens) >= 1


def test_as_few_parts_as_fit_and_a_device_that_is_too_small_is_refused():
    recipe = RECIPES["gpt-124m"]
    found = {gb: parts_that_fit(recipe, 50_304, 480, gb * 1e9) for gb in (16, 24, 80)}
    assert found[16][0] > found[24][0] > found[80][0] and all(
        480 % n == 0 for n, _ in found.values()
    )
    assert all(peak <= 0.9 * gb * 1e9 for gb, (_, peak) in found.items())
    assert parts_that_fit(recipe, 50_304, 480, 1e15)[0] == 1
    with pytest.raises(
        ValueError, match="gpt-124m: a single row needs .* take a larger device"
    ) as error:
        parts_that_fit(recipe, 50_304, 480, 2e9)
    one_line(error)


def test_operations_count_tokens_that_exist_and_places_that_are_scored():
    recipe = RECIPES["gpt-124m"]
    inner, width = 12 * 12 * 768**2, 768
    assert recipe_flops(recipe, 50_257) == 6 * (inner + 50_257 * width) + 12 * 12 * width * 1024
    bert = RECIPES["bert-base"]
    head = 0.15 * (30_522 * width + width**2)
    assert recipe_flops(bert, 30_522) == pytest.approx(6 * (inner + head) + 12 * 12 * width * 512)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H100 SXM"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", None),
        ("NVIDIA H100 PCIe", None),
        ("Tesla T4", None),
    ],
)
def test_a_card_is_its_own_line_of_the_table_or_none(name, line):
    assert card_named(name) == (HARDWARE[line] if line else None)


@pytest.mark.parametrize("name", list(RECIPES))
def test_parameters_by_formula_are_those_of_the_model(name):
    recipe = RECIPES[name]
    with torch.device("meta"):
        model = new_model(recipe, 1000)
    assert sum(recipe_parameters(recipe, 1000).values()) == sum(
        p.numel() for p in model.parameters()
    )
