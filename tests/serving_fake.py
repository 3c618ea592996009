"""A model folder whose answers can be computed by hand: logits = sum of the scores of the words.

The ONNX graph is one Gather and one ReduceSum, exact in fp32 for small integers. `sorrow` is worth
(-3, 0, 3), `joy` (3, 0, -3), every other known word (0, 1, 0). Twelve tokens are the window.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

LABELS = ["good", "neutral", "bad"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "joy", "sorrow", "film", "the", "a", "was"]
SCORES = {"joy": (3, 0, -3), "sorrow": (-3, 0, 3)}
TEMPERATURE, WINDOW = 2.0, 12


def scores() -> np.ndarray:
    "(V, K) what each token adds to the logits."
    table = np.zeros((len(WORDS), len(LABELS)), dtype=np.float32)
    for number, word in enumerate(WORDS[4:], start=4):
        table[number] = SCORES.get(word, (0, 1, 0))
    return table


def expected(words: list[str]) -> np.ndarray:
    "(K,) probabilities computed by hand, without the service's code."
    logits = sum((scores()[WORDS.index(word)].astype(float) for word in words), np.zeros(3))
    powers = np.exp(logits / TEMPERATURE)
    return powers / powers.sum()


def write_model(folder: Path) -> Path:
    "Writes the folder as 28_quantize does and returns it."
    folder.mkdir(parents=True, exist_ok=True)
    table = numpy_helper.from_array(scores(), "table")
    axes = numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "time"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "time"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["seen", "last"], ["wide"]),
        helper.make_node("Mul", ["each", "wide"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axes"], ["logits"], keepdims=0),
    ]
    last = numpy_helper.from_array(np.array([2], dtype=np.int64), "last")
    graph = helper.make_graph(nodes, "fake", [ids, mask], [logits], [table, axes, last])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.int8.onnx")
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {str(number): name for number, name in enumerate(LABELS)}
    config = {"id2label": names, "max_position_embeddings": WINDOW, "model_type": "bert"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "calibration.json").write_text(json.dumps({"temperature": TEMPERATURE}))
    return folder


if __name__ == "__main__":
    import sys

    print(write_model(Path(sys.argv[1])))
