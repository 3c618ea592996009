"""Bugs planted into the collection of the corpus."""

MODULE = "llmchain.data.corpus"
UNIT = "tests/test_corpus.py::"

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
        old='if path.endswith(".mo") and path[:-3] + ".po" in candidates:',
        new='if path.endswith(".mo") and path + ".po" in candidates:',
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
        name="large_file_cut",
        module=MODULE,
        old="content = file.read(max_bytes + 1)",
        new="content = file.read(max_bytes)",
        why="A file that is too large is cut in silence instead of being refused and counted.",
        killed_by=UNIT + "test_a_large_file_is_refused_not_cut",
    ),
]
