#!/bin/bash
# Fails when a tracked file names the host of a package registry. The names are those that this machine is configured with: the Go
# proxy, the distribution's mirrors, npm's registry. So the check itself names none.
set -eu

hosts() {
  go env GOPROXY GOSUMDB | tr ',' '\n' | tr '|' '\n' | grep -E '[a-z]\.[a-z]' || true
  grep -rhoE '(https?|mirror)://[^/[:space:]]+' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null || true
  npm config get registry 2>/dev/null || true
}

pattern=$(hosts | sed -E 's#^[a-z+]+://##; s#^[^@/]*@##; s#[/: ].*##' | grep -E '\.' | grep -vE '^(127\.|localhost)' | sort -u |
  sed 's/[.]/\\./g' | paste -sd '|')
[ -n "$pattern" ] || exit 0
# go.sum and go.mod name modules, not registries.
if git grep -nEI --untracked "($pattern)" -- . ':!go.sum' ':!go.mod' ':!**/go.sum' ':!**/go.mod'; then
  exit 1
fi
