#!/usr/bin/env bash
# The page in a real Chromium: against a stub of the server, or against a server that runs.
#   crates/ferrum-server/web/test/run.sh [URL]
# Installs what is missing: Debian's chromium, and playwright-core below target/.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="$here/../../../../target/web-test"

if ! command -v chromium >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi
mkdir -p "$work"
cp "$here"/*.mjs "$here/package.json" "$work/"
(cd "$work" && npm install --silent --no-package-lock --ignore-scripts --no-audit --no-fund)
exec node "$work/page.mjs" "$here/.." "$@"
