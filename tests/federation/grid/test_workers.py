"""Sites in worker processes: at the same time, within a budget, and whatever happens to them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from flwr.app import Message, RecordDict

from federation.grid import Budget, WorkerGrid

ROOT = Path(__file__).parents[3]
ENOUGH = 10**12


@contextmanager
def grid(sites: dict[str, dict[str, str]], processes: int = 2) -> Iterator[WorkerGrid]:
    named = {name: {"name": name, **config} for name, config in sites.items()}
    budget = Budget(processes=processes, memory_bytes=ENOUGH)
    with WorkerGrid("tests.federation.grid.answering_app:app", named, budget) as opened:
        yield opened


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def ask(grid: WorkerGrid, ttl: float = 60) -> list[str]:
    nodes = grid.get_nodes()
    return list(
        grid.push_messages(Message(RecordDict(), node.node_id, "query", ttl=ttl) for node in nodes)
    )


def pull(grid: WorkerGrid, identifier: str) -> Message:
    (reply,) = grid.pull_messages([identifier])
    return reply


def said(reply: Message) -> tuple[str, int]:
    record = reply.content.config_records["said"]
    return str(record["name"]), int(str(record["pid"]))


def test_two_sites_work_at_the_same_time(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    sites = {
        "A": {"do": "meet", "mine": a, "other": b},
        "B": {"do": "meet", "mine": b, "other": a},
    }
    with grid(sites) as two:
        replies = [pull(two, identifier) for identifier in ask(two)]
    (first, one), (second, other) = map(said, replies)
    assert (first, second) == ("A", "B")
    assert len({one, other, os.getpid()}) == 3


def test_answers_come_in_the_order_they_are_pulled_and_each_once(tmp_path: Path) -> None:
    with grid({name: {} for name in "ABCDE"}) as two:
        asked = ask(two)
        assert [said(pull(two, i))[0] for i in reversed(asked)] == list("EDCBA")
        assert list(two.pull_messages(asked)) == []


def test_a_worker_that_dies_costs_one_answer(tmp_path: Path) -> None:
    with grid({"A": {"do": "die"}, "B": {}, "C": {}}) as two:
        dead, *others = [pull(two, identifier) for identifier in ask(two)]
        assert dead.error.reason == "its process ended with 3"
        assert [said(reply)[0] for reply in others] == ["B", "C"]


def test_a_worker_that_hangs_is_ended_at_its_deadline() -> None:
    with grid({"A": {"do": "hang"}, "B": {}}, processes=1) as one:
        late, answered = [pull(one, identifier) for identifier in ask(one, ttl=8)]
        assert "deadline" in late.error.reason
        assert said(answered)[0] == "B"


def test_an_error_s_text_stays_in_the_worker() -> None:
    with grid({"A": {"do": "raise"}}) as two:
        (asked,) = ask(two)
        assert pull(two, asked).error.reason == "ValueError"


@pytest.mark.parametrize(
    ("processes", "memory", "peak", "workers"),
    [(4, 10, 3, 3), (2, 10, 3, 2), (4, 2, 3, 1), (4, 10, 0, 4)],
)
def test_a_budget(processes: int, memory: int, peak: int, workers: int) -> None:
    assert Budget(processes=processes, memory_bytes=memory).workers(peak) == workers


def test_a_small_budget_gives_one_worker() -> None:
    named = {name: {"name": name} for name in "ABCD"}
    budget = Budget(processes=4, memory_bytes=10**9)
    with WorkerGrid("tests.federation.grid.answering_app:app", named, budget) as few:
        assert len({said(pull(few, identifier))[1] for identifier in ask(few)}) == 1


def test_workers_that_need_more_than_the_budget_become_fewer() -> None:
    named = {name: {"name": name, "do": "fill"} for name in "AB"}
    budget = Budget(processes=4, memory_bytes=2 * 10**9)
    with WorkerGrid("tests.federation.grid.answering_app:app", named, budget) as few:
        first = {said(pull(few, identifier))[1] for identifier in ask(few)}
        then = {said(pull(few, identifier))[1] for identifier in ask(few)}
    assert (len(first), len(then)) == (2, 1)


def test_closing_ends_every_worker() -> None:
    others = {child.pid for child in psutil.Process().children(recursive=True)}
    with grid({"A": {}, "B": {"do": "hang"}}) as two:
        answered, _ = ask(two)
        _, pid = said(pull(two, answered))
        running = {child.pid for child in psutil.Process().children(recursive=True)} - others
        assert pid in running
    assert not psutil.pid_exists(pid)
    assert (
        len([one for one in running if psutil.pid_exists(one)]) <= 2
    )  # what forks them, and its tracker


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.federation.grid.test_workers import ask, grid\n"
        "import psutil\n"
        "with grid({'A': {'do': 'hang'}, 'B': {'do': 'hang'}}) as two:\n"
        "    ask(two)\n"
        "    print(*(c.pid for c in psutil.Process().children(recursive=True)), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) >= 2
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if psutil.pid_exists(pid)]
