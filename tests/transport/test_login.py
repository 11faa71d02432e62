"""STARTTLS and AUTH: nothing said in plain text counts under TLS, and no password travels in plain text."""

from __future__ import annotations

import asyncio
import base64
import smtplib
import ssl

import pytest

from everpost.net.conn import Connection

from .world import GREET, PASSWORD, Client, World, codes, talk


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


RIGHT = b64(f"\0anna@contoso.com\0{PASSWORD}")
TLS_ALERT = 21
WRONG = b64("\0anna@contoso.com\0wrong")


async def test_submission_needs_encryption_and_a_password(world: World) -> None:
    port = await world.listen(submission=True)
    assert codes(await talk(port, b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nQUIT\r\n")) == [220, 250, 530, 221]

    def send(password: str) -> None:
        with smtplib.SMTP("localhost", port, timeout=5) as client:
            client.starttls(context=world.trust())
            client.login("anna@contoso.com", password)
            client.sendmail("anna@contoso.com", ["anna@contoso.com"], b"Subject: x\r\n\r\ny\r\n")

    with pytest.raises(smtplib.SMTPAuthenticationError):
        await asyncio.to_thread(send, "wrong password")
    assert world.store.delivered == []
    await asyncio.to_thread(send, "right password")
    assert len(world.store.delivered) == 1
    assert b"with ESMTPSA" in world.store.delivered[0].raw


async def test_commands_behind_starttls_in_one_packet_end_the_conversation(world: World) -> None:
    port = await world.listen()
    answer = await talk(port, b"EHLO x\r\nSTARTTLS\r\nMAIL FROM:<evil@b.c>\r\n")
    assert codes(answer) == [220, 250, 521]


async def test_plain_text_between_starttls_and_the_handshake_is_never_obeyed(world: World) -> None:
    port = await world.listen()
    client = await Client.connect(port)
    assert await client.say(GREET + b"STARTTLS\r\n", 2) == [250, 220]
    client.send(b"MAIL FROM:<evil@b.c>\r\nNOOP\r\n")
    answer = await client.rest()
    assert answer == b"" or answer[0] == TLS_ALERT
    client.close()


async def test_what_was_said_before_tls_is_forgotten(world: World) -> None:
    port = await world.listen(submission=True)
    client = await Client.connect(port)
    assert await client.say(GREET + b"AUTH PLAIN " + RIGHT + b"\r\n", 2) == [250, 235]
    await client.start_tls(world.trust())
    assert await client.say(b"MAIL FROM:<a@b.c>\r\n") == [503]
    client.send(GREET)
    offered = await client.lines()
    assert "250-AUTH PLAIN LOGIN" in offered
    assert not any("STARTTLS" in line for line in offered)
    assert await client.say(b"MAIL FROM:<a@b.c>\r\n") == [530]
    assert await client.say(b"STARTTLS\r\n") == [503]
    client.close()


async def test_a_client_that_does_not_trust_us_costs_nobody_anything(world: World) -> None:
    port = await world.listen()
    client = await Client.connect(port)
    await client.say(GREET)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await client.start_tls(ssl.create_default_context())
    assert codes(await talk(port, GREET + b"QUIT\r\n")) == [220, 250, 221]


async def test_in_plain_text_over_a_network_nobody_logs_in(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "local", False)
    port = await world.listen(submission=True)
    client = await Client.connect(port)
    client.send(GREET)
    offered = await client.lines()
    assert "250-STARTTLS" in offered
    assert not any("AUTH" in line for line in offered)
    assert await client.say(b"AUTH PLAIN " + RIGHT + b"\r\n") == [538]
    await client.start_tls(world.trust())
    assert await client.say(GREET + b"AUTH PLAIN " + RIGHT + b"\r\n", 2) == [250, 235]
    client.close()


async def test_the_port_for_other_servers_takes_no_passwords(world: World) -> None:
    port = await world.listen()
    assert codes(await talk(port, GREET + b"AUTH PLAIN " + RIGHT + b"\r\nQUIT\r\n")) == [220, 250, 503, 221]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"AUTH PLAIN " + RIGHT, [235]),
        (b"auth plain\r\n" + RIGHT, [334, 235]),
        (b"AUTH PLAIN " + b64(f"\0anna\0{PASSWORD}"), [235]),
        (b"AUTH PLAIN " + b64(f"anna@contoso.com\0anna@contoso.com\0{PASSWORD}"), [235]),
        (b"AUTH PLAIN " + b64(f"ben\0anna@contoso.com\0{PASSWORD}"), [535]),
        (b"AUTH PLAIN " + WRONG, [535]),
        (b"AUTH PLAIN " + b64(f"\0nobody@contoso.com\0{PASSWORD}"), [535]),
        (b"AUTH PLAIN " + b64(f"\0gone@contoso.com\0{PASSWORD}"), [535]),
        (b"AUTH PLAIN =", [501]),
        (b"AUTH PLAIN " + b64("anna"), [501]),
        (b"AUTH PLAIN !!!", [501]),
        (b"AUTH PLAIN /w==", [501]),
        (b"AUTH PLAIN\r\n*", [334, 501]),
        (b"AUTH LOGIN\r\n" + b64("anna@contoso.com") + b"\r\n" + b64(PASSWORD), [334, 334, 235]),
        (b"AUTH LOGIN " + b64("anna@contoso.com") + b"\r\n" + b64(PASSWORD), [334, 235]),
        (b"AUTH LOGIN\r\n*", [334, 501]),
        (b"AUTH LOGIN\r\n" + b64("anna@contoso.com") + b"\r\n*", [334, 334, 501]),
        (b"AUTH LOGIN\r\n" + b64("anna@contoso.com") + b"\r\n" + b64("wrong"), [334, 334, 535]),
        (b"AUTH CRAM-MD5", [504]),
        (b"AUTH", [504]),
    ],
)
async def test_auth(world: World, said: bytes, expected: list[int]) -> None:
    port = await world.listen(submission=True)
    after = [250] if expected[-1] == 235 else [530]
    answer = await talk(port, GREET + said + b"\r\nMAIL FROM:<a@b.c>\r\nQUIT\r\n")
    assert codes(answer) == [220, 250, *expected, *after, 221]


