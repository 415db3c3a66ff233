#!/bin/sh
# For control planes that start a sandbox as `/bootstrap.sh ENTRYPOINT...`, with execd beside it.
exec "${0%/*}/execd" --init -- "$@"
