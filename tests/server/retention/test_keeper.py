import threading
import time

from server.errors import DatabaseUnavailableError, StorageUnavailableError
from server.retention.keeper import keep_sweeping
from server.schemas.retention import Swept


def test_keep_sweeping_goes_on_after_failures_and_only_where_it_is_due() -> None:
    stop = threading.Event()
    failures: list[Exception] = [StorageUnavailableError("S3 is down"), RuntimeError("a fault of ours")]
    asked = iter((False, True, True, False, True))
    swept = 0

    def sweep() -> list[Swept]:
        nonlocal swept
        if failures:
            raise failures.pop()
        swept += 1
        stop.set()
        return []

    keep_sweeping(
        sweep,
        stop,
        latest_request=lambda: 0,
        is_due=lambda: next(asked),
        first_s=0.001,
        every_s=0.001,
        look_s=0.002,
    )
    assert (swept, failures) == (1, [])
    assert next(asked, "all asked") == "all asked"


def test_keep_sweeping_obeys_each_request_once_and_waits_for_the_database() -> None:
    stop = threading.Event()
    asked = 3
    fails = True
    swept: list[int] = []

    def latest() -> int:
        if fails:
            raise DatabaseUnavailableError("it is away")
        return asked

    def sweep() -> list[Swept]:
        swept.append(asked)
        return []

    thread = threading.Thread(
        target=keep_sweeping, args=(sweep, stop), kwargs={"latest_request": latest, "look_s": 0.01}
    )
    thread.start()
    try:
        time.sleep(0.1)
        fails = False
        time.sleep(0.1)
        assert swept == [], "asked before the start: the first sweep will do it"
        for asked in (4, 6):
            end_s = time.monotonic() + 10
            while asked not in swept:
                assert time.monotonic() < end_s
                time.sleep(0.01)
        time.sleep(0.1)
    finally:
        stop.set()
        thread.join()
    assert swept == [4, 6]
