"""The harness measures, and the table says what it measured."""

import time

from benchmarks.__main__ import table
from benchmarks.measure import Row, Times, extra_bytes, in_turns, profile


def test_sides_take_turns_and_are_warmed_up() -> None:
    called: list[str] = []
    sides = in_turns(lambda: called.append("a"), lambda: called.append("b"), turns=3)
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert [len(times.seconds) for times in sides] == [3, 3]


def test_time_is_what_passes() -> None:
    (slept,) = in_turns(lambda: time.sleep(0.02), turns=2)
    assert slept.median >= 0.02
    assert str(Times(seconds=[0.001, 0.003, 0.002])) == "2 ms (1 to 3, 3 turns)"


def test_memory_is_the_most_that_was_held_at_once() -> None:
    size = 50_000_000
    held = extra_bytes(lambda: [bytearray(b"x") * size for _ in range(3)] and None)
    assert 2.5 * size < held < 4 * size
    assert extra_bytes(lambda: None) < size / 10


def row(value: float) -> Row:
    return Row(what="one / other", value=value, bound=1.1, unit="x", shown="2 s / 1 s",
               profile="the slow one")  # fmt: skip


def test_the_table_says_what_is_met_and_what_holds_the_rest_back() -> None:
    text = table([row(1.1), row(1.2)], data="phantoms")
    assert "| one / other | 1.1 x | 1.1 x | met | 2 s / 1 s |" in text
    assert "| one / other | 1.2 x | 1.1 x | not met | 2 s / 1 s |" in text
    assert "the slow one" in text


def test_a_profile_names_the_slow_function() -> None:
    def dawdle() -> int:
        return sum(n * n for n in range(200_000))

    assert "genexpr" in profile(dawdle)
