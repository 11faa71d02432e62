"""The shell's language, the registry, and rendering."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everpost.cli.main import _interactive, to_line
from everpost.errors import Refused
from everpost.manage import cmdlets, parse, registry, render

cmdlets.load()


def one(line: str) -> parse.Call:
    [[call]] = parse.parse(line)
    return call


@pytest.mark.parametrize(
    ("line", "name", "positional", "named"),
    [
        (
            "New-DatabaseAvailabilityGroup -Name E14-DAG -WitnessServer EX10-CAHT"
            " -WitnessDirectory /var/lib/fsw -Verbose",
            "New-DatabaseAvailabilityGroup",
            [],
            {"Name": "E14-DAG", "WitnessServer": "EX10-CAHT", "WitnessDirectory": "/var/lib/fsw", "Verbose": True},
        ),
        ("Get-X \u2013Identity \u201cE14 DAG\u201d -Status", "Get-X", [], {"Identity": "E14 DAG", "Status": True}),
        ("X -Confirm:$false -A:'it''s' b,c , d", "X", [["b", "c", "d"]], {"Confirm": False, "A": "it's"}),
        ("X -N $null -5 # a comment", "X", ["-5"], {"N": None}),
        ("Move-ActiveMailboxDatabase MB01 -ActivateOnServer EX02", "Move-ActiveMailboxDatabase", ["MB01"],
         {"ActivateOnServer": "EX02"}),
    ],
)  # fmt: skip
def test_lines_as_administrators_type_them(line: str, name: str, positional: list[object], named: object) -> None:
    call = one(line)
    assert (call.name, call.positional, call.named) == (name, positional, named)


def test_a_backtick_joins_lines() -> None:
    call = one("New-X -Name A `\n    -IP 10.77.0.50 `  \r\n -Gateway 10.77.0.1 `")
    assert not call.positional and call.named == {"Name": "A", "IP": "10.77.0.50", "Gateway": "10.77.0.1"}
    assert one("X -A:'a`b' c`d `e").positional == ["c`d", "`e"], "within a line it is a sign like any other"


def test_several_lines_are_typed_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["Get-X `", "  -Status", "", "exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    told: list[str] = []

    async def run(socket: Path, line: str) -> int:
        told.append(line)
        return 0

    monkeypatch.setattr("everpost.manage.client.run", run)
    assert _interactive(Path("/nowhere")) == 0 and told == ["Get-X `\n  -Status"]


def test_pipelines_and_statements() -> None:
    [[first, second], [third]] = parse.parse("Get-MailboxDatabase | fl Name, Server; Get-Mailbox")
    assert (first.name, second.name, third.name) == ("Get-MailboxDatabase", "fl", "Get-Mailbox")
    assert second.positional == [["Name", "Server"]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("X 'open", "not closed"),
        ("X | ", "missing"),
        ("| X", "missing"),
        ("X a,", "behind the comma"),
        ("X -A 1 -a 2", "twice"),
    ],
)
def test_what_cannot_be_read_is_refused(line: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        parse.parse(line)


@given(st.text())
def test_any_text_is_read_or_refused(line: str) -> None:
    try:
        parse.parse(line)
    except Refused:
        pass


@given(
    st.text(alphabet=st.characters(exclude_categories=["C"])).filter(
        lambda t: not set(t) & set("\u201c\u201d\u2018\u2019\u2013\u2014\u2212\u00a0")
    )
)
def test_a_quoted_value_comes_back(text: str) -> None:
    call = one("X -A:'" + text.replace("'", "''") + "'")
    assert call.named == {"A": text}


def test_every_command_of_this_release_is_there() -> None:
    wanted = """New-DatabaseAvailabilityGroup Add-DatabaseAvailabilityGroupServer Get-DatabaseAvailabilityGroup
        New-MailboxDatabase Add-MailboxDatabaseCopy Get-MailboxDatabaseCopyStatus Move-ActiveMailboxDatabase New-Mailbox
        Get-Mailbox Get-MailboxDatabase Mount-Database Dismount-Database Remove-MailboxDatabaseCopy"""
    assert set(wanted.split()) <= {command.name for command in registry.commands()}
    assert all(command.help for command in registry.commands())


def test_names_in_any_case_prefixes_and_the_nearest() -> None:
    command = registry.find("get-mailboxdatabasecopystatus")
    assert registry.bind(command, ["MB01"], {"ser": "EX01"}) == {"identity": "MB01", "server": "EX01"}
    with pytest.raises(Refused, match="Did you mean Get-MailboxDatabase"):
        registry.find("Get-MailboxDatabas")
    with pytest.raises(Refused, match="has no parameter -Nonsense"):
        registry.bind(command, [], {"Nonsense": "x"})
    with pytest.raises(Refused, match="needs -Server"):
        registry.bind(registry.find("New-MailboxDatabase"), ["MB01"], {})
    with pytest.raises(Refused, match=r"must not be \$null"):
        registry.bind(command, [None], {})
    with pytest.raises(Refused, match="may mean"):
        registry.bind(registry.find("New-DatabaseAvailabilityGroup"), [], {"Witness": "x", "Name": "D"})


def test_a_switch_takes_no_value() -> None:
    command = registry.find("Get-DatabaseAvailabilityGroup")
    assert registry.bind(command, [], {"Status": "E14-DAG"}) == {"identity": "E14-DAG", "status": True}


def test_verb_and_noun_on_the_command_line() -> None:
    assert to_line(["get", "mailbox-database-copy-status", "MB01"]) == "Get-MailboxDatabaseCopyStatus 'MB01'"
    line = to_line(["new", "mailbox", "--name", "Anna Smith", "--password=it's secret"])
    assert one(line).named == {"name": "Anna Smith", "password": "it's secret"}


def test_tables_lists_and_json() -> None:
    rows = [{"Name": "MB01\\EX01", "Queue": 3, "Ok": True}, {"Name": "MB02", "Queue": 12, "Ok": None}]
    assert render.table(rows, ("Name", "Queue")) == (
        "Name       Queue\n---------  -----\nMB01\\EX01      3\nMB02          12"
    )
    assert render.listing(rows[:1]) == "Name  : MB01\\EX01\nQueue : 3\nOk    : True"
    assert '"Queue": 12' in render.as_json(rows)
