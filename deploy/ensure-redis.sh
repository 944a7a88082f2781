#!/bin/sh
# The tests of several servers start Redis servers of their own: take the
# redis-server that is there, else install it where this user may.
set -eu
command -v redis-server >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	apt-get update -q && apt-get install -q -y --no-install-recommends redis-server
	exit 0
fi
echo "redis-server is needed for the tests of several servers" >&2
exit 1