async def test_challenges_are_those_that_clients_know(world: World) -> None:
    port = await world.listen(submission=True)
    client = await Client.connect(port)
    await client.say(GREET)
    client.send(b"AUTH LOGIN\r\n")
    assert await client.lines() == ["334 VXNlcm5hbWU6"]
    client.send(b64("anna@contoso.com") + b"\r\n")
    assert await client.lines() == ["334 UGFzc3dvcmQ6"]
    assert await client.say(b"*\r\n") == [501]
    client.send(b"AUTH PLAIN\r\n")
    assert await client.lines() == ["334 "]
    assert await client.say(RIGHT + b"\r\n") == [235]
    assert await client.say(b"AUTH PLAIN " + RIGHT + b"\r\n") == [503]
    client.close()


async def test_wrong_passwords_are_counted(world: World) -> None:
    port = await world.listen(submission=True)
    answer = await talk(port, GREET + (b"AUTH PLAIN " + WRONG + b"\r\n") * 6)
    assert codes(answer) == [220, 250, 535, 535, 535, 535, 421]


async def test_a_response_too_long_ends_the_conversation(world: World) -> None:
    port = await world.listen(submission=True)
    answer = await talk(port, GREET + b"AUTH PLAIN\r\n" + b"A" * 20_000 + b"\r\n")
    assert codes(answer) == [220, 250, 334, 521]


async def test_a_client_that_leaves_in_the_middle_of_auth(world: World) -> None:
    port = await world.listen(submission=True)
    client = await Client.connect(port)
    assert await client.say(GREET + b"AUTH PLAIN\r\n", 2) == [250, 334]
    client.close()
    async with asyncio.timeout(5):
        while world.receiver._conversations:
            await asyncio.sleep(0.01)


async def test_mail_to_others_is_not_relayed(world: World) -> None:
    port = await world.listen(submission=True)
    sent = b"AUTH PLAIN " + RIGHT + b"\r\nMAIL FROM:<anna@contoso.com>\r\nRCPT TO:<x@elsewhere.org>\r\nQUIT\r\n"
    answer = await talk(port, GREET + sent)
    assert codes(answer) == [220, 250, 235, 250, 550, 221]
    assert b"550 5.7.1 " in answer
