"""`python -m lbprov.lab.controlplane [MODULE]`: a control plane to play with, until Ctrl-C.

MODULE is the Go module that pins the programs; in a checkout that is tests/cluster/controlplane.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from lbprov.lab.controlplane import ControlPlane
from lbprov.model import UserError


def main() -> int:
    module = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/cluster/controlplane")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ControlPlane.open(module, _say) as plane:
            _say(f"ready: export KUBECONFIG={plane.admin_kubeconfig}")
            signal.pause()
    except UserError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
