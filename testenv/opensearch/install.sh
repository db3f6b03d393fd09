#!/bin/bash
# Prepares the real OpenSearch: 3.4.0 with its security plugin where there is a JDK of 21 or later, else 2.19.1 for JDK 17.
# testenv/install.sh calls it. What it prepares is in the cache folder "opensearch", with the JDK's place in the file "java".
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
to=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/opensearch

# The newest JDK: the default one may be too old and have a neighbour that is not.
best=0 java=
for home in "${JAVA_HOME:-}" /usr/lib/jvm/*; do
  [ -x "$home/bin/javac" ] || continue
  version=$("$home/bin/javac" -version 2>&1 | sed -E 's/^javac ([0-9]+).*/\1/')
  if [ "$version" -gt "$best" ]; then best=$version java=$home; fi
done
[ "$best" -ge 17 ] || { echo "testenv/opensearch: no JDK of 17 or later" >&2; exit 1; }
pom=$here/pom.xml; [ "$best" -ge 21 ] || pom=$here/pom-17.xml

if ! cat "$pom" "$here/Start.java" <(echo "$java") | cmp -s - "$to/complete"; then
  rm -rf "$to"
  mvn -q -B -f "$pom" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$to/jars"
  if [ "$best" -ge 21 ]; then
    mvn -q -B -f "$pom" -Psecurity dependency:unpack-dependencies -DincludeTypes=zip -DoutputDirectory="$to/security" -DmarkersDirectory="$to/security"
  fi
  "$java/bin/javac" -cp "$to/jars/*" -d "$to/classes" "$here/Start.java"
  echo "$java" > "$to/java"
  cat "$pom" "$here/Start.java" "$to/java" > "$to/complete"
fi
