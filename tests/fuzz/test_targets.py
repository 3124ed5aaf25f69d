"""Whatever bytes come, each reader understands them or says what is wrong. The table of readers: tools/fuzz.py."""

import sys
from collections.abc import Iterator

import fuzz
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pieces = st.binary(max_size=8) | st.sampled_from(fuzz.EDGES)
changes = st.lists(st.tuples(st.sampled_from(fuzz.CHANGES), st.integers(0, 1 << 20), pieces), min_size=1, max_size=5)
MEMORY = 3 * 2**30  # bytes more than the process has already


@pytest.fixture(params=fuzz.TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    if fuzz.TARGETS[request.param].needs_torch:
        import torch  # noqa: F401  the test is skipped where it is not to be used
    return str(request.param)


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """A reader that believes what a header claims fails here, instead of taking all memory."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_what_is_known_is_read(target: str, bounded_memory: None) -> None:
    for content in fuzz.known(target):
        fuzz.TARGETS[target].read(content)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(number=st.integers(0, 100), changes=changes)
def test_nothing_breaks_it(
    target: str, bounded_memory: None, number: int, changes: list[tuple[str, int, bytes]]
) -> None:
    known = fuzz.known(target)
    fuzz.TARGETS[target].read(fuzz.mutated(known[number % len(known)], changes))
