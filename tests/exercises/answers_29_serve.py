"""Right and wrong answers to the exercises of 29_serve."""


def accepted(chunks, max_bytes):
    body = b""
    for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            return None
    return body


def reads_all(chunks, max_bytes):
    body = b"".join(chunks)
    return body if len(body) <= max_bytes else None


def off_by_one(chunks, max_bytes):
    body = b""
    for chunk in chunks:
        body += chunk
        if len(body) >= max_bytes:
            return None
    return body


RIGHT = {1: 400, 2: accepted, 3: [[2.0, 0.0], [0.0, 2.0]]}
WRONG = {
    1: [375, 800, 25, "400"],
    2: [reads_all, off_by_one],
    3: [[[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]], [1.0, 2.0]],
}
