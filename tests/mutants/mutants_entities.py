"""Bugs planted into llmchain.finetune.entities."""

MODULE = "llmchain.finetune.entities"
TESTS = "tests/test_entities.py"
EQUALITY = "tests/equality/test_entities.py"
BRUTE = f"{EQUALITY}::test_log_partition_viterbi_and_scores_equal_all_paths[0]"


def bug(name, old, new, why, killed_by):
    "One row."
    killer = killed_by if "::" in killed_by else f"{TESTS}::{killed_by}"
    return dict(name=name, module=MODULE, old=old, new=new, why=why, killed_by=killer)


MUTANTS = [
    bug(
        "labels one piece to the left",
        "starts = 1 + np.cumsum([0, *sizes[:-1]])",
        "starts = np.cumsum([0, *sizes[:-1]])",
        "[CLS] is forgotten: each word learns the label of the next one, and the loss still falls.",
        "test_labels_stand_on_first_pieces_as_word_ids_say",
    ),
    bug(
        "continuation pieces have labels",
        "labels = torch.full((len(window.ids),), -100)",
        "owner = np.searchsorted(window.starts, np.arange(len(window.ids)), side='right') - 1\n"
        "    labels = torch.tensor([label_ids[window.begin + max(0, i)] for i in owner])",
        "Every piece gets its word's label: long words weigh more, and B- is repeated inside a word.",
        "test_labels_stand_on_first_pieces_as_word_ids_say",
    ),
    bug(
        "windows that do not overlap",
        "begin = max(begin + 1, end - overlap)",
        "begin = end",
        "Cut like bread: a name on the border lies whole in no window.",
        "test_windows_lose_no_word_and_no_entity",
    ),
    bug(
        "a word without pieces vanishes",
        "ids or [tokenizer.unk_token_id]",
        "ids",
        "An invisible character has no piece; all later labels of the sentence move by one.",
        "test_pieces_are_those_of_the_tokenizer_and_no_word_is_lost",
    ),
    bug(
        "the window with less context decides",
        "context = np.minimum(left, right)",
        "context = np.maximum(left, right)",
        "The farther edge is asked instead of the nearer: words at a cut are read without neighbours.",
        "test_each_word_takes_the_window_with_more_context",
    ),
    bug(
        "padding in the partition function",
        "alpha = torch.where(mask[:, t, None], onward, alpha)",
        "alpha = onward",
        "The mask is forgotten: ln Z depends on the longest sentence of the batch.",
        "test_padding_changes_neither_partition_nor_score",
    ),
    bug(
        "the score ends at the padding",
        "last = labels.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]",
        "last = labels[:, -1]",
        "The end score is taken at the last column instead of the last word.",
        "test_padding_changes_neither_partition_nor_score",
    ),
    bug(
        "transitions transposed",
        "transitions[labels[:, :-1], labels[:, 1:]]",
        "transitions[labels[:, 1:], labels[:, :-1]]",
        "From and to are exchanged in one of three places: training and decoding disagree.",
        "test_transitions_go_from_row_to_column",
    ),
    bug(
        "log-sum-exp over the label after",
        "(alpha[:, :, None] + transitions).logsumexp(1)",
        "(alpha[:, :, None] + transitions).logsumexp(2)",
        "The shape is the same, the sum is over the wrong axis; Z is no sum over paths.",
        BRUTE,
    ),
    bug(
        "back-pointers off by one",
        "path.append(int(back[t, path[-1]]))",
        "path.append(int(back[t - 1, path[-1]]))",
        "The walk back reads the pointers of the word before: paths look plausible and are not best.",
        BRUTE,
    ),
    bug(
        "F1 of words",
        "true, called = set(true), set(called)",
        "true, called = ({(k, i, i + 1) for k, a, b in some for i in range(a, b)}"
        " for some in (true, called))",
        "Half a name counts half: the figure is higher and is not the one others report.",
        "test_half_a_name_is_no_name",
    ),
    bug(
        "an I- after another type is left",
        'if tag[0] == "I" and previous[2:] != tag[2:]:',
        'if tag[0] == "I" and previous == "O":',
        "Only orphans after O are mended; those after another type stay illegal and uncounted.",
        "test_an_orphan_run_is_one_repair",
    ),
    bug(
        "the inner entity stays",
        "key=lambda e: (e[1] - e[2], e[1])):",
        "key=lambda e: (e[2] - e[1], e[1])):",
        "Of nested names the shortest is kept: the university is gone, and the city stands in its place.",
        "test_of_nested_names_the_outer_one_stays",
    ),
    bug(
        "nested entities go uncounted",
        "return sorted(kept, key=lambda e: e[1]), len(entities) - len(kept)",
        "return sorted(kept, key=lambda e: e[1]), len(set(entities) - set(entities))",
        "The set looks whole: nobody learns that labels were thrown away.",
        "test_of_nested_names_the_outer_one_stays",
    ),
    bug(
        "the last entity written wins",
        'if set(tags[start:end]) != {"O"}:',
        "if start > end:",
        "Overlapping entities are written one over the other: the outer name is cut in two.",
        "test_labels_of_entities_that_have_no_place_are_refused",
    ),
    bug(
        "temperature of the words alone",
        "parts, found = [torch.as_tensor(part) / temperature for part in rules], []",
        "parts, found = [torch.as_tensor(part) for part in rules], []",
        "Transitions keep their size while emissions shrink: the probabilities are of another model.",
        "test_marginals_and_nats_equal_all_paths",
    ),
    bug(
        "confidence without the rules",
        "    return steps + learnt[0], first + learnt[1], learnt[2]",
        "    return learnt[0], learnt[1], learnt[2]",
        "Illegal paths keep their share: the confidence is not of the model whose answer is shipped.",
        "test_marginals_and_nats_equal_all_paths",
    ),
    bug(
        "a training set of one class",
        'if all(tag == "O" for row in rows for tag in row["tags"]):',
        'if all(tag is None for row in rows for tag in row["tags"]):',
        "Labels that were lost on the way leave a file of O: the tagger learns to find nothing.",
        "test_a_file_of_one_class_is_refused",
    ),
    bug(
        "repairs counted by sentence",
        "return mended, sum(a != b for a, b in zip(tags, mended, strict=True))",
        "return mended, int(list(tags) != mended)",
        "Two repairs in a sentence count one: a bad tagger looks tidy.",
        "test_an_orphan_run_is_one_repair",
    ),
    bug(
        "the last weights instead of the mean",
        "weights - late / (step + 1), steps - late_steps / (step + 1)",
        "weights, steps",
        "The average is the whole point of the averaged perceptron, and nothing fails without it.",
        "test_perceptron_averages_all_its_weights",
    ),
    bug(
        "patterns cross the splits",
        "split_of(pattern_of(tokens, tags))",
        "split_of(mark)",
        "The split is drawn from the text: 'Alias for add' is learnt, 'Alias for mul' is the exam.",
        "test_a_pattern_never_crosses_splits",
    ),
    bug(
        "an unpaired bootstrap",
        "mean_f1(b, weights) for weights in drawn",
        "mean_f1(b, rng.multinomial(n, np.full(n, 1 / n))) for weights in drawn",
        "Each model is judged on its own resample: the interval is far too wide.",
        "test_paired_bootstrap_finds_what_is_there_and_pairs",
    ),
    bug(
        "text that is markup",
        "*map(escape, words[place:start])",
        "*words[place:start]",
        "A text with <script> runs in the reader's browser.",
        "test_the_page_escapes_marks_and_explains",
    ),
]
