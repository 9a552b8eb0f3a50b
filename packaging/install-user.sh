#!/bin/sh
# Puts both programs, completions, manual and the user's unit where a user's own belong: install-user.sh BIN
set -eu
cd "$(dirname "$0")/.."
bin="$1"
programs="$HOME/.local/bin"
share="${XDG_DATA_HOME:-$HOME/.local/share}"
units="${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user"
mkdir -p "$programs" "$share/man/man1" "$share/bash-completion/completions" "$units"
# Copied under another name, then renamed: the file of a running program cannot be overwritten.
for program in p2pd p2pctl; do
    cp "$bin/$program" "$programs/.$program.new"
    mv "$programs/.$program.new" "$programs/$program"
    "$programs/$program" manual "$share/man/man1"
done
"$programs/p2pctl" completion bash >"$share/bash-completion/completions/p2pctl"
sed -e "s|/usr/bin/p2pd|$programs/p2pd|" -e '/^Documentation=/d' systemd/user/p2pd.service >"$units/p2pd.service"
systemctl --user daemon-reload 2>/dev/null || true
systemctl --user try-restart p2pd.service 2>/dev/null || true
echo "installed in $programs"
case ":$PATH:" in
    *":$programs:"*) ;;
    *) echo "which is not in PATH: add it, as in  export PATH=\"$programs:\$PATH\"" ;;
esac
echo "start it with: systemctl --user enable --now p2pd   (or just: p2pd run)"
