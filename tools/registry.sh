#!/bin/sh
# registry.sh - brings Debian's docker-registry for the tests, into build/deps/registry.
#
# It is unpacked and not installed: its package would start a service. Where it
# cannot be had this says why and succeeds; the tests that want it are skipped.
set -eu
cd "$(dirname "$0")/.."
deps=$PWD/build/deps
work=$deps/registry.work
mkdir -p "$deps"
exec 9>"$deps/lock"
flock 9 # two builds in one tree take turns
rm -rf "$work"
mkdir -p "$work"

fetch() {
	cd "$work"
	apt-get -q download docker-registry || { apt-get -q -o Acquire::Retries=3 update && apt-get -q download docker-registry; }
}

if (fetch) >"$deps/registry.log" 2>&1 && dpkg-deb -x "$work"/docker-registry_*.deb "$work/root"; then
	rm -rf "$deps/registry"
	mv "$work/root" "$deps/registry"
	touch "$deps/registry.stamp"
else
	echo "deps: docker-registry cannot be had: $(tail -n 1 "$deps/registry.log")"
fi
rm -rf "$work"
