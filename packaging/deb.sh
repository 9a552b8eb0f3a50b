#!/bin/sh
# Packs what was built: deb.sh PROFILE DIRECTORY makes DIRECTORY/p2pd.deb of the programs of profile dev or release.
set -eu
cd "$(dirname "$0")/.."
profile="$1"
out="$2"
target="${CARGO_TARGET_DIR:-target}"
if [ "$profile" = dev ]; then bin="$target/debug"; else bin="$target/$profile"; fi

command -v cargo-deb >/dev/null || cargo install --locked --quiet cargo-deb --version 3.8.0
rm -rf "$bin/package"
mkdir -p "$bin/package/man" "$out"
"$bin/p2pd" manual "$bin/package/man"
"$bin/p2pctl" manual "$bin/package/man"
gzip -9n "$bin"/package/man/*
for shell in bash zsh fish; do
    "$bin/p2pctl" completion "$shell" >"$bin/package/p2pctl.$shell"
done
# The package for tests is compressed fast, not small.
if [ "$profile" = dev ]; then more=--fast; else more=--dbgsym; fi
cargo deb --quiet --locked --no-build -p p2pd --profile "$profile" "$more" --output "$out/p2pd.deb"
