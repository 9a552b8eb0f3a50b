#!/bin/sh
# Makes the machine that the tests boot, Debian 12 with systemd, once: install.sh DIRECTORY. What cannot be had is printed
# as SKIP.
set -u
root="$1/root"
[ ! -e "$root/.finished" ] || exit 0
skip() {
    echo "SKIP the machine with systemd: $1"
    exit 0
}
[ "$(id -u)" = 0 ] || skip "to boot one takes root"
command -v debootstrap >/dev/null && command -v systemd-nspawn >/dev/null ||
    skip "debootstrap or systemd-nspawn is not installed"
echo "making the machine that the tests boot"
rm -rf "$root"
mkdir -p "$1"
debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,libstdc++6 bookworm "$root" >"$1/log" 2>&1 ||
    skip "$(tail -n 1 "$1/log")"
rm -rf "$root"/var/cache/apt/archives/*.deb
touch "$root/.finished"
