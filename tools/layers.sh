#!/bin/sh
# layers.sh - includes point one way.
#
#   lib <- proto, seccomp <- execd, sandboxd
#
# Only proto/ knows libwebsockets. Only execd/api, sandboxd/api and the two mains
# know both HTTP and the nouns: a noun must not reach proto/http.h, not even
# through another header. And the pages of folders name no file that is not there.
set -eu
cd "$(dirname "$0")/.."
bad=0

complain() {
	echo "layers: $*" >&2
	bad=1
}

# Folders that the files of a folder may include from.
allowed() {
	case $1 in
	lib) echo lib ;;
	proto) echo lib proto ;;
	seccomp) echo lib seccomp ;;
	execd | sandboxd) echo lib proto seccomp "$1" ;;
	esac
}

for layer in lib proto seccomp execd sandboxd; do
	for file in $(find $layer -name '*.[ch]' 2>/dev/null); do
		for include in $(sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([^"]*\)".*/\1/p' "$file"); do
			case " $(allowed $layer) " in
			*" ${include%%/*} "*) [ -e "$include" ] || complain "$file includes $include, which is not there" ;;
			*) complain "$file includes $include: $layer may include from $(allowed $layer) only" ;;
			esac
			case $file:$include in
			execd/api/*:* | sandboxd/api/*:* | */main.c:*) ;;
			execd/*:*/api/* | sandboxd/*:*/api/*) complain "$file, a noun, includes $include" ;;
			execd/*:proto/http.h | sandboxd/*:proto/http.h) complain "$file, a noun, includes $include" ;;
			esac
		done
		case $file in
		proto/*.c) ;;
		*) ! grep -q 'include.*libwebsockets' "$file" || complain "$file includes libwebsockets" ;;
		esac
	done
done

# The same through other headers, as the compiler sees it.
for file in $(find execd sandboxd -name '*.[ch]' ! -path '*/api/*' ! -name main.c); do
	! gcc -D_GNU_SOURCE -I. -MM -MG "$file" | grep -q 'proto/http\.h' ||
		complain "$file, a noun, reaches proto/http.h"
done

# Pages that say the way name files that are there.
for page in */README.md execd/isolated/README.md; do
	for name in $(grep -oE '(^|[^*_`a-z/.])[a-z][a-z0-9_/]*\.[chy][a-z]*' "$page" | grep -oE '[a-z][a-z0-9_/]*\.(c|h|py|yaml)$' | sort -u); do
		[ -e "$name" ] || [ -n "$(find "${page%/*}" -path "*/$name")" ] || complain "$page names $name, which is not there"
	done
done
exit $bad
