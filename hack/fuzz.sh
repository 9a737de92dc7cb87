#!/bin/bash
# Runs every fuzz target of the repository for a while: FUZZTIME each, 30s unless set. All of them run at the same time, each in one
# process, so that the whole takes little longer than one. Prints what go test says about each, and the input on which one fails.
set -euo pipefail

cd "$(dirname "$0")/.."
fuzztime=${FUZZTIME:-30s}
cache=$(go env GOCACHE)/fuzz/nodeimg
# go test -fuzz would compile all dependencies anew, in order to see what an input reaches in them. Only our own packages matter here.
instrument="-gcflags=$(go list -m)/...=-d=libfuzzer"
logs=$(mktemp -d)
programs=$(mktemp -d)
pids=()
# shellcheck disable=SC2317 # Called by the trap.
cleanup() {
  [ "${#pids[@]}" -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
  rm -rf "$logs" "$programs"
}
trap cleanup EXIT

mapfile -t packages < <(git grep -lE --untracked '^func Fuzz' -- '*_test.go' | xargs -r -n1 dirname | sort -u)
names=()
for package in "${packages[@]}"; do
  go test -c "$instrument" -o "$programs/${package//\//-}" "./$package"
  listed=$("$programs/${package//\//-}" -test.list '^Fuzz')
  mapfile -t targets < <(grep '^Fuzz' <<<"$listed")
  for target in "${targets[@]}"; do names+=("$package $target"); done
done
[ "${#names[@]}" -gt 0 ] || { echo "fuzz: found no fuzz target" >&2; exit 1; }

for name in "${names[@]}"; do
  read -r package target <<<"$name"
  mkdir -p "$cache/$package"
  # A test finds its seeds and testdata in its package's folder.
  (cd "$package" && exec "$programs/${package//\//-}" -test.v -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$fuzztime" \
    -test.fuzzminimizetime 2s -test.fuzzcachedir "$cache/$package" -test.parallel 1) </dev/null >"$logs/${#pids[@]}" 2>&1 &
  pids+=($!)
done

status=0
for i in "${!names[@]}"; do
  read -r package target <<<"${names[$i]}"
  echo "== $target in ./$package for $fuzztime"
  if ! wait "${pids[$i]}"; then
    status=1
    echo "fuzz: $target in ./$package failed" >&2
  fi
  # It says how far it is every three seconds; the last time is enough.
  awk '/^fuzz: elapsed:/ { last = $0; next } last != "" { print last; last = "" } { print }' "$logs/$i"
  crasher=$(sed -n 's/^ *Failing input written to //p' "$logs/$i" | head -n 1)
  if [ -n "$crasher" ] && [ -f "$package/$crasher" ]; then
    echo "--- $package/$crasher: commit it together with the fix, and it is a test"
    cat "$package/$crasher"
  fi
done
exit "$status"
