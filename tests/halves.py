"""Every test, on two cores: organisations in namespaces, which mostly wait, beside everything else; the demonstration,
which keeps limits in seconds, alone at the end.

Without root, or with arguments for pytest, it is one plain run. The result of the second half is shown when it is
complete. Exit status: 0 if every part passed, else 1 (pytest's own for a plain run).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

PYTEST = [sys.executable, "-m", "pytest"]


def main() -> int:
    if os.geteuid() != 0 or sys.argv[1:]:
        os.execv(sys.executable, [*PYTEST, *sys.argv[1:]])
    with tempfile.TemporaryFile() as output:
        rest = subprocess.Popen([*PYTEST, "--part=rest", "-p", "no:cacheprovider"], stdout=output, stderr=output)
        try:
            failed = [subprocess.call([*PYTEST, "--part=labs"])]
            print("The other half, which ran at the same time:", flush=True)
            failed.append(rest.wait())
        except KeyboardInterrupt:
            # Ctrl-C reached all of them; each ends what it started.
            rest.wait()
            return 130
        finally:
            output.seek(0)
            sys.stdout.buffer.write(output.read())
            sys.stdout.flush()
    failed.append(subprocess.call([*PYTEST, "--part=alone"]))
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main())
