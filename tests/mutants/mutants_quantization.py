"""Bugs planted into llmchain.product.quantization."""

MODULE = "llmchain.product.quantization"
TESTS = "tests/test_quantization.py"
MUTANTS = [
    dict(
        name="zero has no mark",
        module=MODULE,
        old="low, high = min(np.float32(0), x.min()), max(np.float32(0), x.max())",
        new="low, high = x.min(), x.max()",
        why="A range that leaves out zero: padding and dropout are no longer exact zeros.",
        killed_by=f"{TESTS}::test_asymmetric_equals_onnx_runtime",
    ),
    dict(
        name="integers wrap round",
        module=MODULE,
        old="return np.clip(marks, limits.min, limits.max).astype(dtype)",
        new="return marks.astype(np.int64).astype(dtype)",
        why="Without saturation a number just above the range becomes the smallest one.",
        killed_by=f"{TESTS}::test_quantize_saturates_and_rounds_to_even",
    ),
    dict(
        name="zero point forgotten in the product",
        module=MODULE,
        old="    sums -= int(x_zero) * q_weight.astype(np.int32).sum(axis=0)\n",
        new="",
        why="Right for symmetric activations, so a test with those passes; off by a constant otherwise.",
        killed_by=f"{TESTS}::test_product",
    ),
    dict(
        name="ruler for each input instead of each output",
        module=MODULE,
        old="np.abs(weight).max(axis=0 if per_channel else None)",
        new="np.abs(weight).max(axis=1 if per_channel else None)",
        why="The axis of a weight that is stored transposed: the scale cannot leave the sum.",
        killed_by=f"{TESTS}::test_symmetric_has_a_scale_for_each_output",
    ),
    dict(
        name="warm-up rounds counted",
        module=MODULE,
        old="np.array(values[n_warm_up:])",
        new="np.array(values)",
        why="The first call allocates and compiles; counted, it decides the mean.",
        killed_by=f"{TESTS}::test_interleaved_takes_turns",
    ),
]
