import threading

from server.errors import StorageUnavailableError
from server.retention.keeper import keep_sweeping
from server.schemas.retention import SweepReport


def test_keep_sweeping_goes_on_after_failures_and_only_where_it_is_due() -> None:
    stop = threading.Event()
    failures: list[Exception] = [StorageUnavailableError("S3 is down"), RuntimeError("a fault of ours")]
    asked = iter((False, True, True, False, True))
    swept = 0

    def sweep() -> SweepReport:
        nonlocal swept
        if failures:
            raise failures.pop()
        swept += 1
        stop.set()
        return SweepReport(dry_run=False, swept=())

    keep_sweeping(sweep, stop, is_due=lambda: next(asked), first_s=0.001, every_s=0.001)
    assert (swept, failures) == (1, [])
    assert next(asked, "all asked") == "all asked"
