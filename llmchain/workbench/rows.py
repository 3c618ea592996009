"""Rows of a JSON Lines file that are read when they are asked for, however large the file is."""

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload


class Rows(Sequence[dict[str, Any]]):
    """The rows of `path`, one JSON object a line. Memory holds eight bytes a row, never the text.

    ValueError, with file and line, for a line that is no JSON object."""

    def __init__(self, path: Path) -> None:
        self.path, self.places = path, array("Q", [0])  # where each line begins; the end
        with path.open("rb") as lines:
            for line in lines:
                self.places.append(self.places[-1] + len(line))
        self._file = path.open("rb", buffering=0)

    @classmethod
    def written(cls, path: Path, rows: Iterable[dict[str, Any]]) -> "Rows":
        """Write rows, keys sorted, a line each, and read them from there."""
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
        return cls(path)

    def __len__(self) -> int:
        return len(self.places) - 1

    @overload
    def __getitem__(self, i: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, i: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, i: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        k = i + len(self) if i < 0 else i
        if not 0 <= k < len(self):
            raise IndexError(f"row {i} of {len(self)} in {self.path.name}")
        begin, end = self.places[k], self.places[k + 1]
        return self._parsed(os.pread(self._file.fileno(), end - begin, begin), k)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as lines:
            for k, line in enumerate(lines):
                yield self._parsed(line, k)

    def _parsed(self, line: bytes, k: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{self.path}: line {k + 1} is no JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{self.path}: line {k + 1} is no JSON object")
        return row

    def column(self, name: str, chosen: Sequence[int] | None = None) -> "Column":
        """One field of all rows, or of the `chosen` ones in their order; read when asked for."""
        return Column(self, name, range(len(self)) if chosen is None else chosen)


class Column(Sequence[Any]):
    """One field of chosen rows."""

    def __init__(self, rows: Rows, name: str, chosen: Sequence[int]) -> None:
        self.rows, self.name, self.chosen = rows, name, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self.rows[k][self.name] for k in self.chosen[i]]
        return self.rows[self.chosen[i]][self.name]
