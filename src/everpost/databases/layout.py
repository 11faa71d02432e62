"""Where a copy's files are, and what is durably known of them.

<data>/databases/<DB>/state.json      incarnation, folder, whether spoilt, highest token ever seen
                      mark.json       the last promotion that was begun here
                      inc-<id>/       PGDATA of an incarnation
                      seed-<id>/      a seed that is being made beside it
                      old-<id>/       files of a former life, which are being deleted
                      diverged-<token>/  what the opening with loss under that token left behind: log/, or inc-<id>/
                      conf/           configuration, outside PGDATA: no backup or rewind carries it along
                      log/postgresql.log
"""

from __future__ import annotations

import secrets
import shutil
import threading
from pathlib import Path

import msgspec

from everpost.databases.files import sync_folder, write_durably
from everpost.databases.interface import Failure
from everpost.errors import EverpostError
from everpost.model.database import Token


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the files. `spoilt`: a rewind was begun and not ended. `failure`: why the copy suspended itself.
    `seeded`: the order of the seed they came from. `scrubbed_at`: when all pages were last read, Unix seconds.
    `aside`: (incarnation's folder, diverged folder): files that are kept there when others take their place."""

    incarnation: str = ""
    folder: str = ""
    spoilt: bool = False
    highest: Token = Token(0, 0)
    failure: Failure | None = None
    seeded: str = ""
    scrubbed_at: float = 0.0
    aside: tuple[str, str] | None = None


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A promotion that was begun (3.3); `until`: Unix seconds, of a copy that stood at a point in time."""

    token: Token
    nonce: str
    until: float | None = None


class TokenWentBack(EverpostError):
    """Something asks this copy to act under a token lower than one it knows (3.12)."""


class Layout:
    """The folder of one database's copy."""

    def __init__(self, data_dir: Path, database: str) -> None:
        self.root = data_dir / "databases" / database
        self.conf = self.root / "conf"
        self.log = self.root / "log" / "postgresql.log"
        self._state: State | None = None
        self._deleting = threading.Lock()

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self.root, self.conf, self.log.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def state(self) -> State:
        """What is known; nothing before the first create or seed. Read once: only this process writes it."""
        if self._state is None:
            try:
                self._state = msgspec.json.decode((self.root / "state.json").read_bytes(), type=State)
            except FileNotFoundError:
                self._state = State()
        return self._state

    def save(self, state: State) -> None:
        """Durably. After a failure the file is the judge of what was kept."""
        try:
            write_durably(self.root / "state.json", msgspec.json.encode(state))
        except BaseException:
            self._state = None
            raise
        self._state = state

    def mark(self) -> Mark | None:
        """The last promotion that was begun here, if the files are still of that life."""
        try:
            return msgspec.json.decode((self.root / "mark.json").read_bytes(), type=Mark)
        except FileNotFoundError:
            return None

    def save_mark(self, mark: Mark) -> None:
        """Note a promotion before it begins. Raises TokenWentBack below the highest token seen."""
        state = self.state()
        if mark.token < state.highest:
            raise TokenWentBack(
                f"{self.root.name} was activated at {state.highest} before; it is not activated at {mark.token}.",
                remedy="The directory seems to be older than this copy: compare all copies first.",
            )
        self.save(msgspec.structs.replace(state, highest=mark.token))
        write_durably(self.root / "mark.json", msgspec.json.encode(mark))

    @property
    def pgdata(self) -> Path:
        """PGDATA of the current incarnation."""
        return self.root / self.state().folder

    def new_incarnation(self) -> str:
        """A fresh name for a life of the files."""
        return secrets.token_hex(4)

    def adopt(self, folder: Path, incarnation: str, order: str = "") -> None:
        """Make a finished seed the current files; what was there before is left to `discard`."""
        state = self.state()
        final = self.root / f"inc-{incarnation}"
        folder.rename(final)
        sync_folder(self.root)
        (self.root / "mark.json").unlink(missing_ok=True)
        after = msgspec.structs.replace(state, incarnation=incarnation, folder=final.name, spoilt=False)
        self.save(msgspec.structs.replace(after, failure=None, seeded=order, scrubbed_at=0.0))
        self.retire()
        if state.aside is not None:
            self.save(msgspec.structs.replace(self.state(), aside=None))

    def drop(self) -> None:
        """Delete the current files; from before the first is gone they are known to be gone."""
        (self.root / "mark.json").unlink(missing_ok=True)
        self.save(msgspec.structs.replace(self.state(), incarnation="", folder="", spoilt=False, aside=None))
        self.sweep()

    def sweep(self) -> None:
        """Retire, and delete at once: may take seconds."""
        self.retire()
        self.discard()

    def retire(self) -> None:
        """Rename the folders of former incarnations and of seeds that were not finished; keep what was set aside."""
        state = self.state()
        for path in list(self.root.iterdir()):
            if not path.name.startswith(("inc-", "seed-")) or path.name == state.folder:
                continue
            if state.aside is not None and path.name == state.aside[0]:
                kept = self.root / state.aside[1]
                path.rename(kept / path.name)
                sync_folder(kept)
                sync_folder(self.root)
                continue
            path.rename(self.root / f"old-{path.name}-{secrets.token_hex(2)}")

    def discard(self) -> None:
        """Delete what was retired: may take seconds."""
        with self._deleting:
            for path in self.root.glob("old-*"):
                shutil.rmtree(path, ignore_errors=True)

    def discard_beside(self) -> None:
        """Likewise, in a thread that nobody waits for; what is left when it is killed, the next one deletes."""
        threading.Thread(target=self.discard, name=f"discard {self.root.name}", daemon=True).start()

    def diverged(self) -> list[Path]:
        """What openings with loss left behind here."""
        return sorted(path for path in self.root.glob("diverged-*") if path.suffix != ".part")
