"""Bugs planted into the collection of the corpus."""

MODULE = "llmchain.data.corpus"
UNIT = "tests/test_corpus.py::"

MUTANTS = [
    dict(
        name="budget_not_water",
        module=MODULE,
        old="share = left // (len(ascending) - i)",
        new="share = budget // len(ascending)",
        why="Every package gets the same share, and what small ones leave is lost to all.",
        killed_by=UNIT + "test_water_fills_small_packages_first",
    ),
    dict(
        name="largest_first",
        module=MODULE,
        old='key=lambda d: (supply(d), d.metadata["Name"])',
        new='key=lambda d: (-supply(d), d.metadata["Name"])',
        why="Filled from the largest, what small packages leave comes too late for anybody.",
        killed_by=UNIT + "test_water_fills_small_packages_first",
    ),
    dict(
        name="catalogue_twice",
        module=MODULE,
        old='{f[:-3] + ".mo" for f in candidates if f.endswith(".po")}',
        new='{f + ".mo" for f in candidates if f.endswith(".po")}',
        why="A catalogue and its compiled twin are both read: every message stands in the corpus twice.",
        killed_by=UNIT + "test_twin_catalogues_count_once",
    ),
    dict(
        name="plural_kept_as_one_string",
        module=MODULE,
        old='pair.append(text.split("\\0")[0].split("\\4")[-1])',
        new='pair.append(text.split("\\4")[-1])',
        why="Plural forms stay glued together with a zero byte, which then stands in the corpus.",
        killed_by=UNIT + "test_plural_forms_are_reduced_to_the_first",
    ),
    dict(
        name="padding_of_the_hash_forgotten",
        module=MODULE,
        old='if recorded and digest.rstrip("=") != recorded:',
        new="if recorded and digest != recorded:",
        why="RECORD leaves out the padding of base64: every file differs from its own hash.",
        killed_by=UNIT + "test_a_file_that_was_edited_is_not_the_version_it_says",
    ),
]
