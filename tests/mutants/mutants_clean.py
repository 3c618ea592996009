"""Bugs planted into the cleaning."""

MODULE = "llmchain.data.clean"
UNIT = "tests/test_clean.py::"

MUTANTS = [
    dict(
        name="tags_by_regex_alone",
        module=MODULE,
        old='guarded = NOT_HTML.sub("&lt;", COMMENT.sub("", text))',
        new='guarded = COMMENT.sub("", text)',
        why="Everything in angle brackets is taken for a tag: type parameters and placeholders vanish.",
        killed_by=UNIT + "test_html_beside_placeholders",
    ),
    dict(
        name="any_version_is_an_address",
        module=MODULE,
        old="if _is_address(m[0]) and not VERSION.search(text, max(0, m.start() - 10), m.start()):",
        new="if _is_address(m[0]):",
        why="Version numbers with four parts are masked as IP addresses.",
        killed_by=UNIT + "test_masks_on_planted_truth[0]",
    ),
    dict(
        name="mask_off_by_one",
        module=MODULE,
        old="end = stop\n    return",
        new="end = stop + 1\n    return",
        why="Each mask eats the character behind it.",
        killed_by=UNIT + "test_masks_change_nothing_else",
    ),
    dict(
        name="kana_not_looked_at",
        module=MODULE,
        old='if n_han and len(KANA_HANGUL.findall(head)) > 0.05 * n_han:\n            return "other"',
        new='if not n_han and not head:\n            return "other"',
        why="Japanese has Han characters too; without a look at kana it passes for Chinese.",
        killed_by=UNIT + "test_japanese_is_not_chinese",
    ),
    dict(
        name="repeated_counts_the_first",
        module=MODULE,
        old="repeated += len(line) if line in seen else 0\n        seen.add(line)",
        new="seen.add(line)\n        repeated += len(line) if line in seen else 0",
        why="A line is entered before it is looked up, so each counts as its own repetition.",
        killed_by=UNIT + "test_lines_that_differ_are_not_repeated",
    ),
]
