#!/bin/sh
# make validate runs the HL7 validator, which is written in Java: take the Maven and
# the JDK that are there, else install them where this user may.
set -eu
need=""
command -v mvn >/dev/null 2>&1 || need="maven"
command -v javac >/dev/null 2>&1 || need="$need default-jdk-headless"
[ -z "$need" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	# shellcheck disable=SC2086
	apt-get update -q && apt-get install -q -y --no-install-recommends $need
	exit 0
fi
echo "needed for the HL7 validator:$need" >&2
exit 1
