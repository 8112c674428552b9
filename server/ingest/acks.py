"""Which reports to acknowledge to which device, as ranges. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from edge_agent.protocol.messages import Ack, AckRange

RANGES_PER_ACK: Final = 1024


def ranges_of(sequences: Iterable[int], *, spool_id: str) -> Iterator[AckRange]:
    """The fewest ranges that cover exactly these sequences; order and repetition do not matter."""
    first: int | None = None
    last = -1
    for sequence in sorted(set(sequences)):
        if first is not None and sequence == last + 1:
            last = sequence
            continue
        if first is not None:
            yield AckRange(spool_id=spool_id, first=first, last=last)
        first = last = sequence
    if first is not None:
        yield AckRange(spool_id=spool_id, first=first, last=last)


def acks_of(committed: Iterable[tuple[str, str, int]]) -> Iterator[tuple[str, Ack]]:
    """The messages that free (device, spool id, sequence) on the devices, within the size that a message may have."""
    by_device: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for device, spool_id, sequence in committed:
        by_device[device][spool_id].append(sequence)
    for device, spools in by_device.items():
        ranges = (part for spool_id, sequences in spools.items() for part in ranges_of(sequences, spool_id=spool_id))
        while chunk := tuple(islice(ranges, RANGES_PER_ACK)):
            yield device, Ack(ranges=chunk)
