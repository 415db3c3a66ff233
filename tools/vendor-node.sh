#!/bin/sh
# vendor-node.sh - makes kernels/node/acorn.min.js and sucrase.min.js from their npm packages.
# Their text is part of this tree, so that a build needs neither npm nor Node; run this to renew it.
set -eu
acorn=8.19.0 sucrase=3.35.1 esbuild=0.28.2
out=$(cd "$(dirname "$0")/../kernels/node" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y >/dev/null
npm install --no-audit --no-fund --silent "acorn@$acorn" "sucrase@$sucrase" "esbuild@$esbuild"
echo 'module.exports = require("acorn")' >acorn.js
cat >sucrase.js <<'END'
const { transform } = require("sucrase");
const { parse } = require("sucrase/dist/parser/index.js");
const { TokenType } = require("sucrase/dist/parser/tokenizer/types.js");
module.exports = { transform, parse, types: TokenType };
END
for name in acorn sucrase; do
	eval "version=\$$name"
	npx esbuild $name.js --bundle --minify --platform=node --format=cjs --target=node18 --log-level=warning --outfile=$name.min.js
	{
		echo "/* $name $version, MIT licence: see LICENSES.md; made by tools/vendor-node.sh */"
		cat $name.min.js
	} >"$out/$name.min.js"
done
