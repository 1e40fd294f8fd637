# For the tests of the command line: claims about a command's exit code and lines. Sourced by bash; needs $work, a folder.

output=$work/output  # of the last command

fail() { echo "$(basename "$0"): $*" >&2; tail -n 30 "$output" >&2; exit 1; }
# ends_with CODE COMMAND...
ends_with() {
  local expected=$1 code=0
  shift
  "$@" >"$output" 2>&1 || code=$?
  [ $code = "$expected" ] || fail "exit code $code, expected $expected: $*"
}
says() { grep -q -- "$1" "$output" || fail "expected a line with '$1'"; }
says_not() { ! grep -q -- "$1" "$output" || fail "did not expect a line with '$1'"; }
