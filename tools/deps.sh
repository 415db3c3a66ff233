#!/bin/sh
# deps.sh build|san|fuzz|test - brings what the build, or the tests and linters, need.
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
	libcap-dev libbsd-dev libcurl4-openssl-dev zlib1g-dev patch:patch xz-utils:xz binutils crun:crun'
test_packages='libcmocka-dev clang-format:clang-format clang-tidy:clang-tidy cppcheck:cppcheck
	nginx-light:nginx wrk:wrk zstd:zstd python3 python3-venv iproute2:ip curl:curl
	containernetworking-plugins nftables:nft skopeo:skopeo umoci:umoci runc:runc busybox-static:busybox
	docker.io:dockerd bubblewrap:bwrap valgrind:valgrind'

lws_version=4.3.5
lws_orig=libwebsockets_4.3.5.orig.tar.gz
lws_orig_sha256=87f99ad32803ed325fceac5327aae1f5c1b417d54ee61ad36cffc8df5f5ab276
lws_debian=libwebsockets_4.3.5-1+deb13u2.debian.tar.xz
lws_debian_sha256=059db96dc878057a629843e754fa56b2091186049c2bd36ba79db7fec62b8aea

zstd_version=1.5.7
zstd_orig=libzstd_1.5.7+dfsg.orig.tar.xz
zstd_orig_sha256=0c092ef267edce57ba7f3f2645c861f72eaf5e76273c6c3632869423464b90a5

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

# fetch <source package> <file> <sha256>: build/deps/<file>, which may have been put there by hand
fetch() {
	if [ ! -e "$deps/$2" ]; then
		uri=$(archive_uri) || die "no Debian archive in apt's sources (/etc/apt/sources.list*)"
		/usr/lib/apt/apt-helper -o APT::Sandbox::User=root -o Acquire::Retries=3 download-file \
			"$uri/pool/main/$(echo "$1" | cut -c 1-4)/$1/$2" "$deps/$2" "SHA256:$3" >"$deps/fetch.log" 2>&1 || {
			rm -f "$deps/$2"
			cat "$deps/fetch.log" >&2
			die "this machine's Debian archive does not give $2; put a copy with sha256 $3 into build/deps/"
		}
	fi
	echo "$3  $deps/$2" | sha256sum --check --status || die "build/deps/$2 is not the pinned file (sha256 $3)"
}

# libwebsockets <name> <build type> [C flags]: build/deps/<name>/{include,lib/libwebsockets.a}
libwebsockets() {
	done=$deps/$1/.$(cat tools/deps.sh tools/libwebsockets.patch | sha256sum | cut -c 1-16)
	[ ! -e "$done" ] || return 0
	echo "deps: building libwebsockets $lws_version ($1)"
	fetch libwebsockets $lws_orig $lws_orig_sha256
	fetch libwebsockets $lws_debian $lws_debian_sha256
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
			-DCMAKE_BUILD_TYPE="$2" -DCMAKE_C_FLAGS="${3:-} -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables" \
			-DLWS_WITH_SSL=OFF -DLWS_WITH_HTTP2=OFF -DLWS_WITHOUT_EXTENSIONS=ON \
			-DLWS_WITHOUT_TESTAPPS=ON -DLWS_WITH_SHARED=OFF -DLWS_WITH_LIBCAP=OFF \
			-DLWS_WITHOUT_CLIENT=ON -DLWS_WITH_UDP=OFF -DLWS_WITH_NETLINK=OFF \
			-DLWS_ROLE_WS=OFF -DLWS_WITH_FILE_OPS=OFF -DDISABLE_WERROR=ON &&
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

# build/deps/zstd/{include,lib/libzstd.a}: Debian's own archive would put 650 KB into the agent. Of the
# compressors only the fastest is kept, of the decoders the small variants: 127 KB.
zstd() {
	done=$deps/zstd/.$(sha256sum tools/deps.sh | cut -c 1-16)
	[ ! -e "$done" ] || return 0
	echo "deps: building zstd $zstd_version"
	fetch libzstd $zstd_orig $zstd_orig_sha256
	work=$deps/zstd.work
	rm -rf "$work"
	mkdir -p "$work/include" "$work/lib"
	tar -xJf "$deps/$zstd_orig" -C "$work"
	source=$work/zstd-$zstd_version/lib
	exclude=
	for strategy in DFAST GREEDY LAZY LAZY2 BTLAZY2 BTOPT BTULTRA; do
		exclude="$exclude -DZSTD_EXCLUDE_${strategy}_BLOCK_COMPRESSOR"
	done
	make -C "$source" -j2 libzstd.a BUILD_DIR="$work/o" ZSTD_LIB_MINIFY=1 ZSTD_LIB_DICTBUILDER=0 ZSTD_LIB_DEPRECATED=0 \
		ZSTD_NO_ASM=1 CPPFLAGS="-DZSTD_NO_TRACE=1 -DDYNAMIC_BMI2=0$exclude" \
		MOREFLAGS="-fPIC -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables" >"$deps/zstd.log" 2>&1 || {
		tail -n 20 "$deps/zstd.log" >&2
		die "zstd does not build; the whole log is build/deps/zstd.log"
	}
	cp "$source/zstd.h" "$source/zstd_errors.h" "$work/include/"
	cp "$source/libzstd.a" "$work/lib/"
	rm -rf "${deps:?}/zstd" "$work/o" "$work/zstd-$zstd_version"
	mv "$work" "$deps/zstd"
	touch "$done"
}

mkdir -p "$deps"
exec 9>"$deps/lock"
flock 9 # two builds in one tree take turns
case ${1:-build} in
build)
	install_packages "$build_packages"
	libwebsockets lws MinSizeRel
	zstd
	;;
san)
	install_packages "$build_packages"
	libwebsockets lws-san Debug '-O1 -fsanitize=address,undefined -fno-omit-frame-pointer'
	zstd
	;;
fuzz)
	install_packages "$build_packages clang-14:clang-14 libclang-rt-14-dev"
	;;
test)
	install_packages "$build_packages $test_packages"
	;;
*)
	die "usage: deps.sh [build|san|fuzz|test]"
	;;
esac
touch "$deps/${1:-build}.stamp"
