"""One HTTP request with the standard library, from inside a host of the lab: python ask.py URL [JSON]

Prints the body; the status is 1 and nothing is printed when there is no good answer.
"""

import sys
import urllib.error
import urllib.request

LIMIT = 30.0


def main() -> int:
    url, *body = sys.argv[1:]
    data = body[0].encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            sys.stdout.write(answer.read().decode())
    except urllib.error.HTTPError as error:
        sys.stderr.write(f"{error}: {error.read().decode(errors='replace')}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
