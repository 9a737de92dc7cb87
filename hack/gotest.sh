#!/bin/bash
# Runs go test with the arguments given and fails when a test fails or is skipped: a skipped test proves nothing. Two packages at a time
# on any machine: packages start daemons, nodes and compilers of their own, and one waits for them about half of the time, but too many
# would make each other late. The log of every package is printed when it ends; go test's own closing lines (ok, FAIL) are repeated at
# the end.
set -euo pipefail

# Nodes that are not isolated share root's inotify instances, of which most hosts allow 128; each takes about ten. Tests of several clusters
# at once need more (nodeimg doctor says so too). The host gets its own limit back.
instances=/proc/sys/fs/inotify/max_user_instances
allowed=$(cat "$instances")

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ "$allowed" -lt 1024 ] && [ -w "$instances" ]; then
  trap 'rm -f "$log"; echo "$allowed" >"$instances"' EXIT
  echo 1024 >"$instances"
fi

status=0
go test -v -p 2 -count 1 -timeout 100m "$@" </dev/null 2>&1 | tee "$log" || status=$?

echo
grep -E '^(ok|FAIL|---|\?)[[:space:]]' "$log" | grep -vE '^--- PASS' || true
if grep -E '^[[:space:]]*--- SKIP' "$log"; then
  echo "tests were skipped: none may be, see above" >&2
  exit 1
fi
exit "$status"
