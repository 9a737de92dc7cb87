#!/bin/bash
# All checks that need no test run. Each failing check says what to do; the script runs all of them before it fails.
set -eu

status=0
failed() { echo "lint: $1" >&2; status=1; }

mapfile -t go_files < <(git ls-files --cached --others --exclude-standard -- '*.go')
mapfile -t shell_files < <(git grep -lE --untracked '^#!/bin/(ba)?sh' -- . ':!*.txtar' ':!*.md' ':!*.go')
mapfile -t sourced_files < <(git ls-files --cached --others --exclude-standard -- '*.sh')

unformatted=$(gofmt -l "${go_files[@]}")
[ -z "$unformatted" ] || failed "not formatted: $unformatted; run make fmt"

go vet ./... || failed "go vet, see above"

staticcheck=$(go -C test/upstream tool -n staticcheck)
"$staticcheck" ./... || failed "staticcheck, see above"

shellcheck -x "${shell_files[@]}" "${sourced_files[@]}" || failed "shellcheck, see above"

hack/registry-hosts.sh || failed "the tree names a package registry's host, see above"

long=$(for file in "${go_files[@]}"; do
  lines=$(wc -l <"$file")
  [ "$lines" -le 500 ] || echo "$file ($lines lines)"
done)
[ -z "$long" ] || failed "longer than 500 lines, split: $long"

before=$(mktemp)
after=$(mktemp)
trap 'rm -f "$before" "$after"' EXIT
state() { git ls-files -z --cached --others --exclude-standard | xargs -0 sha256sum 2>/dev/null || true; }
state >"$before"
go generate ./... || failed "go generate, see above"
state >"$after"
if ! diff "$before" "$after"; then
  failed "generated files were stale and are written anew: commit them"
fi

go test -count 1 ./test/layers || failed "import directions, see above"

exit "$status"
