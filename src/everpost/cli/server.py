"""`everpost server init | token | join`: making the first server, inviting others, joining."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import ssl
import uuid
from pathlib import Path

import aiohttp
import msgspec

from everpost.cli import wiring
from everpost.cli.voters import InitDocument
from everpost.directory import etcdserver, joining
from everpost.directory.etcdserver import EtcdMemberSpec
from everpost.directory.joining import Invitation, JoinAnswer, JoinRequest
from everpost.directory.schema import GenerationDocument, OrganizationDocument
from everpost.errors import EverpostError, Refused, Unavailable
from everpost.model.server import Ports, Role, Server, https
from everpost.net import tls
from everpost.settings import DEFAULT_PATH, ServerSettings, load

_ALL_ROLES = ",".join(str(role) for role in (Role.MAILBOX, Role.CLIENT_ACCESS, Role.HUB_TRANSPORT))


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="the server's name, like EX01")
    parser.add_argument("--address", required=True, help="its address for clients and other servers")
    parser.add_argument(
        "--replication-address", default="", help="its address on a replication network, if there is one"
    )
    parser.add_argument("--roles", default=_ALL_ROLES, help=f"any of {_ALL_ROLES}, or witness")
    parser.add_argument("--site", default="Default-First-Site-Name")
    parser.add_argument("--data-dir", type=Path, default=Path("/var/lib/everpost"))
    parser.add_argument("--run-dir", type=Path, default=Path("/run/everpost"))
    parser.add_argument("--path-root", default="", help="put witness directories below this folder (labs)")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH)
    for field in msgspec.structs.fields(Ports):
        parser.add_argument(f"--{field.name.replace('_', '-')}-port", type=int, default=field.default)


def _server(arguments: argparse.Namespace) -> Server:
    try:
        roles = tuple(Role(word.strip()) for word in arguments.roles.split(",") if word.strip())
    except ValueError as error:
        raise Refused(f"{error}.", remedy=f"Roles are {_ALL_ROLES} and witness.") from None
    ports = Ports(**{field.name: getattr(arguments, f"{field.name}_port") for field in msgspec.structs.fields(Ports)})
    return Server(
        name=arguments.name,
        address=arguments.address,
        replication_address=arguments.replication_address or arguments.address,
        roles=roles,
        ports=ports,
        site=arguments.site,
    )


def _settings_text(arguments: argparse.Namespace, server: Server) -> str:
    lines = [
        f"name = {json.dumps(server.name)}",
        f"address = {json.dumps(server.address)}",
        f"replication_address = {json.dumps(server.replication_address)}",
        f"roles = {json.dumps([str(role) for role in server.roles])}",
        f"data_dir = {json.dumps(str(arguments.data_dir))}",
        f"run_dir = {json.dumps(str(arguments.run_dir))}",
    ]
    if arguments.path_root:
        lines.append(f"path_root = {json.dumps(arguments.path_root)}")
    lines += ["", "[ports]"]
    lines += [f"{field.name} = {getattr(server.ports, field.name)}" for field in msgspec.structs.fields(Ports)]
    return "\n".join(lines) + "\n"


def _must_be_new(arguments: argparse.Namespace) -> None:
    for path in (arguments.config, arguments.data_dir / "tls" / "host.key"):
        if path.exists():
            raise Refused(
                f"{path} exists: this host belongs to an organisation already.",
                remedy="Run `everpost serve`, or name other folders with --data-dir and --config.",
            )


def init(arguments: argparse.Namespace) -> None:
    """The first server: authority, certificate, a directory of one voter, settings."""
    _must_be_new(arguments)
    server = _server(arguments)
    if Role.WITNESS in server.roles:
        raise Refused("The first server cannot be a witness.", remedy="Begin with a mailbox server; join the witness.")
    tls_dir = arguments.data_dir / "tls"
    tls_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = tls.create_authority(arguments.organization)
    authority.save(tls_dir)
    key = tls.new_key()
    certificate = authority.sign(key.public_key(), server.name, [server.address, server.replication_address])
    tls.save_host(tls_dir, key, certificate, authority.pem)
    identity = uuid.uuid4().hex
    settings = ServerSettings(name=server.name, address=server.address, data_dir=arguments.data_dir, ports=server.ports)
    spec = EtcdMemberSpec(
        name=server.name,
        address=server.address,
        client_port=server.ports.etcd_client,
        peer_port=server.ports.etcd_peer,
        data_dir=str(arguments.data_dir / "etcd"),
        tls_dir=str(tls_dir),
        initial_cluster=((server.name, https(server.address, server.ports.etcd_peer)),),
        existing=False,
        token=identity,
    )
    document = InitDocument(
        organization=OrganizationDocument(name=arguments.organization, domain=arguments.domain),
        generation=GenerationDocument(generation=1, identity=identity),
        server=server,
    )
    wiring.init_file(settings).write_bytes(msgspec.json.encode(document))
    etcdserver.save(spec, wiring.etcd_file(settings))
    _write_settings(arguments, server)
    print(f"{server.name} is the first server of {arguments.organization}.")
    print(f"Start it: everpost serve --config {arguments.config}")


def _write_settings(arguments: argparse.Namespace, server: Server) -> None:
    arguments.config.parent.mkdir(parents=True, exist_ok=True)
    arguments.config.write_text(_settings_text(arguments, server), encoding="utf-8")


async def _ask_token(settings: ServerSettings) -> str:
    connector = aiohttp.UnixConnector(path=str(settings.admin_socket))
    try:
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://agent/v1/token") as answer,
        ):
            body = await answer.json()
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable("The agent does not answer.", remedy="Start it with `everpost serve`.") from error
    if answer.status != 200:
        raise Refused(str(body["error"]), remedy=str(body.get("remedy", "")))
    return str(body["token"])


async def _redeem(invitation: Invitation, request: JoinRequest) -> JoinAnswer:
    """Knock at the server in the token; its certificate chain must end in the authority that the token names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    url = https(invitation.address, invitation.port)
    try:
        authority = await _fetch_authority(invitation)
        context.load_verify_locations(cadata=authority)
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
        timeout = aiohttp.ClientTimeout(total=30)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(f"{url}/v1/join", json=msgspec.to_builtins(request), ssl=context) as answer,
        ):
            body = await answer.json()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(
            f"{invitation.address} does not answer on port {invitation.port} ({error}).",
            remedy="See whether `everpost serve` runs there and the port is open.",
        ) from error
    if answer.status != 200:
        raise Refused(str(body["error"]), remedy=str(body.get("remedy", "")))
    return msgspec.convert(body, JoinAnswer)


