#!/bin/bash
# Installs what the full tests need beside Go, by package name: a browser, readers of Parquet and servers that are not ours.
set -euo pipefail
apt() {
  local sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}
command -v chromium > /dev/null || apt chromium
python3 -c 'import venv, ensurepip' 2> /dev/null || apt python3 python3-venv
venv=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/venv
want='pyarrow==26.0.1 duckdb==2.0.0 pytz tzdata moto[dynamodb]==5.2.5 flask==3.1.3 flask-cors==6.0.5'
[ "$(cat "$venv/complete" 2> /dev/null)" = "$want" ] || { python3 -m venv "$venv"; "$venv/bin/pip" install -q --disable-pip-version-check $want; echo "$want" > "$venv/complete"; }

# Stand-ins for Amazon's services that are not ours.
command -v npm > /dev/null || apt nodejs npm
list=$(cd "$(dirname "$0")" && pwd)/npm
npm=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/npm
cmp -s "$list/package-lock.json" "$npm/complete" || { mkdir -p "$npm"; cp "$list"/package{,-lock}.json "$npm"; npm ci --silent --no-audit --no-fund --prefix "$npm" < /dev/null; cp "$list/package-lock.json" "$npm/complete"; }

# Apache Kafka, from its jars.
command -v mvn > /dev/null || apt maven
java -version 2>&1 | grep -Eq 'version "(1[7-9]|[2-9][0-9])' || apt openjdk-17-jre-headless
pom=$(cd "$(dirname "$0")" && pwd)/kafka/pom.xml jars=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/kafka
cmp -s "$pom" "$jars/complete" || { rm -rf "$jars"; mvn -q -B -f "$pom" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$jars"; cp "$pom" "$jars/complete"; }

# OpenSearch, from its jars.
command -v javac > /dev/null || ls /usr/lib/jvm/*/bin/javac > /dev/null 2>&1 || apt openjdk-17-jdk-headless
"$(dirname "$0")/opensearch/install.sh"

# Redis.
command -v redis-server > /dev/null || apt redis-server
