"""What may be said of a client access array: each setting is checked, each refusal says what to type instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from everpost.array import gateway
from everpost.array.dns.records import zone_of
from everpost.array.link import Address
from everpost.array.membership import members
from everpost.directory.arraynames import server_fqdn
from everpost.errors import AlreadyExists, Refused
from everpost.manage.cmdlets.change import in_words, look_up, one_of
from everpost.manage.context import CommandContext
from everpost.manage.timespan import seconds as span_seconds
from everpost.model.array import Affinity, ClientAccessArray
from everpost.model.dns import DnsMode

_FQDN = re.compile(
    r"(?=.{1,255}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+"
)
_MAIL_ADDRESS = re.compile(r"[^@\s<>,]+@[^@\s<>,]+")


def free_fqdn(context: CommandContext, text: str, *, of: ClientAccessArray | None = None) -> str:
    """A full host name in small letters that is no server's and no other array's than `of`. Raises Refused and
    AlreadyExists: clients of one array, and its DNS records, would be the other's."""
    if not _FQDN.fullmatch(text):
        raise Refused(f"{text!r} is not a full host name.", remedy="Name one such as casarray.contoso.com.")
    full = text.lower()
    for other in context.organization.arrays.values():
        if (of is None or other.key != of.key) and full in (other.fqdn, *other.aliases):
            raise AlreadyExists(
                f"{full} is a name of the array {other.name}.", remedy="Choose another one; an array keeps its aliases."
            )
    for server in context.organization.servers.values():
        if full == server_fqdn(context.organization, server.name):
            raise Refused(
                f"{full} is the name of the server {server.name}.",
                remedy="Choose one of the array's own, such as casarray.contoso.com.",
            )
    return full


def settings(context: CommandContext, before: ClientAccessArray, given: Mapping[str, Any]) -> ClientAccessArray:
    """`before` with what was given and is not None. Raises Refused; warns of what is allowed and hardly meant."""
    changes = {name: value for name, value in given.items() if value is not None}
    for name, parameter in (("ip", "-IP"), ("gateway", "-Gateway")):
        if changes.get(name):
            changes[name] = str(_address(parameter, str(changes[name])))
    for name in ("hostname", "drained"):
        if name in changes:
            wanted = tuple(str(one) for one in changes[name] if one)
            changes[name] = tuple(dict.fromkeys(member(context, before, one) for one in wanted))
    if "weights" in changes:
        changes["weights"] = dict(_weight(context, before, str(one)) for one in changes["weights"] if one)
    if "limit" in changes and not 1 <= int(changes["limit"]) <= 1000:
        raise Refused(f"-Limit is a number of probes, not {changes['limit']}.", remedy="Type 1 to 1000, such as 10.")
    if "probe_interval" in changes:
        changes["probe_interval"] = _seconds("ProbeInterval", str(changes["probe_interval"]), 0.05, 10.0, "0.15")
    if "failback" in changes:
        changes["failback"] = _seconds("AutoFailbackDelay", str(changes["failback"]), 0.0, 86400.0, "300")
    for name, parameter in (("mail_to", "-MailTo"), ("mail_from", "-MailFrom")):
        typed = str(changes.get(name, ""))
        if typed and not all(_MAIL_ADDRESS.fullmatch(one.strip()) for one in typed.split(",")):
            raise Refused(f"{parameter} {typed!r} is no mail address.", remedy="Type it like admin@contoso.com.")
    if "dns_mode" in changes:
        changes["dns_mode"] = one_of("-DnsMode", DnsMode, str(changes["dns_mode"]))
    if "affinity" in changes:
        changes["affinity"] = one_of("-Affinity", Affinity, str(changes["affinity"]))
    after = msgspec.structs.replace(before, **changes)
    if {"ip", "gateway"} & changes.keys():
        _must_fit(context, after)
    _warn(context, before, after)
    return after


def _address(parameter: str, text: str) -> Address:
    found = gateway.parse(text)
    if found is None:
        raise Refused(f"{parameter} {text} is not an address.", remedy="Name one such as 10.77.0.50, without a mask.")
    if found.is_unspecified or found.is_loopback or found.is_multicast or found.is_reserved or found.is_link_local:
        raise Refused(
            f"{parameter} {text} is no address that clients could reach.",
            remedy="Name a free one of the servers' own network, such as 10.77.0.50.",
        )
    return found


def _must_fit(context: CommandContext, array: ClientAccessArray) -> None:
    """The address is free, and its gateway is another one of the same family."""
    address, beyond = gateway.parse(array.ip), gateway.parse(array.gateway)
    for server in context.organization.servers.values():
        if address is not None and address in (
            gateway.parse(server.address),
            gateway.parse(server.replication_address),
        ):
            raise Refused(f"{array.ip} is the address of the server {server.name}.", remedy="Name one that nobody has.")
    for other in context.organization.arrays.values():
        if address is not None and other.key != array.key and gateway.parse(other.ip) == address:
            raise Refused(f"{array.ip} is the address of {other.name}.", remedy="Name one that nobody has.")
    if address is not None and beyond is not None:
        if address == beyond:
            raise Refused(f"{array.ip} is the gateway.", remedy="Name another -IP, which nobody has.")
        if address.version != beyond.version:
            raise Refused(
                f"-Gateway {array.gateway} is IPv{beyond.version} and -IP {array.ip} IPv{address.version}.",
                remedy=f"Name the IPv{address.version} address of the gateway.",
            )


def _warn(context: CommandContext, before: ClientAccessArray, after: ClientAccessArray) -> None:
    round_robin = after.dns_mode is DnsMode.ROUND_ROBIN
    zones = context.organization.dns_zones.values()
    if round_robin and before.dns_mode is not after.dns_mode and zone_of(after.fqdn, zones) is None:
        context.warning(f"Nothing keeps {after.fqdn} in DNS yet: Set-DnsUpdate names the zone and its server.")
    names = [one.name for one in members(context.organization, after)]
    if after.drained != before.drained and names and set(names) <= set(after.drained):
        context.warning(
            f"Every server of {after.name} is drained, so that nobody serves new connections:"
            f" Set-ClientAccessArray {after.name} -Drained $null ends that."
        )
    if before.ip and not after.ip and not round_robin:
        context.warning(f"{after.name} has no address any more: Set-ClientAccessArray {after.name} -IP gives it one.")


def _seconds(name: str, text: str, least: float, most: float, example: str) -> float:
    """Seconds, or a time span of the shell."""
    try:
        value = float(text) if ":" not in text else span_seconds(text, name)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise Refused(
            f"-{name} is {least:g} to {most:g} seconds, not {text!r}.", remedy=f"Type a number such as {example}."
        )
    return value


def member(context: CommandContext, array: ClientAccessArray, name: str) -> str:
    """A client access server of the array's site. Raises Refused and NotFound."""
    server = look_up(context.organization.servers, name, "server", "Get-ExchangeServer")
    names = [one.name for one in members(context.organization, array)]
    if server.name not in names:
        raise Refused(
            f"{server.name} is not a client access server of the site {array.site}.",
            remedy=f"Name {in_words(sorted(names))}."
            if names
            else "That site has none: Get-ExchangeServer lists them.",
        )
    return server.name


def _weight(context: CommandContext, array: ClientAccessArray, text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isdigit() or not 1 <= int(number) <= 100:
        raise Refused(f"{text} is not a weight.", remedy="Name a server and a number from 1 to 100, such as EX01=50.")
    return member(context, array, name), int(number)
