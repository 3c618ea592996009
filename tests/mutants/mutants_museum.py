"""Bugs planted into the museum itself: a guard that sleeps is worse than none."""

MODULE = "llmchain.pretrain.museum"
UNIT = "tests/test_museum.py::"

MUTANTS = [
    dict(
        name="patched_twice",
        module=MODULE,
        old="if (n := source.count(bug.old)) != 1:",
        new="if (n := source.count(bug.old)) < 1:",
        why="Twice is not refused: the page shows another bug than its name says.",
        killed_by=UNIT + "test_with_bug_replaces_and_nothing_else",
    ),
    dict(
        name="modules_not_put_back",
        module=MODULE,
        old="                sys.modules[name] = module\n",
        new="                pass\n",
        why="The next import loads a third set; classes no longer know their instances.",
        killed_by=UNIT + "test_planting_leaves_the_real_modules_alone",
    ),
    dict(
        name="not_put_back_after_an_error",
        module=MODULE,
        old="    try:\n        yield\n    finally:\n        for name, module in kept.items():",
        new="    yield\n    if True:\n        for name, module in kept.items():",
        why="A bug with a syntax error takes the real modules with it.",
        killed_by=UNIT + "test_an_error_while_loading_puts_everything_back",
    ),
    dict(
        name="leftovers_stay",
        module=MODULE,
        old="            sys.modules.pop(name, None)\n            if module is not None:",
        new="            if module is not None:",
        why="A module that was not loaded before stays, with the bug, for whoever imports it next.",
        killed_by=UNIT + "test_an_error_while_loading_puts_everything_back",
    ),
    dict(
        name="dependants_keep_the_right_code",
        module=MODULE,
        old="module = sys.modules[name] = module_from_spec(spec)",
        new="module = module_from_spec(spec)",
        why="Not entered in sys.modules, so what imports it gets another one, without the bug.",
        killed_by=UNIT + "test_dependants_use_the_patched_module",
    ),
    dict(
        name="equal_rows",
        module=MODULE,
        old="torch.tensor([12, 3, 9, 5, 12, 7])",
        new="torch.tensor([12, 12, 12, 12, 12, 12])",
        why="A toy without padding forgives padding that is counted.",
        killed_by=UNIT + "test_its_check_finds_it[objectives.padding_counted]",
    ),
    dict(
        name="changed_to_itself",
        module=MODULE,
        old="    changed = ids.clone()\n    changed[:, 8:] = 1 + changed[:, 8:] % (N_WORDS - 1)\n    given",
        new="    changed = ids.clone()\n    given",
        why="The probe of the future changes nothing, so nothing ever moves.",
        killed_by=UNIT + "test_its_check_finds_it[gpt.not_causal_without_a_mask]",
    ),
    dict(
        name="errors_of_a_bug_pass",
        module=MODULE,
        old='        return float("inf")',
        new="        return 0.0",
        why="A bug that makes the check itself fail counts as found nothing.",
        killed_by=UNIT + "test_a_bug_that_raises_is_found",
    ),
]
