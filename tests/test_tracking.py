"""Weights & Biases gets what a chapter says, offline, and nothing that the environment holds."""

import pytest
from conftest import Project, chapter

BODY = """for seed in (0, 1):
    for step in range(4):
        ch.curve(f"loss/{seed}", step, 10 * seed + 1 / (step + 1))
ch.metric("best", 0.25)
ch.claim("rows", 1, equal=1)
ch.write("corpus/raw", [{"i": 1}])"""
SECRET = "0123456789abcdef0123456789abcdef01234567"


def logged(file: bytes) -> list[bytes]:
    """The records of a .wandb file: LevelDB's log format behind seven bytes of its own."""
    block, start, found, parts = 2**15, 7, [], b""
    while start + 7 <= len(file):
        if block - start % block < 7:  # the rest of a block is too short for a header
            start += block - start % block
            continue
        length, kind = int.from_bytes(file[start + 4 : start + 6], "little"), file[start + 6]
        parts += file[start + 7 : start + 7 + length]
        start += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(parts)
            parts = b""
    return found


@pytest.fixture
def drawing(project: Project) -> Project:
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=BODY))
    return project


def test_offline_run_holds_curves_metrics_and_parameters(drawing: Project) -> None:
    pytest.importorskip("wandb", reason="extra tracking is not installed")
    from wandb.proto import wandb_internal_pb2

    settings = {"WANDB_PROJECT": "course", "WANDB_MODE": "offline", "WANDB_API_KEY": SECRET}
    summary = drawing.summary("01", "-p", "first.n=7", **settings)
    assert summary["code"] == 0, summary["chapters"][0].get("error")
    (file,) = drawing.runs.glob(f"{summary['run']}/01_first/wandb/offline-run-*/*.wandb")
    points, told, config = [], {}, {}
    for data in logged(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            points.append(("/".join(item.nested_key) or item.key, item.value_json))
        told |= {i.key: i.value_json for i in record.summary.update}
        config |= {i.key: i.value_json for i in record.run.config.update}
    values = [float(v) for k, v in points if k == "loss/1"]
    assert values == [11.0, 10.5, 10 + 1 / 3, 10.25], points
    assert [float(v) for k, v in points if k == "loss/1/step"] == [0, 1, 2, 3]
    assert config["n"] == "7" and told["best"] == "0.25" and told["claims_broken"] == "0"
    everything = b"".join(p.read_bytes() for p in drawing.runs.rglob("*") if p.is_file())
    assert SECRET.encode() not in everything


def test_nothing_is_sent_where_it_is_not_asked_for(drawing: Project) -> None:
    first = drawing.summary("01", WANDB_MODE="offline")
    assert first["code"] == 0 and not list(drawing.runs.rglob("wandb"))


def test_wandb_that_is_not_installed_is_one_line(drawing: Project) -> None:
    (drawing.root / "wandb.py").write_text("raise ImportError('not here')")
    paths = {"PYTHONPATH": str(drawing.root), "WANDB_PROJECT": "course"}
    error = drawing.summary("01", **paths)["chapters"][0]["error"]
    assert error.startswith("ImportError: WANDB_PROJECT is set, but wandb is not installed: pip")
