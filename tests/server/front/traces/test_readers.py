"""Who has read: one entry a stream, one for the pulls of a connection, and never too many."""

from __future__ import annotations

import pytest

from vinf_server.front.traces.readers import MOST_READERS, PAUSE_NS, Readers

pytestmark = pytest.mark.fast


def test_pulls_of_a_connection_are_one_reading():
    readers = Readers()
    readers.pulled("ipv4:1", 3, 2, began_ns=1000)
    readers.pulled("ipv4:2", 0, 1, began_ns=2000)
    readers.pulled("ipv4:1", 5, 4, began_ns=3000)
    first, second = readers.readings
    assert (first.peer, first.start_ns, first.start_frame, first.frame_count) == ("ipv4:1", 1000, 3, 6)
    assert (second.peer, second.frame_count) == ("ipv4:2", 1)
    readers.pulled("ipv4:1", 9, 1, began_ns=first.end_ns + PAUSE_NS + 1)
    assert len(readers.readings) == 3


def test_there_are_never_too_many():
    readers = Readers()
    for number in range(MOST_READERS + 5):
        readers.stream_opened(f"ipv4:{number}", 0).frame_count = 7
        readers.pulled(f"ipv4:{number}", 0, 1, began_ns=1)
    assert len(readers.readings) == MOST_READERS
