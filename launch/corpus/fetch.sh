#!/usr/bin/env bash
# Makes the quickstart's corpus: OUT/DOMAIN.jsonl for at least six domains, about 3.5 MB of text each, from packages of the
# distribution that carry text. They are downloaded (17 MB) and unpacked under OUT, never installed; root is not needed.
# Where no archive can be reached, text that is already on the machine is used, and a line says so.
#
#   launch/corpus/fetch.sh OUT [--offline]
#
# OUT/SOURCES.txt says where the text came from, OUT/licences/ holds the packages' copyright files. A corpus that is there
# already is kept: remove OUT to make it again.
set -euo pipefail
export LC_ALL=C.UTF-8
here=$(cd -- "$(dirname -- "$0")" && pwd)

# domain, then packages; a|b takes the first that the archive has.
sources='
prose       jargon-text fortunes doc-debian
docs        git-doc debian-reference-en
german      manpages-de debian-reference-de
french      manpages-fr debian-reference-fr
code_cpp    libeigen3-dev
code_python libpython3.11-stdlib|libpython3.12-stdlib|libpython3.13-stdlib
'
least_domains=6

fail() { echo "corpus: $*" >&2; exit 3; }
out='' offline=no
for arg in "$@"; do
  case $arg in
    --offline) offline=yes ;;
    -h|--help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    -*) echo "corpus: unknown option $arg (see --help)" >&2; exit 2 ;;
    *) out=$arg ;;
  esac
done
[ -n "$out" ] || { echo "usage: fetch.sh OUT [--offline]" >&2; exit 2; }
command -v python3 >/dev/null || fail "python3 is not there; launch/install-packages brings it"
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ -f "$out/SOURCES.txt" ]; then echo "corpus: kept, $out is there already"; exit 0; fi

cache=$out/.cache
rm -rf "$cache/unpacked"
mkdir -p "$cache/debs" "$cache/unpacked" "$cache/apt/lists/partial" "$cache/apt/archives/partial" "$out/licences"
apt=(-q -o Acquire::http::Timeout=10 -o Acquire::Retries=1 -o APT::Sandbox::User=root)
private=(-o Dir::State::Lists="$cache/apt/lists" -o Dir::Cache="$cache/apt" -o Dir::Cache::Archives="$cache/apt/archives")

have_deb() { compgen -G "$cache/debs/$1_*.deb" >/dev/null; }

# Fills `plan` with "domain package" lines; succeeds when the archive's lists know all of them.
choose() {
  plan=() complete=yes
  local domain wanted choice package known
  # shellcheck disable=SC2046
  known=" $(apt-cache "${apt[@]}" policy $(tr '|' ' ' <<<"$sources" | sed 's/^[^ ]* *//') 2>/dev/null |
    awk '/^[^ ]/ {name = $1; sub(":$", "", name)} $1 == "Candidate:" && $2 != "(none)" {printf "%s ", name}') "
  while read -r domain wanted; do
    [ -n "$domain" ] || continue
    for choice in $wanted; do
      for package in ${choice//|/ } ''; do
        [ -n "$package" ] || { complete=no; break; }
        if [[ $known == *" $package "* ]]; then plan+=("$domain $package"); break; fi
      done
    done
  done <<<"$sources"
  [ $complete = yes ]
}
download() {
  local missing=() entry
  for entry in "${plan[@]}"; do have_deb "${entry#* }" || missing+=("${entry#* }"); done
  [ ${#missing[@]} = 0 ] || (cd "$cache/debs" && timeout 120 apt-get "${apt[@]}" download "${missing[@]}") >>"$cache/log" 2>&1
}

: >"$cache/log"
plan=()
if [ $offline = no ] && command -v apt-get >/dev/null; then
  # The system's package lists may be absent, or so old that a version is gone: then own lists are fetched.
  if ! { choose && download; }; then
    apt+=("${private[@]}")
    if timeout 60 apt-get "${apt[@]}" -o APT::Update::Error-Mode=any update >>"$cache/log" 2>&1; then
      choose || true
      download || true
    fi
  fi
fi

for entry in "${plan[@]}"; do
  domain=${entry% *} package=${entry#* }
  have_deb "$package" || continue
  deb=$(compgen -G "$cache/debs/${package}_*.deb" | tail -n 1)
  mkdir -p "$cache/unpacked/$domain/$package"
  dpkg-deb -x "$deb" "$cache/unpacked/$domain/$package" || fail "cannot unpack $deb"
  cp "$cache/unpacked/$domain/$package/usr/share/doc/$package/copyright" "$out/licences/$package" 2>/dev/null || true
  echo "$domain $(dpkg-deb -f "$deb" Package Version | sed 's/^[^:]*: //' | paste -sd' ')" >>"$cache/sources"
done

rm -f "$out"/*.jsonl
python3 "$here/clean.py" packages "$cache/unpacked" "$out"
count() { find "$out" -maxdepth 1 -name '*.jsonl' | wc -l; }
if [ "$(count)" -lt $least_domains ]; then
  reason="no package archive could be reached"
  [ $offline = no ] || reason="--offline was given"
  [ "$(count)" = 0 ] || reason="only $(count) domains could be had from the package archive"
  echo "corpus: $reason; using text that is on this machine (documentation, headers, Python's library)"
  have=$(find "$out" -maxdepth 1 -name '*.jsonl' -printf '%f ' | sed 's/\.jsonl//g')
  # shellcheck disable=SC2086
  python3 "$here/clean.py" machine "$out" --limit $((8 - $(count))) --skip $have
  echo "text on this machine: $reason" >>"$cache/sources"
fi
[ "$(count)" -ge $least_domains ] ||
  fail "text for only $(count) of $least_domains domains was found; connect to a package archive (log: $cache/log)"
mv "$cache/sources" "$out/SOURCES.txt"
rm -rf "$cache/unpacked"
echo "corpus: $(count) domains in $out"
