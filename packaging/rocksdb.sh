#!/bin/sh
# Builds RocksDB's static library from the sources of the crate librocksdb-sys, and prints the directory it is in.
# Usage: rocksdb.sh OPTIMISATION, such as -O1
#
# The crate compiles 342 files one by one; nearly all of that time goes into headers that each of them reads again. Here
# the same files are included into eight, which takes an eighth of the time. The library is kept by version and flags.
set -eu
cd "$(dirname "$0")/.."

# The directory of a crate's sources: crate NAME
crate() {
    cargo metadata --locked --format-version 1 --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" |
        tr ',' '\n' | sed -n 's|.*"manifest_path":"\(.*/'"$1"'-[0-9][^/]*\)/Cargo.toml".*|\1|p' | head -1
}

sources=$(crate librocksdb-sys)
lz4=$(crate lz4-sys)
[ -n "$sources" ] && [ -n "$lz4" ] || { echo "cannot find the sources of librocksdb-sys and lz4-sys" >&2; exit 1; }
cxx="${CXX:-c++}"

# What the crate's own build script defines on Linux. x86-64-v2 has the instruction for checksums.
flags="$1 -fPIC -std=c++20 -include cstdint -w -ffunction-sections -fdata-sections
    -DNDEBUG -DLZ4=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION
    -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT
    -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT"
case "$(uname -m)" in
    x86_64) flags="$flags -march=x86-64-v2" ;;
    aarch64) flags="$flags -march=armv8-a+crc+aes+crypto" ;;
esac

key=$({ basename "$sources"; "$cxx" --version; echo "$flags"; cat "$0"; } | sha256sum | cut -c1-16)
out="${XDG_CACHE_HOME:-$HOME/.cache}/p2pd/rocksdb/$key"
if [ ! -f "$out/librocksdb.a" ]; then
    echo "building RocksDB once for this machine: about 5 minutes on 2 cores" >&2
    work="$out.$$"
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work"
    grep -v '^util/build_version.cc$' "$sources/rocksdb_lib_sources.txt" >"$work/sources"
    split -n l/8 "$work/sources" "$work/part."
    for part in "$work"/part.??; do
        sed 's|.*|#include "&"|' "$part" >"$part.cc"
    done
    cp "$sources/build_version.cc" "$work/version.cc"
    # A compiler takes 1.4 GiB.
    jobs=$(awk -v cores="$(nproc)" '/MemAvailable/ { n = int($2 / 1500000); print n < 1 ? 1 : n < cores ? n : cores }' /proc/meminfo)
    # shellcheck disable=SC2086 # the flags are words
    find "$work" -name '*.cc' -print0 | sort -z | xargs -0 -P "$jobs" -I FILE "$cxx" $flags \
        -I "$sources/rocksdb/include" -I "$sources/rocksdb" -I "$sources" -I "$lz4/liblz4/lib" -c FILE -o FILE.o
    ar crs "$work/librocksdb.a" "$work"/*.o
    rm -f "$work"/*.o "$work"/*.cc "$work"/part.?? "$work/sources"
    mv "$work" "$out" 2>/dev/null || [ -f "$out/librocksdb.a" ]
fi
echo "$out"
