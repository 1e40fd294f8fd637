#!/usr/bin/env bash
# The set-up scripts without a network and without changing the machine.
#   scripts_test.sh ROOT
set -euo pipefail
launch=$1/launch
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "scripts_test: $*" >&2; exit 1; }
# ends_with CODE COMMAND...
ends_with() {
  local expected=$1 code=0
  shift
  "$@" >"$work/output" 2>&1 || code=$?
  [ $code = "$expected" ] || { cat "$work/output" >&2; fail "exit code $code, expected $expected: $*"; }
}

# A wrong option is a usage error and does nothing.
for script in install-packages test quickstart corpus/fetch.sh; do
  ends_with 2 "$launch/$script" --bogus
  grep -q 'unknown option --bogus' "$work/output" || fail "$script does not name the wrong option"
done
ends_with 2 "$launch/quickstart" --minutes none
ends_with 2 "$launch/quickstart" --ranks 0 --out "$work/none"

for script in install-packages test quickstart corpus/fetch.sh fuzz; do ends_with 0 "$launch/$script" --help; done
ends_with 2 "$launch/fuzz" 1 nothing
grep -q 'no target nothing' "$work/output" || fail "fuzz does not name the target that is not there"

# Without rights a missing package is one clear line. The fakes pretend that libcli11-dev is not there and that we are nobody.
mkdir "$work/bin"
printf '#!/bin/sh\nfor last; do :; done\n[ "$last" != libcli11-dev ] && printf installed\n' >"$work/bin/dpkg-query"
printf '#!/bin/sh\necho 1000\n' >"$work/bin/id"
for tool in bash sed env cat rm mktemp; do ln -s "$(command -v $tool)" "$work/bin/$tool"; done
chmod +x "$work/bin/dpkg-query" "$work/bin/id"
ends_with 2 env PATH="$work/bin" "$launch/install-packages"
grep -q 'neither root nor sudo.*libcli11-dev$' "$work/output" || fail "no hint for a user without rights: $(cat "$work/output")"

# Text of this machine gives six domains, says where it is from, is the same each time, and is kept by the next call.
for copy in a b; do ends_with 0 "$launch/corpus/fetch.sh" "$work/$copy" --offline; done
grep -q 'using text that is on this machine' "$work/output" || fail "the offline corpus does not say what it is"
domains=$(ls "$work"/a/*.jsonl | wc -l)
[ "$domains" -ge 6 ] || fail "$domains domains offline, expected at least 6"
for file in "$work"/a/*.jsonl; do
  cmp "$file" "$work/b/${file##*/}" || fail "the corpus differs between two calls"
  [ "$(stat -c %s "$file")" -gt 500000 ] || fail "$file is small"
done
ends_with 0 "$launch/corpus/fetch.sh" "$work/a"
grep -q kept "$work/output" || fail "a corpus that is there was made again"
echo "scripts_test: passed with $domains domains"
