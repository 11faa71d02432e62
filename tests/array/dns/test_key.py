"""TSIG key files, as the two servers' programs write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from everpost.array.dns.key import parse, read
from everpost.errors import Refused

BIND = 'key "everpost" {\n\talgorithm hmac-sha256;\n\tsecret "c2VjcmV0";\n};\n'
KNOT = "# hmac-sha256:everpost:c2VjcmV0\nkey:\n- id: everpost\n  algorithm: hmac-sha256\n  secret: c2VjcmV0\n"


@pytest.mark.parametrize("text", [BIND, KNOT, BIND.replace("hmac-sha256", "HMAC-SHA256"), BIND.replace('"', "")])
def test_both_ways_to_write_it(text: str) -> None:
    key = parse(text, "f")
    assert (key.name, key.algorithm, key.secret) == ("everpost", "hmac-sha256", b"secret")
    assert str(key) == "everpost (hmac-sha256)" and "secret" not in repr(key).replace("hmac", "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "exactly one"),
        (BIND + BIND, "exactly one"),
        (BIND.replace("hmac-sha256", "hmac-md5"), "algorithm hmac-md5"),
        (BIND.replace("c2VjcmV0", "c2VjcmV"), "not base64"),
    ],
)
def test_what_is_no_key(text: str, why: str) -> None:
    with pytest.raises(Refused, match=why) as error:
        parse(text, "f")
    assert "c2VjcmV" not in str(error.value)


def test_a_file_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dns.key"
    with pytest.raises(Refused, match="no TSIG key") as error:
        read(path)
    assert "tsig-keygen" in error.value.remedy
    path.write_text(BIND)
    path.chmod(0o644)
    with pytest.raises(Refused, match="readable by everybody"):
        read(path)
    path.chmod(0o600)
    assert read(path).name == "everpost"
