"""Bugs planted into BERT: heads, embeddings, masks, and weights that are quietly not loaded."""

MODULE = "llmchain.pretrain.bert"
UNIT = "tests/test_bert.py::"
EQUAL = "tests/equality/test_bert.py::"

MUTANTS = [
    dict(
        name="padding_is_seen",
        module=MODULE,
        old="x = block(x, visible)",
        new="x = block(x)",
        why="The mask is made and not passed on: a text's vector depends on its neighbours' length.",
        killed_by=UNIT + "test_what_stands_in_the_padding_does_not_matter",
    ),
    dict(
        name="mask_upside_down",
        module=MODULE,
        old="attention_mask.bool()[:, None, None, :]",
        new="~attention_mask.bool()[:, None, None, :]",
        why="True means hidden in one library and visible in the other.",
        killed_by=UNIT + "test_what_stands_in_the_padding_does_not_matter",
    ),
    dict(
        name="segments_ignored",
        module=MODULE,
        old="self.token_embedding(input_ids) + self.type_embedding(token_type_ids) + positions",
        new="self.token_embedding(input_ids) + self.type_embedding.weight[0] + positions",
        why="Right for single texts, where all segments are 0; pairs are no longer told apart.",
        killed_by=UNIT + "test_segments_and_positions_matter",
    ),
    dict(
        name="norm_before_instead_of_after",
        module=MODULE,
        old="sizes = (c.n_embd, c.n_head, c.n_inner, c.dropout, False, F.gelu, 1e-12)",
        new="sizes = (c.n_embd, c.n_head, c.n_inner, c.dropout, True, F.gelu, 1e-12)",
        why="Pre-norm in a BERT: the shapes fit, the weights load, every number is wrong.",
        killed_by=EQUAL + "test_hidden_states_and_logits[sizes0-none]",
    ),
    dict(
        name="pools_the_last_token",
        module=MODULE,
        old="return torch.tanh(self.pooler(hidden[:, 0]))",
        new="return torch.tanh(self.pooler(hidden[:, -1]))",
        why="As in decoders; here the last token is padding as a rule.",
        killed_by=EQUAL + "test_hidden_states_and_logits[sizes1-none]",
    ),
    dict(
        name="head_without_gelu",
        module=MODULE,
        old="transformed = self.mlm_norm(F.gelu(self.mlm_dense(hidden)))",
        new="transformed = self.mlm_norm(self.mlm_dense(hidden))",
        why="The head's activation is in no figure of the paper and is forgotten.",
        killed_by=EQUAL + "test_hidden_states_and_logits[sizes0-none]",
    ),
    dict(
        name="head_untied",
        module=MODULE,
        old="return F.linear(transformed, self.bert.token_embedding.weight, self.mlm_bias)",
        new="return F.linear(transformed, self.bert.token_embedding.weight.data, self.mlm_bias)",
        why=".data cuts the gradient: embeddings of tokens that are only answers never learn.",
        killed_by=UNIT + "test_the_head_is_the_embedding_and_learns_through_both",
    ),
    dict(
        name="positions_by_row",
        module=MODULE,
        old="hidden = hidden.flatten(0, 1)[positions]  # (M, C)",
        new="hidden = hidden.transpose(0, 1).flatten(0, 1)[positions]  # (M, C)",
        why="Time first, batch second, as in old recurrent code: scores belong to other places.",
        killed_by=UNIT + "test_only_the_asked_places_are_scored",
    ),
    dict(
        name="keys_and_queries_exchanged",
        module=MODULE,
        old='for part in ("query", "key", "value"))',
        new='for part in ("key", "query", "value"))',
        why="Stacked in another order than they are cut; the shapes are all equal.",
        killed_by=EQUAL + "test_hidden_states_and_logits[sizes1-none]",
    ),
    dict(
        name="read_in_training_mode",
        module=MODULE,
        old="    model.load_state_dict(from_hf_weights(stored, names))\n    return model.eval()",
        new="    model.load_state_dict(from_hf_weights(stored, names))\n    return model",
        why="A loaded model keeps dropping activations: the same text has another vector each time.",
        killed_by=UNIT + "test_a_saved_encoder_is_read_in_evaluation_mode",
    ),
    dict(
        name="filling_in_training_mode",
        module=MODULE,
        old="    was_training = model.training\n    model.eval()\n",
        new="    was_training = model.training\n",
        why="eval() is forgotten before predicting: answers change from call to call.",
        killed_by=UNIT + "test_dropout_is_silent_in_evaluation",
    ),
]
