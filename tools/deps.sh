#!/bin/sh
# deps.sh build|test - brings what the build, or the tests and linters, need.
#
# Debian packages come from apt when this is root; otherwise the missing ones
# are named. libwebsockets is built from its Debian source package: Debian 12's
# own is too old and pulls in OpenSSL. Its two files are fetched by apt's own
# downloader from the machine's first Debian archive, whatever mirror, proxy or
# credentials that has, and are pinned by checksum. Everything is kept in
# build/deps: a second run finds it there and says nothing.
set -eu
export GIT_CEILING_DIRECTORIES="$(cd "$(dirname "$0")/.." && pwd)/build" # its cmake would record our commit
cd "$(dirname "$0")/.."
deps=$PWD/build/deps

# package, or package:command where a command of that name will do, whoever installed it
build_packages='gcc make cmake:cmake pkg-config libc6-dev libjansson-dev libsqlite3-dev libseccomp-dev
	libcap-dev libbsd-dev zlib1g-dev patch:patch xz-utils:xz binutils crun:crun'
test_packages='libcmocka-dev clang-format:clang-format clang-tidy:clang-tidy cppcheck:cppcheck
	nginx-light:nginx wrk:wrk python3 python3-venv iproute2:ip curl:curl'

lws_version=4.3.5
lws_orig=libwebsockets_4.3.5.orig.tar.gz
lws_orig_sha256=87f99ad32803ed325fceac5327aae1f5c1b417d54ee61ad36cffc8df5f5ab276
lws_debian=libwebsockets_4.3.5-1+deb13u2.debian.tar.xz
lws_debian_sha256=059db96dc878057a629843e754fa56b2091186049c2bd36ba79db7fec62b8aea

die() {
	echo "deps: $*" >&2
	exit 1
}

# Prints those of the packages in $* that are not here.
missing() {
	wanted=
	for entry; do
		case $entry in
		*:*) command -v "${entry#*:}" >/dev/null || wanted="$wanted ${entry%:*}" ;;
		*) wanted="$wanted $entry" ;;
		esac
	done
	[ -n "$wanted" ] || return 0
	# shellcheck disable=SC2086 # a list of names
	here=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $wanted 2>/dev/null || true)
	for package in $wanted; do
		case "
$here
" in
		*"
installed $package
"*) ;;
		*) echo "$package" ;;
		esac
	done
}

install_packages() {
	# shellcheck disable=SC2046,SC2086 # lists of names
	set -- $(missing $*)
	[ $# -gt 0 ] || return 0
	command -v apt-get >/dev/null || die "this is not Debian; install the like of: $*"
	[ "$(id -u)" = 0 ] || die "not root; run: apt-get install $*"
	echo "deps: apt-get install $*"
	export DEBIAN_FRONTEND=noninteractive
	log=$deps/apt.log
	apt="apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3"
	{ $apt update && $apt install -y --no-install-recommends "$@"; } >"$log" 2>&1 || {
		tail -n 20 "$log" >&2
		die "apt-get could not install: $*"
	}
}

# The first URI of a Debian archive (not of its security part) in apt's sources, one-line or deb822 form.
archive_uri() {
	apt-get indextargets --format '$(SITE) $(REPO_URI) $(ORIGIN) $(LABEL)' 2>/dev/null |
		awk '$3 == "Debian" && $4 == "Debian" { sub("/$", "", $2); print $2; exit }' |
		grep . && return
	cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
		sed -n -e 's/^deb\(-src\)\?[[:space:]]\+\(\[[^]]*\][[:space:]]*\)\?\([^[:space:]]*\).*/\3/p' \
			-e 's/^URIs:[[:space:]]*\([^[:space:]]*\).*/\1/p' |
		sed 's,/$,,' | grep -v security | head -n 1 | grep .
}

# fetch <file> <sha256>: build/deps/<file>, which may have been put there by hand
fetch() {
	if [ ! -e "$deps/$1" ]; then
		uri=$(archive_uri) || die "no Debian archive in apt's sources (/etc/apt/sources.list*)"
		/usr/lib/apt/apt-helper -o APT::Sandbox::User=root -o Acquire::Retries=3 download-file \
			"$uri/pool/main/libw/libwebsockets/$1" "$deps/$1" "SHA256:$2" >"$deps/fetch.log" 2>&1 || {
			rm -f "$deps/$1"
			cat "$deps/fetch.log" >&2
			die "this machine's Debian archive does not give $1; put a copy with sha256 $2 into build/deps/"
		}
	fi
	echo "$2  $deps/$1" | sha256sum --check --status || die "build/deps/$1 is not the pinned file (sha256 $2)"
}

# libwebsockets <name> <build type> [C flags]: build/deps/<name>/{include,lib/libwebsockets.a}
libwebsockets() {
	done=$deps/$1/.$(cat tools/deps.sh tools/libwebsockets.patch | sha256sum | cut -c 1-16)
	[ ! -e "$done" ] || return 0
	echo "deps: building libwebsockets $lws_version ($1)"
	fetch $lws_orig $lws_orig_sha256
	fetch $lws_debian $lws_debian_sha256
	work=$deps/$1.work
	rm -rf "$work"
	mkdir -p "$work"
	tar -xzf "$deps/$lws_orig" -C "$work"
	source=$work/libwebsockets-$lws_version
	tar -xJf "$deps/$lws_debian" -C "$source"
	sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$source/debian/patches/series" | while read -r name _; do
		patch -s -d "$source" -p1 <"$source/debian/patches/$name" || exit
	done || die "a Debian patch of libwebsockets does not apply"
	patch -s -d "$source" -p1 <tools/libwebsockets.patch || die "tools/libwebsockets.patch does not apply"
	{
		cmake -S "$source" -B "$work/b" -DCMAKE_INSTALL_PREFIX="$work/installed" -DCMAKE_INSTALL_LIBDIR=lib \
			-DCMAKE_BUILD_TYPE="$2" -DCMAKE_C_FLAGS="${3:-} -ffunction-sections -fdata-sections" \
			-DLWS_WITH_SSL=OFF -DLWS_WITH_HTTP2=OFF -DLWS_WITHOUT_EXTENSIONS=ON \
			-DLWS_WITHOUT_TESTAPPS=ON -DLWS_WITH_SHARED=OFF -DLWS_WITH_LIBCAP=OFF \
			-DLWS_WITHOUT_CLIENT=ON -DLWS_WITH_UDP=OFF -DDISABLE_WERROR=ON &&
			make -C "$work/b" -j2 install
	} >"$deps/$1.log" 2>&1 || {
		tail -n 20 "$deps/$1.log" >&2
		die "libwebsockets does not build; the whole log is build/deps/$1.log"
	}
	rm -rf "${deps:?}/$1"
	mv "$work/installed" "$deps/$1"
	rm -rf "$work"
	touch "$done"
}

mkdir -p "$deps"
exec 9>"$deps/lock"
flock 9 # two builds in one tree take turns
case ${1:-build} in
build)
	install_packages "$build_packages"
	libwebsockets lws MinSizeRel
	;;
san)
	install_packages "$build_packages"
	libwebsockets lws-san Debug '-O1 -fsanitize=address,undefined -fno-omit-frame-pointer'
	;;
test)
	install_packages "$build_packages $test_packages"
	;;
*)
	die "usage: deps.sh [build|san|test]"
	;;
esac
touch "$deps/${1:-build}.stamp"
