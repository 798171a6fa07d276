"""Names and marks, against AWS's rules for them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbprov.api import ObjectKey, Owner
from lbprov_aws import names

text = st.text(max_size=70)
dns = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,60}[a-z0-9])?", fullmatch=True)
owners = st.builds(Owner, text, st.builds(ObjectKey, dns | text, dns | text), text)


def all_names(owner: Owner) -> list[str]:
    return [
        names.load_balancer_name(owner, internal=False),
        names.load_balancer_name(owner, internal=True),
        names.security_group_name(owner),
        names.target_group_name(owner, "TCP", 30080, "vpc-1"),
    ]


@given(owners)
def test_names_are_accepted_by_aws_and_tell_apart(owner: Owner) -> None:
    made = all_names(owner)
    assert len(set(made)) == len(made)
    for name in made:
        assert len(name) <= names.MAX_NAME
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), name
        assert not name.startswith(("internal-", "sg-"))
        assert name.startswith(names.PREFIX)


@given(owners, owners)
def test_two_owners_never_share_a_name(one: Owner, other: Owner) -> None:
    if (one.cluster, one.uid) != (other.cluster, other.uid):
        assert not set(all_names(one)) & set(all_names(other))


@pytest.mark.parametrize(
    ("namespace", "service", "begins"),
    [
        pytest.param("default", "web", "lbp-default-web-", id="plain"),
        pytest.param("kube-system", "ingress-nginx", "lbp-kube-sys-ingress-", id="cut without a hyphen left"),
        pytest.param("a", "x.y", "lbp-a-x-y-", id="dot"),
    ],
)
def test_names_are_readable(namespace: str, service: str, begins: str) -> None:
    owner = Owner("c", ObjectKey(namespace, service), "uid")
    assert all(re.fullmatch(begins + "[a-z2-7]{10}", name) for name in all_names(owner))


def test_target_group_name_follows_what_cannot_be_changed() -> None:
    owner = Owner("c", ObjectKey("default", "web"), "uid")
    base = names.target_group_name(owner, "TCP", 30080, "vpc-1")
    assert base == names.target_group_name(owner, "TCP", 30080, "vpc-1")
    others = {
        names.target_group_name(owner, "UDP", 30080, "vpc-1"),
        names.target_group_name(owner, "TCP", 30081, "vpc-1"),
        names.target_group_name(owner, "TCP", 30080, "vpc-2"),
    }
    assert len(others) == 3
    assert base not in others


def test_marks_tell_the_owner() -> None:
    owner = Owner("prod.eu", ObjectKey("shop", "web"), "3f0c")
    marks = names.marks(owner, "lb")
    assert marks["kubernetes.io/cluster/prod.eu"] == "owned"
    assert names.owner_of(marks) == owner


@pytest.mark.parametrize("missing", [names.CLUSTER, names.SERVICE, names.UID])
def test_without_a_mark_it_is_nobodys(missing: str) -> None:
    marks = names.marks(Owner("c", ObjectKey("ns", "svc"), "u"), "lb")
    del marks[missing]
    assert names.owner_of(marks) is None


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=20), st.text())
def test_extra_tags_are_known_by_their_mark(extra: dict[str, str], other: str) -> None:
    mark = names.extra_mark(extra)
    assert len(mark) <= 256
    assert names.is_tag_text(mark)
    assert all(names.marked_extra(mark, key) for key in extra)
    assert names.marked_extra(mark, other) == (other in extra)


@given(st.text())
def test_any_text_becomes_a_tag_value(wish: str) -> None:
    value = names.tag_text(wish)
    assert len(value) <= 256
    assert names.is_tag_text(value)
