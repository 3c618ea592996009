"""Bugs planted into the distributed loop: all of them train, most of them for a long time."""

MODULE = "llmchain.pretrain.distributed"
UNIT = "tests/test_distributed.py::"
EQUAL = "tests/equality/test_distributed.py::"
GRADIENT = EQUAL + "test_gradient_is_that_of_one_process[2-1-ddp]"

MUTANTS = [
    dict(
        name="mean_of_means",
        module=MODULE,
        old="    totals = sum_over_ranks(own, device)  # of all ranks, before any division\n",
        new="    totals = {term: n * own_rank()[1] for term, n in own.items()}\n",
        why="Each rank divides by its own count and DDP averages: tokens in short texts weigh too much.",
        killed_by=GRADIENT,
    ),
    dict(
        name="average_forgotten",
        module=MODULE,
        old="(own_rank()[1] * sum(shares.values())).backward()",
        new="sum(shares.values()).backward()",
        why="The gradient is too small by the number of ranks; Adam hides it until something is clipped.",
        killed_by=GRADIENT,
    ),
    dict(
        name="silent_rank",
        module=MODULE,
        old="    for i, part in enumerate(parts if losses else []):",
        new="    for i, part in enumerate(parts if any(own.values()) else []):",
        why="A rank without a count skips its backward pass, as the single process may; the others wait.",
        killed_by=UNIT + "test_a_rank_without_a_count_takes_part",
    ),
    dict(
        name="every_rank_reads_all",
        module=MODULE,
        old="            return rank_rows(batches(step), *own_rank())",
        new="            return batches(step)",
        why="No error, no gain, and a loss that looks right: every rank does the work of all.",
        killed_by=UNIT + "test_the_batch_is_the_same_whoever_asks",
    ),
    dict(
        name="wrong_rows",
        module=MODULE,
        old="    return split_batch(batch, n_ranks)[rank]",
        new="    return split_batch(batch, n_ranks)[0]",
        why="All ranks read the rows of the first: the others are never seen.",
        killed_by=UNIT + "test_ranks_read_every_row_of_an_epoch_once",
    ),
    dict(
        name="batch_from_the_rank_s_stream",
        module=MODULE,
        old="        with step_randomness(seed, step, device):\n            return rank_rows",
        new="        with step_randomness(rank_seed(seed, own_rank()[0]), step, device):\n            return rank_rows",
        why="Each rank draws another batch and cuts it: rows are read twice, others never.",
        killed_by=UNIT + "test_the_batch_is_the_same_whoever_asks",
    ),
    dict(
        name="one_dropout_for_all",
        module=MODULE,
        old="    own = rank_seed(seed, own_rank()[0])\n",
        new="    own = seed\n",
        why="The first row of every rank loses the same units.",
        killed_by=UNIT + "test_dropout_differs_from_rank_to_rank",
    ),
    dict(
        name="gradients_sent_for_every_part",
        module=MODULE,
        old="        with gradients_sent(model, i == n_micro - 1):",
        new="        with gradients_sent(model, True):",
        why="The result is right and the traffic is n_micro times what it should be.",
        killed_by=UNIT + "test_gradients_are_sent_once_a_step_not_once_a_part",
    ),
    dict(
        name="different_weights_pass",
        module=MODULE,
        old='    if sum_over_ranks({"other": float(not same)}, device)["other"]:',
        new="    if False:",
        why="FSDP makes a patchwork of two models, and it trains.",
        killed_by=UNIT + "test_ranks_that_start_from_different_weights_are_refused",
    ),
    dict(
        name="every_rank_publishes",
        module=MODULE,
        old="    if rank == 0:\n        publish_checkpoint",
        new="    if rank >= 0:\n        publish_checkpoint",
        why="Two ranks write one manifest and rename one folder; the second finds it gone.",
        killed_by=UNIT + "test_a_checkpoint_loads_at_another_number_of_ranks[2-ddp]",
    ),
    dict(
        name="lost_shard_passes",
        module="llmchain.pretrain.training",
        old='    for name in sorted({*needed, "state.json", *hashes}):',
        new='    for name in sorted({*needed, "state.json", *(n for n in hashes if (path / n).exists())}):',
        why="The reader takes the shards it finds for all there are: half of a model is loaded.",
        killed_by=UNIT + "test_a_torn_checkpoint_is_passed_over[a shard is lost]",
    ),
    dict(
        name="strange_shard_passes",
        module=MODULE,
        old="needed=(), others=False)",
        new="needed=())",
        why="Files beyond the manifest do no harm in one process; here the reader takes them for shards.",
        killed_by=UNIT + "test_a_torn_checkpoint_is_passed_over[a shard of another run]",
    ),
    dict(
        name="held_out_rows_left_over",
        module=MODULE,
        old="        key: value.tensor_split(n_ranks)[rank] if isinstance(value, Tensor) else value\n",
        new="        key: value[rank * (len(value) // n_ranks):][: len(value) // n_ranks] if isinstance(value, Tensor) else value\n",
        why="Sharing out evenly and forgetting the rest: the last rows are never measured.",
        killed_by=UNIT + "test_held_out_rows_are_read_once_however_uneven",
    ),
    dict(
        name="evaluation_of_own_rows",
        module=MODULE,
        old="    return mean_of(sum_over_ranks(sums, device), sum_over_ranks(counts, device))",
        new="    return mean_of(sums, counts)",
        why="Each rank reports the loss of its own rows; the one that prints is taken for all.",
        killed_by=EQUAL
        + "test_held_out_loss_is_that_of_one_process_and_the_same_on_all_ranks[gpt-2-ddp]",
    ),
    dict(
        name="precision_rounded_in_silence",
        module=MODULE,
        old="    own = {k: (tuple(v.shape), v.dtype) for k, v in model_tensors(model).items()}",
        new="    own = {k: (tuple(v.shape), saved.get(f'model/{k}', (0, v.dtype))[1]) for k, v in model_tensors(model).items()}",
        why="Only shapes are compared; 64 bits are copied into 32 and the resumed run is another one.",
        killed_by=UNIT
        + "test_a_checkpoint_of_another_model_is_refused_and_nothing_moves[precision]",
    ),
    dict(
        name="consequence_told_for_the_cause",
        module=MODULE,
        old="        return stopped, not late, kind, item[1].timestamp",
        new="        return item[1].timestamp",
        why="The rank that lost its connection is blamed, the one that was killed is not named.",
        killed_by=UNIT + "test_a_lost_connection_is_not_the_cause",
    ),
]
