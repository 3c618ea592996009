"""Bugs planted into the tokenizers. Each gives ids, only not the right ones."""

MODULE = "llmchain.data.tokenizer"
UNIT = "tests/test_tokenizer.py::"

MUTANTS = [
    dict(
        name="words_not_weighted",
        module=MODULE,
        old="            pair_counts[pair] += count\n",
        new="            pair_counts[pair] += 1\n",
        why="Distinct words are counted, not occurrences: rare names decide the vocabulary.",
        killed_by=UNIT + "test_counts_weigh_the_words",
    ),
    dict(
        name="old_pairs_not_subtracted",
        module=MODULE,
        old="                pair_counts[p] -= counts[number]\n",
        new="                pair_counts[p] -= 0\n",
        why="Pairs that a merge has destroyed keep their counts and are merged once more.",
        killed_by=UNIT + "test_counts_are_kept_up_to_date",
    ),
    dict(
        name="longest_merge_first",
        module=MODULE,
        old="best = min(pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)))",
        new="best = max(pairwise(pieces), key=lambda pair: ranks.get(pair, -1))",
        why="The latest merge wins instead of the earliest: another cut than in training.",
        killed_by=UNIT + "test_earliest_merge_first",
    ),
    dict(
        name="overlap_merged_twice",
        module=MODULE,
        old="            i += 2\n",
        new="            i += 1\n",
        why="The right half of a pair is used again: symbols appear from nowhere.",
        killed_by=UNIT + "test_overlapping_pairs",
    ),
    dict(
        name="only_bytes_that_were_seen",
        module=MODULE,
        old="symbols = [*special, *sorted(NAME_OF_BYTE.values())]",
        new='symbols = [*special, *sorted(set("".join(named)))]',
        why="The alphabet comes from the corpus: the first new byte is a KeyError in production.",
        killed_by=UNIT + "test_bpe_loses_nothing_and_knows_everything",
    ),
    dict(
        name="decode_token_by_token",
        module=MODULE,
        old='data = bytes(byte_of[c] for i in ids for c in token_of.get(i, ""))\n    return data.decode("utf-8", errors="replace")',
        new='parts = [bytes(byte_of[c] for c in token_of.get(i, "")) for i in ids]\n    return "".join(p.decode("utf-8", errors="replace") for p in parts)',
        why="Every token is decoded alone: characters of several tokens break.",
        killed_by=UNIT + "test_bpe_loses_nothing_and_knows_everything",
    ),
    dict(
        name="part_unknown_instead_of_word",
        module=MODULE,
        old="            return [vocab[unk]]\n    return ids",
        new="            ids.append(vocab[unk])\n            start += 1\n    return ids",
        why="Only the letter becomes [UNK]; BERT was trained with the whole word unknown.",
        killed_by=UNIT + "test_longest_match_and_unknown",
    ),
    dict(
        name="accents_kept",
        module=MODULE,
        old='if unicodedata.category(d) != "Mn"]',
        new="if d]",
        why="Lower case without stripping accents: half of an uncased BERT's cleaning.",
        killed_by=UNIT + "test_bert_words",
    ),
    dict(
        name="symbols_are_punctuation_only_in_unicode",
        module=MODULE,
        old=' or d in "$+<=>^`|~" else d',
        new=" else d",
        why="BERT counts all ASCII signs as punctuation; Unicode calls $ and + symbols.",
        killed_by=UNIT + "test_bert_words",
    ),
    dict(
        name="alphabet_by_first_seen",
        module=MODULE,
        old="kept = sorted(sorted(counts, key=lambda c: (-counts[c], c))[:limit])",
        new="kept = list(counts)[:limit]",
        why="The first characters instead of the frequent ones: depends on document order.",
        killed_by=UNIT + "test_alphabet_keeps_the_frequent",
    ),
]
