"""The queue's shell: threads that wait for a turn."""

import threading
import time
from collections import Counter

from lbprov.controller.queue import Lane, Later, Settled, Turns, WorkQueue


def _take_in_thread(queue: WorkQueue[str], into: list[str | None]) -> threading.Thread:
    thread = threading.Thread(target=lambda: into.append(queue.take()), daemon=True)
    thread.start()
    return thread


def test_close_wakes_everybody_and_lets_turns_end() -> None:
    queue: WorkQueue[str] = WorkQueue(Turns())
    queue.add("a", Lane.CHANGED)
    assert queue.take() == "a"
    taken: list[str | None] = []
    threads = [_take_in_thread(queue, taken) for _ in range(3)]
    queue.close()
    for thread in threads:
        thread.join(60)
    assert taken == [None, None, None]
    queue.done("a", Settled())
    queue.add("b", Lane.CHANGED)
    assert queue.take() is None
    assert sum(queue.depth().values()) == 0


def test_a_sleeper_wakes_for_the_second_wait_too() -> None:
    """Two threads sleep towards something far away; two keys come due soon, and the first is held."""
    queue: WorkQueue[str] = WorkQueue(Turns())
    for key in ("far", "soon", "sooner"):
        queue.add(key, Lane.CHANGED)
        assert queue.take() == key
    queue.done("far", Later(3600))
    taken: list[str | None] = []
    threads = [_take_in_thread(queue, taken) for _ in range(2)]
    time.sleep(0.05)  # both asleep towards "far"
    queue.done("sooner", Later(0.05))
    queue.done("soon", Later(0.1))
    for thread in threads:
        thread.join(60)
    queue.close()
    assert sorted(taken, key=str) == ["soon", "sooner"]


def test_many_threads_never_hold_one_key_at_once_and_lose_nothing() -> None:
    queue: WorkQueue[int] = WorkQueue(Turns())
    held: Counter[int] = Counter()
    last_seen: dict[int, int] = {}
    newest: dict[int, int] = {}
    broken: list[str] = []
    lock = threading.Lock()

    def work() -> None:
        while (key := queue.take()) is not None:
            with lock:
                held[key] += 1
                if held[key] > 1:
                    broken.append(f"{key} twice at once")
                seen = newest[key]
            time.sleep(0)
            with lock:
                held[key] -= 1
                last_seen[key] = seen
            queue.done(key, Settled())

    workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for worker in workers:
        worker.start()
    for version in range(500):
        for key in range(7):
            with lock:
                newest[key] = version
            queue.add(key, Lane(version % 3))
    deadline = time.monotonic() + 10
    while last_seen != newest and time.monotonic() < deadline:
        time.sleep(0.01)
    queue.close()
    for worker in workers:
        worker.join(60)
    assert broken == []
    assert last_seen == newest
