#!/usr/bin/env bash
# The page's tests: install, check, build, and run in a headless Chromium. Skips, and says why, where what
# they need is not there. PYTHON (with llmcdsr_lite and its extra "train") and CHROMIUM say where it is.
set -euo pipefail
cd "${0%/*}"

skip() {
  echo "skipped: the browser tests need $1"
  exit 0
}

command -v node >/dev/null && command -v npm >/dev/null || skip "Node.js 20 or newer with npm"
node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || skip "Node.js 20 or newer"
export CHROMIUM="${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"
[ -x "$CHROMIUM" ] || skip "Chromium (on Debian: apt-get install chromium), or CHROMIUM set to one"
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
npm run --silent check
npm run --silent build
npm run --silent test
