#!/bin/sh
# The tests in a browser drive Chromium, check accessibility with axe-core and
# run SMART clients that others wrote: take what is there, else install it
# where this user may. npm brings node. The packages, pinned in
# conformance/browser, are fetched by the tests into the user's cache.
set -eu
need=""
command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || need="chromium"
command -v npm >/dev/null 2>&1 || need="$need npm"
[ -z "$need" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	# shellcheck disable=SC2086
	apt-get update -q && apt-get install -q -y --no-install-recommends $need
	exit 0
fi
echo "needed for the tests in a browser:$need" >&2
exit 1
