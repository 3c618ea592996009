"""Answers to the exercises of chapter 44_read: each RIGHT must pass, each WRONG must not."""

import gzip
import zlib


def lines_within(content, most):
    lines = content.split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    return [line if len(line) <= most else None for line in lines]


def other_newlines(content, most):
    return [line if len(line) <= most else None for line in content.splitlines()]


def one_too_many(content, most):
    return [line if len(line) <= most else None for line in content.split(b"\n")]


def newline_counts(content, most):
    lines = content.split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    return [line if len(line) < most else None for line in lines]


def stays_inside(path):
    if path.startswith("/"):
        return False
    depth = 0
    for part in path.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return False
    return True


def no_dots(path):
    return ".." not in path and not path.startswith("/")


def ends_inside(path):
    parts = path.split("/")
    return not path.startswith("/") and parts.count("..") * 2 <= len(parts)


def recovered(packed):
    unpack, out = zlib.decompressobj(wbits=31), b""
    try:
        for start in range(0, len(packed), 64):
            out += unpack.decompress(packed[start : start + 64])
    except zlib.error:
        pass
    return out


def all_or_nothing(packed):
    try:
        return gzip.decompress(packed)
    except (EOFError, OSError, zlib.error):
        return b""


def at_once(packed):
    try:
        return zlib.decompressobj(wbits=31).decompress(packed)
    except zlib.error:
        return b""


RIGHT = {1: lines_within, 2: stays_inside, 3: recovered}
WRONG = {
    1: [other_newlines, one_too_many, newline_counts],
    2: [no_dots, ends_inside],
    3: [all_or_nothing, at_once],
}
