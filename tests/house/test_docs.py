"""The documentation: links resolve, named tests and commands exist, tables agree with the code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from everpost.activemanager.transitions import MOVES
from everpost.manage import cmdlets, registry
from everpost.model.database import LocationState

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
SKIPPED_FOLDERS = {".git", ".venv", "__pycache__", "node_modules", "build", "dist"}
LIBRARY_HOSTS = r"\b(?:pypi|pythonhosted|npmjs|registry|artifact\w*|mirror)[\w.-]*\.(?:org|com|io|net|internal|local)\b"
OWN_MACHINE = r"(?<![\w.])/(?:work|home|Users|mnt)/\w|/var/tmp/(?!everpost-)\w|/root/\."


def _files() -> list[Path]:
    """What git tracks; all files where git does not know this folder."""
    found = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False
    )
    if found.returncode == 0 and found.stdout:
        paths = [ROOT / name for name in found.stdout.decode().split("\0") if name]
        return [path for path in paths if path.is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not SKIPPED_FOLDERS & set(path.parts)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_tests_exist(page: Path) -> None:
    for file, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text()):
        path = ROOT / file
        assert path.is_file(), f"{page.name} names {file}"
        if name:
            assert re.search(rf"^\s*(?:async )?def {name}\(", path.read_text(), re.M), (
                f"{page.name} names {file}::{name}"
            )


def test_every_promise_names_its_test() -> None:
    promises = (ROOT / "docs/guarantees.md").read_text().split("## Promises")[1].split("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row), row


def test_moves_in_the_documentation_are_those_of_the_table() -> None:
    text = (ROOT / "docs/failover.md").read_text()
    table = text.split("| from | to |")[1].split("\n\n")[0]
    shown = {
        LocationState(before): frozenset(LocationState(word) for word in after.split(", "))
        for before, after in re.findall(r"^\| (\w+) \| ([\w, ]+) \|$", table, re.M)
    }
    assert shown == MOVES


def test_commands_in_the_documentation_exist() -> None:
    cmdlets.load()
    names = {command.name for command in registry.commands()}
    spoken = {re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower().replace("-", " ", 1): name for name in names}
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"\b(?:Get|New|Set|Add|Remove|Move|Mount|Dismount)-[A-Z][A-Za-z]+\b", text):
            assert name in names, f"{page.name} names {name}"
        for verb, noun in re.findall(r"everpost (get|new|set|add|remove|move|mount|dismount) ([a-z-]+)", text):
            assert f"{verb} {noun}" in spoken, f"{page.name} names everpost {verb} {noun}"


def test_decisions_are_numbered_once() -> None:
    numbers = [path.name[:3] for path in (ROOT / "docs/decisions").glob("[0-9]*.md")]
    assert len(numbers) == len(set(numbers))


def test_no_file_names_somebodys_own_machine_or_a_package_registry() -> None:
    for path in _files():
        if path == Path(__file__) or "corpus" in path.parts:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (LIBRARY_HOSTS, OWN_MACHINE):
            found = re.search(pattern, text)
            assert found is None, f"{path.relative_to(ROOT)}: {found[0] if found else ''}"
