"""Bugs planted into the readers of files."""

MODULE = "llmchain.data.reading"
UNIT = "tests/test_corpus.py::"
FILES = "tests/test_reading.py::"

MUTANTS = [
    dict(
        name="symlink_followed",
        module=MODULE,
        old="if not resolved.is_relative_to(root):",
        new="if not target.is_relative_to(root):",
        why="The path is checked before links are resolved: a link in a package reads any file of the machine.",
        killed_by=UNIT + "test_links_and_dots_do_not_lead_out",
    ),
    dict(
        name="large_file_cut",
        module=MODULE,
        old='with resolved.open("rb") as file:\n            content = file.read(max_bytes + 1)',
        new='with resolved.open("rb") as file:\n            content = file.read(max_bytes)',
        why="A file that is too large is cut in silence instead of being refused and counted.",
        killed_by=UNIT + "test_a_large_file_is_refused_not_cut",
    ),
    dict(
        name="line_read_whole",
        module=MODULE,
        old="while line := file.readline(max_bytes + 1):",
        new="while line := file.readline():",
        why="A file without newlines is loaded into memory before anybody looks at its length.",
        killed_by=FILES + "test_one_long_line_does_not_enter_memory",
    ),
    dict(
        name="rest_of_long_line_parsed",
        module=MODULE,
        old='if rest.endswith(b"\\n"):\n                    break',
        new="break",
        why="Only one step of a long line is passed over; its middle is then read as lines of their own.",
        killed_by=FILES + "test_one_long_line_does_not_enter_memory",
    ),
    dict(
        name="cut_record_whole",
        module=MODULE,
        old='if getattr(record.raw_stream, "limit", 0):',
        new='if getattr(record.raw_stream, "limit", 0) < 0:',
        why="The last record of a cut WARC file is half a page that is taken for a whole one.",
        killed_by=FILES + "test_a_cut_warc_is_not_an_end",
    ),
    dict(
        name="dots_at_the_start_only",
        module=MODULE,
        old='or ".." in parts',
        new='or name.startswith("..")',
        why="a/../../b leads out of an archive as well as ../b does.",
        killed_by=FILES + "test_names_that_leave_an_archive",
    ),
    dict(
        name="links_followed",
        module=MODULE,
        old="if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):",
        new="if not (entry.is_dir() or entry.is_file()):",
        why="A link to a folder above is walked round and round, and links read files outside.",
        killed_by=FILES + "test_folders_with_rings_and_closed_doors",
    ),
    dict(
        name="bomb_unpacked",
        module=MODULE,
        old="self.out > 1 << 20 and self.out > self.max_ratio",
        new="self.out > 1 << 40 and self.out > self.max_ratio",
        why="Ten kilobytes of zeros are unpacked as long as they like.",
        killed_by=FILES + "test_damaged_gzip_and_bombs",
    ),
]
