"""Documents carry their schema's version, and the organisation's view is parsed once per change."""

from __future__ import annotations

import json

import msgspec
import pytest

from everpost.directory import keys
from everpost.directory.interface import Entry
from everpost.directory.schema import OrganizationDocument, OrganizationView, decode, encode
from everpost.model.database import Location, LocationState, Token
from everpost.model.recipient import Mailbox
from everpost.model.server import Role, Server

EX01 = Server(name="EX01", address="10.77.0.11", replication_address="10.78.0.11", roles=(Role.MAILBOX,))


def mailbox(guid: str, *addresses: str) -> Mailbox:
    return Mailbox(guid=guid, name=guid, alias=guid, addresses=addresses, database="MB01")


def put(view: OrganizationView, key: str, value: object, revision: int = 1) -> None:
    view.apply(key, Entry(key, encode(value), revision))


def test_a_document_is_an_object_with_its_version() -> None:
    value = encode(EX01)
    assert json.loads(value)["v"] == 1 and value.startswith(b'{"v":1,')
    assert decode(Server, value) == EX01
    location = Location(database="MB01", active="EX01", token=Token(1, 2), state=LocationState.OPEN)
    assert decode(Location, encode(location)) == location
    assert decode(list[Location], encode([location])) == [location]
    assert json.loads(encode({})) == {"v": 1}


def test_fields_of_a_later_release_are_passed_over() -> None:
    later = {**json.loads(encode(EX01)), "colour": "blue"}
    assert decode(Server, json.dumps(later).encode()) == EX01
    plain = msgspec.json.encode(EX01)  # without a version: the first one
    assert decode(Server, plain) == EX01


@pytest.mark.parametrize("version", [2, 10, 11, 100])
def test_a_newer_schema_is_refused_not_guessed(version: int) -> None:
    newer = encode(EX01).replace(b'{"v":1,', b'{"v":%d,' % version)
    with pytest.raises(msgspec.ValidationError, match="update this server"):
        decode(Server, newer)


def test_the_view_has_what_was_put_and_lacks_what_was_deleted() -> None:
    view = OrganizationView()
    put(view, keys.ORGANIZATION, OrganizationDocument(name="Contoso"))
    put(view, keys.server("EX01"), EX01, revision=7)
    assert view.organization is not None and view.organization.name == "Contoso"
    assert view.servers == {"EX01": EX01} and view.revision(keys.server("EX01")) == 7
    view.apply(keys.server("EX01"), None)
    assert view.servers == {} and view.revision(keys.server("EX01")) == 0


def test_a_mailbox_is_found_by_any_of_its_addresses_in_any_case() -> None:
    view = OrganizationView()
    put(view, keys.mailbox("g1"), mailbox("g1", "anna@contoso.com", "info@contoso.com"))
    found = view.mailbox_by_address("Info@Contoso.COM")
    assert found is not None and found.guid == "g1"
    put(view, keys.mailbox("g1"), mailbox("g1", "anna@contoso.com"))
    assert view.mailbox_by_address("info@contoso.com") is None


@pytest.mark.parametrize("first", ["g1", "g2"])
def test_an_address_that_moves_is_its_new_owners_whichever_change_comes_first(first: str) -> None:
    view = OrganizationView()
    put(view, keys.mailbox("g1"), mailbox("g1", "anna@contoso.com", "info@contoso.com"))
    put(view, keys.mailbox("g2"), mailbox("g2", "ben@contoso.com"))
    after = {"g1": mailbox("g1", "anna@contoso.com"), "g2": mailbox("g2", "ben@contoso.com", "info@contoso.com")}
    for guid in sorted(after, key=lambda guid: guid != first):
        put(view, keys.mailbox(guid), after[guid], revision=2)
    found = view.mailbox_by_address("info@contoso.com")
    assert found is not None and found.guid == "g2"


@pytest.mark.parametrize("value", [b"{", b'{"v":9,"guid":"g1"}', b'{"guid":7}'])
def test_a_document_that_cannot_be_read_leaves_the_last_one(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    view = OrganizationView()
    put(view, keys.mailbox("g1"), mailbox("g1", "anna@contoso.com"), revision=3)
    view.apply(keys.mailbox("g1"), Entry(keys.mailbox("g1"), value, 4))
    assert view.mailbox_by_address("anna@contoso.com") is not None
    assert view.revision(keys.mailbox("g1")) == 3
    assert "cannot be read" in caplog.text
