#!/usr/bin/env bash
# Installs Chromium for the tests that look at report.html, where that can be done: Debian, and root. Called by
# `make test` in the background. It never fails a build: where there is no browser, the tests are skipped, and say why.
set -uo pipefail

# tests/release/browser.py waits while this is locked, and reads why there is no browser.
NOTES=${TMPDIR:-/tmp}/quark-eagle-browser.$(id -u)
LIMIT=150 # seconds, for the lists of packages and for the packages

# Locked before anything is looked at, so that who comes later waits; emptied only then.
exec 9>>"$NOTES"
flock 9
: >"$NOTES"

note() { echo "$1" | tee -a "$NOTES" >&2; exit 0; }
there() { command -v chromium || command -v google-chrome || command -v google-chrome-stable; }

there >/dev/null && exit 0
[ "$(id -u)" = 0 ] || note "installing one needs root"
command -v apt-get >/dev/null || note "there is no apt-get to install one with"
# Ubuntu's package of that name is a snap, which does not run in a container.
grep -qs '^ID=debian' /etc/os-release || note "only Debian's package is installed by tools/browser.sh"

export DEBIAN_FRONTEND=noninteractive
patient=(-qq -o Acquire::http::Timeout=15 -o Acquire::Retries=1 -o DPkg::Lock::Timeout=60)
timeout "$LIMIT" bash -c '
    apt-get "$@" update && apt-get "$@" install -y --no-install-recommends chromium
' install "${patient[@]}" >/dev/null 2>"$NOTES.log"
there >/dev/null || note "apt-get could not install it: $(tail -n 1 "$NOTES.log")"
