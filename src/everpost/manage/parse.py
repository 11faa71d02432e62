"""The shell's language: Verb-Noun with -Parameters, quotes, lists, switches, and pipes (spec 9.1). Pure.

What is copied from a web page works: curly quotes count as straight ones, en and em dashes as hyphens, non-breaking
spaces as spaces, and a backtick at the end of a line joins it to the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from everpost.errors import Refused

_PLAIN = str.maketrans(
    {
        "\u2013": "-",
        "\u2014": "-",
        "\u2212": "-",
        "\u201c": '"',
        "\u201d": '"',
        "\u2018": "'",
        "\u2019": "'",
        "\u00a0": " ",
    }
)
_CONSTANTS: dict[str, Any] = {"$true": True, "$false": False, "$null": None}


@dataclass(frozen=True)
class Token:
    """A word or a sign (`|`, `,`, `;`). `quoted`: it began with a quote, so it is text whatever it looks like;
    `quote_at`: where in `text` the first quoted piece begins, -1 if there is none."""

    text: str
    quoted: bool = False
    sign: bool = False
    quote_at: int = -1


@dataclass
class Call:
    """One command with its arguments as typed."""

    name: str
    positional: list[Any] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)


def tokens(line: str) -> list[Token]:
    """Cut a line. Raises Refused for a quote that is not closed."""
    line = line.translate(_PLAIN)
    found: list[Token] = []
    at = 0
    while at < len(line):
        ch = line[at]
        if ch in " \t\r\n" or (ch == "`" and not line[at + 1 :].partition("\n")[0].strip()):
            at += 1
        elif ch == "#":
            break
        elif ch in "|,;":
            found.append(Token(ch, sign=True))
            at += 1
        else:
            token, at = _word(line, at)
            found.append(token)
    return found


def _word(line: str, at: int) -> tuple[Token, int]:
    text: list[str] = []
    quoted = line[at] in "\"'"
    quote_at = -1
    while at < len(line) and line[at] not in " \t\r\n|,;":
        if line[at] in "\"'":
            quote = line[at]
            quote_at = len(text) if quote_at < 0 else quote_at
            at += 1
            while True:
                if at >= len(line):
                    raise Refused(f"A quote {quote} is not closed.", remedy="Close it at the end of the value.")
                if line[at] == quote:
                    if line[at + 1 : at + 2] != quote:
                        break
                    at += 1  # a doubled quote stands for itself
                text.append(line[at])
                at += 1
            at += 1
        else:
            text.append(line[at])
            at += 1
    return Token("".join(text), quoted, quote_at=quote_at), at


def _value(token: Token) -> Any:
    if not token.quoted and token.text.lower() in _CONSTANTS:
        return _CONSTANTS[token.text.lower()]
    return token.text


def _is_name(token: Token) -> bool:
    return (
        not token.quoted and not token.sign and len(token.text) > 1 and token.text[0] == "-" and token.text[1].isalpha()
    )


def parse(line: str) -> list[list[Call]]:
    """Statements (`;`), each a pipeline (`|`) of calls. Raises Refused."""
    statements: list[list[Call]] = []
    pipeline: list[Call] = []
    words: list[Token] = []

    def end_call() -> None:
        if not words:
            raise Refused("A command is missing beside the |.")
        pipeline.append(_call(words))
        words.clear()

    for token in tokens(line):
        if token.sign and token.text == "|":
            end_call()
        elif token.sign and token.text == ";":
            if words or pipeline:
                end_call()
                statements.append(list(pipeline))
                pipeline.clear()
        else:
            words.append(token)
    if words or pipeline:
        end_call()
        statements.append(pipeline)
    return statements


def _call(words: list[Token]) -> Call:
    call = Call(words[0].text)
    at = 1
    while at < len(words):
        token = words[at]
        at += 1
        if token.sign:
            raise Refused(f"A value is missing before the {token.text}.")
        if _is_name(token):
            name, colon, rest = token.text[1:].partition(":")
            if name.lower() in (known.lower() for known in call.named):
                raise Refused(f"-{name} was given twice.")
            quoted = token.quote_at == len(name) + 2  # `-Name:'...'`, empty or looking like a constant as it may
            if rest or (colon and quoted):
                value, at = _list(Token(rest, quoted), words, at)
            elif colon or (at < len(words) and not words[at].sign and not _is_name(words[at])):
                if at >= len(words):
                    raise Refused(f"-{name}: is without a value.")
                value, at = _list(words[at], words, at + 1)
            else:
                value = True
            call.named[name] = value
        else:
            value, at = _list(token, words, at)
            call.positional.append(value)
    return call


def _list(first: Token, words: list[Token], at: int) -> tuple[Any, int]:
    values = [_value(first)]
    while at < len(words) and words[at].sign and words[at].text == ",":
        if at + 1 >= len(words) or words[at + 1].sign:
            raise Refused("A value is missing behind the comma.")
        values.append(_value(words[at + 1]))
        at += 2
    return (values if len(values) > 1 else values[0]), at
