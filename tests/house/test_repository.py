"""What is committed speaks of the project alone."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = {
    ".py",
    ".md",
    ".toml",
    ".ini",
    ".yml",
    ".yaml",
    ".ipynb",
    ".html",
    ".css",
    ".js",
    ".txt",
    ".cff",
    ".json",
    "",
}


def committed() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_path_of_a_machine_and_no_registry_host() -> None:
    home = "|".join(
        ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/[a-z]", "/Us" + "ers/[a-z]", "/tm" + "p/[a-z]"]
    )
    hosts = "|".join(
        ["pypi" + r"\.org", "files\\.pythonhosted", "registry\\.npmjs", "download\\.py" + "torch"]
    )
    for path in committed():
        if path.suffix in TEXT:
            found = re.search(
                rf"(?<![\w.])({home})|{hosts}", path.read_text(encoding="utf-8", errors="replace")
            )
            assert not found, f"{path.relative_to(ROOT)}: {found and found[0]}"


def test_nothing_large_and_no_data_of_others() -> None:
    for path in committed():
        assert path.stat().st_size < 1_000_000, path
        assert path.suffix not in {".safetensors", ".npy", ".pkl", ".pt", ".parquet", ".onnx"}, path


def test_yaml_files_are_valid() -> None:
    for path in [p for p in committed() if p.suffix in (".yml", ".yaml", ".cff")]:
        assert yaml.safe_load(path.read_text(encoding="utf-8")), path


def test_readmes_show_the_same_run() -> None:
    tables = []
    for name in ("README.md", "README.zh.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        table = text.split("<!-- results -->")[1].split("<!-- /results -->")[0]
        tables.append(re.findall(r"\d+\.\d+", table))
    assert tables[0] and tables[0] == tables[1]


def test_every_constraint_is_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wrong = [x for x in lines if not x.startswith("#") and not re.fullmatch(r"[\w.-]+==[\w.]+", x)]
    assert len(lines) > 50 and not wrong, wrong
