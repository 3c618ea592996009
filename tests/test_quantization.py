"""Rulers, integer products, export and the shipped graph of the quantization chapter."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from llmchain.finetune.classification import Classifier, predict
from llmchain.pretrain.bert import Bert, BertConfig
from llmchain.product.quantization import (
    agreement,
    asymmetric,
    dequantize,
    export_onnx,
    int8_matmul,
    interleaved,
    open_session,
    product_nodes,
    quantize,
    quantize_onnx,
    session_logits,
    symmetric,
)

KINDS = {"float32": 1, "uint8": 2, "int8": 3}


def run_operator(name, inputs, n_outputs):
    ins = [
        helper.make_tensor_value_info(k, KINDS[str(v.dtype)], v.shape) for k, v in inputs.items()
    ]
    outs = [onnx.ValueInfoProto(name=f"y{i}") for i in range(n_outputs)]
    node = helper.make_node(name, list(inputs), [o.name for o in outs])
    graph = helper.make_graph([node], "one", ins, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)


@pytest.mark.parametrize("low, high", [(-3, 5), (0.5, 2), (-4, -1), (0, 0), (-1e-3, 1e3)])
def test_asymmetric_equals_onnx_runtime(low, high):
    x = np.random.default_rng(0).uniform(low, high, (40, 5)).astype(np.float32)
    scale, zero = asymmetric(x)
    marks = quantize(x, scale, zero, np.uint8)
    theirs, their_scale, their_zero = run_operator("DynamicQuantizeLinear", {"x": x}, 3)
    if high > low:  # of an all-zero tensor only the values are defined
        assert (float(scale), int(zero)) == (float(their_scale), int(their_zero))
        assert np.array_equal(marks, theirs)
    zeros = quantize(np.zeros(1), scale, zero, np.uint8)
    assert dequantize(zeros, scale, zero).tolist() == [0.0]
    assert np.abs(dequantize(marks, scale, zero) - x).max() <= scale * 0.5001 + 1e-6


def test_quantize_saturates_and_rounds_to_even():
    x = np.array([-1e6, -1.5, -0.5, 0.5, 1.5, 2.5, 130.0, 1e6], np.float32)
    assert quantize(x, 1.0).tolist() == [-128, -2, 0, 0, 2, 2, 127, 127]
    with pytest.raises(ValueError, match="not finite"):
        asymmetric(np.array([1.0, np.inf]))


def test_symmetric_has_a_scale_for_each_output():
    weight = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32) * [1, 10, 0.1, 0]
    scale = symmetric(weight)
    assert scale.shape == (4,) and scale[3] == 1
    marks = quantize(weight, scale)
    assert np.abs(marks).max(axis=0).tolist() == [127, 127, 127, 0]
    assert (np.abs(dequantize(marks, scale) - weight) <= scale / 2 * 1.001).all()
    assert symmetric(weight, per_channel=False).shape == ()


def test_product():
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 1.0, (6, 64)).astype(np.float32)  # not centred: the zero point counts
    weight = rng.normal(size=(64, 9)).astype(np.float32)
    scale = symmetric(weight)
    marks = quantize(weight, scale)
    got = int8_matmul(x, marks, scale)
    assert np.abs(got - x @ weight).max() < 0.03 * np.abs(x @ weight).max()
    s, z = asymmetric(x)
    rounded = dequantize(quantize(x, s, z, np.uint8), s, z).astype(np.float64)
    exact = rounded @ (marks * scale.astype(np.float64))
    assert np.abs(got - exact).max() < 1e-4


def test_interleaved_takes_turns():
    order = []
    seconds = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, 2)
    assert order == ["a", "b"] * 5
    assert {k: len(v) for k, v in seconds.items()} == {"a": 3, "b": 3}
    with pytest.raises(ValueError, match="n_rounds must be at least 1"):
        interleaved({"a": int}, 0)


def test_agreement():
    assert agreement(np.eye(4), np.eye(4)[[0, 1, 2, 0]]) == 0.75
    with pytest.raises(ValueError, match="must agree"):
        agreement(np.eye(3), np.eye(2))


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    bert = Bert(BertConfig(60, 20, 2, 2, 32, 64), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.mul_(4)
    model = Classifier(bert, 3).eval()
    return model, export_onnx(model, tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_export_has_free_sizes(graph):
    model, path = graph
    session = open_session(path)
    rows = [
        torch.randint(5, 60, (n,), generator=torch.Generator().manual_seed(n)) for n in (1, 6, 19)
    ]
    assert np.abs(session_logits(session, rows) - predict(model, rows)).max() < 1e-5
    ids, mask = torch.randint(5, 60, (5, 11)), torch.ones(5, 11, dtype=torch.long)
    mask[3, 4:] = 0
    with torch.inference_mode():
        expected = model(ids, mask).numpy()
    got = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    assert np.abs(got - expected).max() < 1e-5
    with pytest.raises(ValueError, match="call eval"):
        export_onnx(Classifier(model.bert, 2).train(), path)
    model.eval()


def test_only_the_chosen_products_become_integers(graph, tmp_path):
    _, path = graph
    nodes = product_nodes(path)
    assert len(nodes) == 4 + 5  # the last block makes its query apart from keys and values
    target = quantize_onnx(path, tmp_path / "int8.onnx", nodes[:3], embeddings=True)
    kinds = [node.op_type for node in onnx.load(str(target)).graph.node]
    assert kinds.count("MatMulInteger") == 3
    rows = [torch.randint(5, 60, (n,), generator=torch.Generator().manual_seed(n)) for n in (6, 19)]
    a, b = (session_logits(open_session(p), rows) for p in (path, target))
    assert 0 < np.abs(a - b).max() < 0.5
    with pytest.raises(ValueError, match="no node"):
        quantize_onnx(path, target, [])
