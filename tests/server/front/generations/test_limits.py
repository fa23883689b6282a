"""What one client may ask for."""

import pytest

from vinf_server.front.errors import ClientLimitError
from vinf_server.front.generations.limits import _KNOWN_CLIENTS, ClientLimits, CreateRate

pytestmark = pytest.mark.fast


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_client_may_make_a_minutes_calls_at_once_and_then_waits_for_each():
    clock = Clock()
    rate = CreateRate(30, clock=clock)
    for _ in range(30):
        rate.take("a")
    with pytest.raises(ClientLimitError) as caught:
        rate.take("a")
    assert caught.value.retry_s == pytest.approx(2.0)
    assert caught.value.metadata["limit"] == "max_creates_per_minute"
    clock.now += 2.0
    rate.take("a")
    with pytest.raises(ClientLimitError):
        rate.take("a")


def test_one_clients_calls_cost_no_other_client_anything():
    rate = CreateRate(1, clock=Clock())
    rate.take("greedy")
    with pytest.raises(ClientLimitError):
        rate.take("greedy")
    rate.take("modest")


def test_a_bucket_never_holds_more_than_a_minutes_calls():
    clock = Clock()
    rate = CreateRate(2, clock=clock)
    rate.take("a")
    clock.now += 3600
    rate.take("a")
    rate.take("a")
    with pytest.raises(ClientLimitError):
        rate.take("a")


def test_no_limit_counts_nobody():
    rate = CreateRate(0, clock=Clock())
    for _ in range(1000):
        rate.take("a")
    assert not rate._buckets


def test_memory_is_bounded_whatever_names_clients_give():
    rate = CreateRate(10, clock=Clock())
    for number in range(_KNOWN_CLIENTS + 50):
        rate.take(str(number))
    assert len(rate._buckets) == _KNOWN_CLIENTS


@pytest.mark.parametrize(("waiting", "most", "refused"), [(3, 4, False), (4, 4, True), (5, 4, True), (99, 0, False)])
def test_a_client_may_have_so_many_in_the_queue(waiting, most, refused):
    limits = ClientLimits(max_waiting=most)
    if not refused:
        limits.check_waiting(waiting, retry_s=3)
        return
    with pytest.raises(ClientLimitError) as caught:
        limits.check_waiting(waiting, retry_s=3)
    assert caught.value.retry_s == 3
    assert caught.value.metadata["limit"] == "max_waiting_per_client"