async def _fetch_authority(invitation: Invitation) -> str:
    """The authority's certificate is public; what makes it ours is the fingerprint in the token."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{https(invitation.address, invitation.port)}/v1/authority", ssl=context) as answer,
    ):
        body = await answer.json()
    pem = str(body.get("authority", ""))
    if not pem or hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest() != invitation.fingerprint:
        raise Refused(
            f"{invitation.address} is not the server that gave this token.", remedy="Make a new token and try again."
        )
    return pem


def join(arguments: argparse.Namespace) -> None:
    """A further host: key and request made here, certificate from the organisation, settings."""
    _must_be_new(arguments)
    invitation = joining.read_token(arguments.token)
    server = _server(arguments)
    key = tls.new_key()
    request = JoinRequest(
        secret=invitation.secret, server=server, signing_request=tls.request(key, server.name).decode()
    )
    answer = asyncio.run(_redeem(invitation, request))
    tls.save_host(arguments.data_dir / "tls", key, answer.certificate.encode(), answer.authority.encode())
    settings = ServerSettings(name=server.name, address=server.address, data_dir=arguments.data_dir)
    wiring.voters_file(settings).write_text(json.dumps(list(answer.endpoints)))
    _write_settings(arguments, server)
    print(f"{server.name} has joined {answer.organization}. Start it: everpost serve --config {arguments.config}")


def main(argv: list[str]) -> int:
    """The command line of `everpost server`."""
    parser = argparse.ArgumentParser(prog="everpost server", description="Make, invite and join servers.")
    actions = parser.add_subparsers(dest="action", required=True)
    first = actions.add_parser("init", help="make the first server of an organisation")
    _common(first)
    first.add_argument("--organization", required=True, help="its name, like Contoso")
    first.add_argument("--domain", default="", help="its mail domain, like contoso.com")
    token = actions.add_parser("token", help="print a one-time token for a host that shall join")
    token.add_argument("--config", type=Path, default=DEFAULT_PATH)
    further = actions.add_parser("join", help="join an organisation with a token")
    _common(further)
    further.add_argument("--token", required=True)
    arguments = parser.parse_args(argv)
    try:
        if arguments.action == "init":
            init(arguments)
        elif arguments.action == "token":
            print(asyncio.run(_ask_token(load(arguments.config))))
        else:
            join(arguments)
    except EverpostError as error:
        parser.exit(1, f"{error}\n")
    return 0
