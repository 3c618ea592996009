"""Answers to the exercises of chapter 04: right ones and the mistakes people make."""

RIGHT = {
    1: lambda text: len(text.encode()),
    2: ("two words", "two  words"),
    3: ({"ab": 5, "ba": 3}, "baba"),
}
WRONG = {
    1: [len, lambda text: 4 * len(text), lambda text: len(text.encode()) + 1],
    2: [("same", "same"), ("a", "b"), ("word", "Word"), ("naïve", "naive"), (" ", "  ")],
    3: [({"ab": 5, "ba": 3}, "abab"), ({"ab": 5}, "ab"), ({"bc": 5, "cd": 3}, "abcd")],
}
