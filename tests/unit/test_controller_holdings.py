"""What the world is known to hold, also while it is being listed."""

from lbprov.controller.holdings import Holdings
from lbprov.model import ObjectKey, Owner

KEY = ObjectKey("default", "web")
OLD, NEW, OTHER = Owner("c", KEY, "1"), Owner("c", KEY, "2"), Owner("c", ObjectKey("default", "api"), "3")


def test_several_owners_of_one_name() -> None:
    holdings = Holdings()
    holdings.add(NEW)
    holdings.add(OLD)
    holdings.add(OTHER)
    assert holdings.of(KEY) == (OLD, NEW)
    holdings.drop(OLD)
    holdings.drop(OLD)
    assert holdings.of(KEY) == (NEW,)
    assert holdings.owners() == {NEW, OTHER}
    holdings.drop(NEW)
    assert holdings.of(KEY) == ()


def test_a_listing_replaces_what_was_known() -> None:
    holdings = Holdings()
    holdings.add(OLD)
    holdings.begin_listing()
    holdings.end_listing([OTHER])
    assert holdings.owners() == {OTHER}


def test_what_happens_during_a_listing_is_newer_than_the_listing() -> None:
    """The listing was taken before NEW was made and before OLD was gone, but comes in after both."""
    holdings = Holdings()
    holdings.add(OLD)
    holdings.begin_listing()
    holdings.add(NEW)
    holdings.drop(OLD)
    holdings.end_listing([OLD, OTHER])
    assert holdings.owners() == {NEW, OTHER}
    holdings.begin_listing()
    holdings.end_listing([])
    assert holdings.owners() == frozenset()
