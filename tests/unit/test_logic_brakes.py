"""What may go at once, and what may not."""

import pytest

from lbprov.logic.brakes import mass_deletion


@pytest.mark.parametrize(
    ("gone", "total", "refused"),
    [
        pytest.param(0, 0, False, id="nothing-to-do"),
        pytest.param(0, 10, False, id="nothing-gone"),
        pytest.param(1, 2, False, id="one-of-two"),
        pytest.param(4, 5, False, id="a-few-while-something-stays"),
        pytest.param(1, 1, True, id="the-only-one"),
        pytest.param(5, 5, True, id="all"),
        pytest.param(5, 9, True, id="more-than-half"),
        pytest.param(5, 10, False, id="half"),
        pytest.param(400, 1000, False, id="a-large-minority"),
        pytest.param(501, 1000, True, id="a-large-majority"),
    ],
)
def test_mass_deletion(gone: int, total: int, refused: bool) -> None:
    reason = mass_deletion(gone, total)
    assert (reason is not None) is refused
    if reason:
        assert f"{gone} of {total}" in reason
        assert "--force" in reason


@pytest.mark.parametrize(
    ("gone", "total", "refused"),
    [
        pytest.param(4, 4, False, id="all-of-few"),
        pytest.param(5, 5, True, id="all"),
        pytest.param(5, 9, True, id="more-than-half"),
        pytest.param(5, 10, False, id="half"),
    ],
)
def test_a_sound_source_may_lose_its_last_few(gone: int, total: int, refused: bool) -> None:
    reason = mass_deletion(gone, total, sound=True)
    assert (reason is not None) is refused
    if reason:
        assert f"{gone} of {total}" in reason


def test_it_says_of_what() -> None:
    reason = mass_deletion(2, 2, what="Nodes")
    assert reason is not None
    assert reason.startswith("2 of 2 Nodes are gone at once")
