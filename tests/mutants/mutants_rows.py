"""Bugs planted into rows, notices, and what keeps them on disk."""

MODULE = "llmchain.data.rows"
UNIT = "tests/test_corpus.py::"
ROWS = "tests/test_rows.py::"
FILES = "tests/test_reading.py::"

MUTANTS = [
    dict(
        name="any_choice_forbids",
        module=MODULE,
        old="return all(FORBIDS.search",
        new="return any(FORBIDS.search",
        why="One forbidding choice behind OR forbids all, though another one allows the use.",
        killed_by=UNIT + "test_licences_that_forbid",
    ),
    dict(
        name="torn_spool_taken",
        module=MODULE,
        old='if done and rows.is_file() and rows.stat().st_size == done["spooled_bytes"]:',
        new="if done:",
        why="The note that a source is complete is believed, whatever became of its rows since.",
        killed_by=ROWS + "test_an_interrupted_collection_reads_only_the_rest",
    ),
    dict(
        name="last_piece_unsorted",
        module=MODULE,
        old="heapq.merge(sorted(held), ",
        new="heapq.merge(held, ",
        why="What is left in memory joins the merge unsorted, so the merge is none.",
        killed_by=ROWS + "test_sorting_on_disk_is_sorting",
    ),
    dict(
        name="replacement_characters",
        module=MODULE,
        old="text = content.decode(used)",
        new='text = content.decode(used, errors="replace")',
        why="Bytes in an unknown encoding become question marks in the corpus instead of a notice.",
        killed_by=FILES + "test_no_text",
    ),
    dict(
        name="header_believed_first",
        module=MODULE,
        old='["utf-8", charset] if charset else ["utf-8"]',
        new='[charset, "utf-8"] if charset else ["utf-8"]',
        why="A server that says latin-1 for UTF-8 turns every accent into two letters.",
        killed_by=FILES + "test_declared_charsets",
    ),
    dict(
        name="first_row_of_a_shard_lost",
        module=MODULE,
        old="        batch.append(row)\n        size += len(row.get",
        new="        if size or not batch:\n            batch.append(row)\n        size += len(row.get",
        why="A row without text is dropped behind another one; at most sizes of shards nobody sees it.",
        killed_by=ROWS + "test_a_batch_keeps_every_row",
    ),
    dict(
        name="places_in_characters",
        module="llmchain.workbench.rows",
        old="self.places[-1] + len(line)",
        new="self.places[-1] + len(line.decode())",
        why="Places are counted in characters: right for English, and behind the first é every row is torn.",
        killed_by="tests/test_artifact_rows.py::test_lines_end_at_line_feeds_alone_and_each_look_begins_anew",
    ),
]
