"""What an activation with loss left behind: where a rewind is impossible, the former files stay when a seed comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from everpost.databases.binaries import Binaries
from everpost.databases.control import segment_name
from everpost.databases.layout import Layout
from everpost.databases.mending import Mending
from everpost.databases.tools import Tools

FORK = 5 * 1024 * 1024 + 100


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A copy with eight files of the log; the last is a recycled one."""
    made = Layout(tmp_path, "MB01")
    made.prepare()
    _files(made, "old")
    folder = made.pgdata / "pg_wal"
    folder.mkdir()
    (folder / "00000002.history").write_text("1\t0/100\tno recovery target specified\n")
    for number in range(1, 9):
        lsn = number << 20
        header = b"\0" * 8 + (lsn if number < 8 else 1 << 20).to_bytes(8, "little") + b"\0" * 24
        (folder / segment_name(2, lsn)).write_bytes(header)
    return made


def _files(layout: Layout, name: str) -> None:
    seed = layout.root / f"seed-{name}"
    seed.mkdir()
    (seed / "PG_VERSION").write_text(name)
    layout.adopt(seed, name)


def _mending(layout: Layout) -> Mending:
    return Mending(layout, Tools(Binaries(Path("/nowhere")), layout.log))


def test_the_log_behind_the_fork_is_copied_and_repeating_that_changes_nothing(layout: Layout) -> None:
    folder = Path(_mending(layout).set_aside("1.5", FORK))
    kept = sorted(path.name for path in (folder / "log").iterdir())
    assert kept == ["00000002.history", *(segment_name(2, number << 20) for number in (5, 6, 7))]
    assert "0/500064" in (folder / "README").read_text()
    (layout.pgdata / "pg_wal" / segment_name(2, 7 << 20)).unlink()  # a rewind was begun, and its agent killed
    assert _mending(layout).set_aside("1.5", FORK) == str(folder)
    assert sorted(path.name for path in (folder / "log").iterdir()) == kept


def test_half_a_copy_is_made_anew(layout: Layout) -> None:
    part = layout.root / "diverged-1.5.part"
    part.mkdir()
    (part / "half").touch()
    folder = Path(_mending(layout).set_aside("1.5", FORK))
    assert not part.exists() and not (folder / "half").exists() and layout.diverged() == [folder]


def test_a_seed_leaves_the_former_files_in_the_folder_and_the_next_one_does_not(layout: Layout) -> None:
    folder = Path(_mending(layout).set_aside("1.5", None))
    _files(layout, "new")
    assert (folder / "inc-old" / "PG_VERSION").read_text() == "old"
    assert (layout.pgdata / "PG_VERSION").read_text() == "new"
    _files(layout, "newer")
    assert sorted(path.name for path in folder.iterdir()) == ["README", "inc-old", "log"]
    assert sorted(path.name for path in layout.root.glob("inc-*")) == ["inc-newer"]
    (retired,) = layout.root.glob("old-*")  # the swap does not wait for its deletion
    assert (retired / "PG_VERSION").read_text() == "new"
    layout.discard()
    assert not retired.exists()


def test_an_agent_that_dies_in_the_swap_gives_up_none_of_them(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(_mending(layout).set_aside("1.5", None))

    def die(self: Layout) -> None:
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(Layout, "retire", die)
        with pytest.raises(InterruptedError):
            _files(layout, "new")
    layout.sweep()
    assert (folder / "inc-old" / "PG_VERSION").read_text() == "old"
