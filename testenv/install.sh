#!/bin/bash
# Installs what the full tests need beside Go, by package name: a browser, readers of Parquet that are not ours, and stand-ins for Amazon's
# services that are not ours either.
set -euo pipefail
apt() {
  local sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}
command -v chromium > /dev/null || apt chromium
python3 -c 'import venv, ensurepip' 2> /dev/null || apt python3 python3-venv
venv=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/venv
want='pyarrow==26.0.1 duckdb==2.0.0 pytz tzdata'
[ "$(cat "$venv/complete" 2> /dev/null)" = "$want" ] || { python3 -m venv "$venv"; "$venv/bin/pip" install -q --disable-pip-version-check $want; echo "$want" > "$venv/complete"; }
command -v npm > /dev/null || apt nodejs npm
list=$(cd "$(dirname "$0")" && pwd)/npm
npm=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/npm
cmp -s "$list/package-lock.json" "$npm/complete" || { mkdir -p "$npm"; cp "$list"/package{,-lock}.json "$npm"; npm ci --silent --no-audit --no-fund --prefix "$npm" < /dev/null; cp "$list/package-lock.json" "$npm/complete"; }
