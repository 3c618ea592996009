"""Bugs planted into the service. Most leave every answer looking right."""

MODULE = "llmchain.product.serving"
UNIT = "tests/test_serving.py::"

MUTANTS = [
    dict(
        name="temperature_multiplied",
        module=MODULE,
        old="np.asarray(logits, dtype=np.float64) / temperature",
        new="np.asarray(logits, dtype=np.float64) * temperature",
        why="Calibration the wrong way round: the labels stay, every probability is wrong.",
        killed_by=UNIT + "test_softmax_is_over_classes_and_divides_by_the_temperature",
    ),
    dict(
        name="softmax_over_everything",
        module=MODULE,
        old="return powers / powers.sum(axis=-1, keepdims=True)",
        new="return powers / powers.sum()",
        why="Right for one text; in a batch the probabilities of all texts together sum to one.",
        killed_by=UNIT + "test_softmax_is_over_classes_and_divides_by_the_temperature",
    ),
    dict(
        name="labels_sorted_as_strings",
        module=MODULE,
        old="[by_number[number] for number in range(len(by_number))]",
        new="[by_number[int(key)] for key in sorted(map(str, by_number))]",
        why='JSON keys are strings, and "10" stands before "2": wrong from the eleventh class on.',
        killed_by=UNIT + "test_labels_are_sorted_as_numbers",
    ),
    dict(
        name="truncation_not_reported",
        module=MODULE,
        old="truncated=bool(encoding.overflowing)",
        new="truncated=len(encoding.ids) > 512",
        why="After truncation no text is too long any more: the flag is never set.",
        killed_by=UNIT + "test_truncation_is_reported_exactly_at_the_window",
    ),
    dict(
        name="only_content_length_checked",
        module=MODULE,
        old="                if len(body) > max_bytes:",
        new="                if declared and len(body) > max_bytes:",
        why="A chunked body names no length, so it is read without an end.",
        killed_by=UNIT + "test_unannounced_size_is_counted_while_it_comes",
    ),
    dict(
        name="body_read_before_its_length_is_checked",
        module=MODULE,
        old="if declared.isdecimal() and int(declared[:20]) > max_bytes:",
        new="if declared.isdigit() and len(declared) > 20:",
        why="The announced length is not used: ten megabytes start to flow before they are refused.",
        killed_by=UNIT + "test_announced_size_is_refused_before_reading",
    ),
    dict(
        name="place_lost_on_error",
        module=MODULE,
        old="        finally:\n            self.waiting -= 1",
        new="        except KeyboardInterrupt:\n            self.waiting -= 1",
        why="A failing inference keeps its place: after 32 errors the service answers 503 for ever.",
        killed_by=UNIT + "test_a_failing_inference_gives_its_place_back",
    ),
    dict(
        name="exception_text_in_the_answer",
        module=MODULE,
        old='f"the service failed; its log knows this request as {identity}"',
        new='f"{sys.exc_info()[1]}; its log knows this request as {identity}"',
        why="Helpful while developing, and it tells strangers paths, values and libraries.",
        killed_by=UNIT + "test_a_bug_of_ours_is_500_with_an_id_that_the_log_knows",
    ),
    dict(
        name="strangers_path_as_metric_label",
        module=MODULE,
        old='route = scope["path"] if scope["path"] in ROUTES else "other"',
        new='route = scope["path"]',
        why="Every invented path becomes a time series: a scanner fills the memory of the monitoring.",
        killed_by=UNIT + "test_metrics_count_what_was_sent_and_belong_to_one_app",
    ),
]
