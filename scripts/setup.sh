#!/bin/sh
# All the set-up there is: the programs of system-packages.txt, then .venv from the locked requirements.
# Does nothing when nothing has changed. `setup.sh tests`: what only the tests need, too. PYTHON names another
# interpreter than python3.
set -eu
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/sbin:/sbin" # where Debian keeps ip and iptables, and where users do not look
PYTHON="${PYTHON:-python3}"

missing=$(grep -v '^#' scripts/system-packages.txt | while read -r program package use; do
    [ -z "$use" ] || [ "$use" = "${1:-}" ] || continue
    command -v "$program" >/dev/null 2>&1 || echo "$package"
done)
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
missing=$(echo "$missing" | tr ' ' '\n' | sort -u | tr '\n' ' ' | sed 's/^ *//; s/ *$//')
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "setup: installing $missing"
        apt-get update -qq
        # shellcheck disable=SC2086 # a list of package names
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    else
        echo "setup: missing system packages. As root: apt-get install $missing" >&2
        exit 1
    fi
fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: $PYTHON is $("$PYTHON" --version 2>&1); lbprov needs Python 3.11 or newer (make PYTHON=…)" >&2
    exit 1
}

stamp=.venv/.set-up
wanted=$(cat requirements.txt pyproject.toml scripts/setup.sh | cksum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted $(pwd)" ] && exit 0

echo "setup: .venv from requirements.txt (hashes checked)"
rm -f "$stamp"
[ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
echo "$wanted $(pwd)" >"$stamp"
