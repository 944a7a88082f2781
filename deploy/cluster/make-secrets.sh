#!/bin/sh
# Makes the secrets of compose.yaml in deploy/cluster/secrets, unless they exist.
set -eu
dir=$(dirname "$0")/secrets
mkdir -p "$dir"
chmod 700 "$dir"
make() { # NAME BYTES
	[ -e "$dir/$1" ] || openssl rand -base64 "$2" | tr -d '\n' >"$dir/$1"
	# A container reads the file as its own user. The directory denies it to others.
	chmod 440 "$dir/$1"
	chgrp 65532 "$dir/$1" 2>/dev/null || echo "as root, run: chgrp 65532 $dir/$1" >&2
}
make cluster-key 32
make mongodb-password 24
make mongodb-root-password 24
make mongodb-keyfile 96
make redis-password 24
