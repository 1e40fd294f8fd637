# For launch/quickstart and launch/test: stages that announce themselves and say how long they took. Sourced by bash.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
started=$SECONDS
summary=()

# clock SECONDS: m:ss
clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# stage NAME COMMAND...: runs it; when it fails, says which stage that was and ends with its code.
stage() {
  local name=$1 begin=$SECONDS code=0
  shift
  echo
  echo "== [$(clock $((SECONDS - started)))] $name"
  "$@" || code=$?
  if [ $code != 0 ]; then
    echo "== [$(clock $((SECONDS - started)))] $name FAILED (exit code $code)" >&2
    exit $code
  fi
  summary+=("$(printf '%6s  %s' "$(clock $((SECONDS - begin)))" "$name")")
}

find_nvcc() { command -v nvcc || compgen -G "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"; }

# A compiler of this code base takes up to 1.5 GB: fewer jobs than cores where memory is short.
build_jobs() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '$1 == "MemAvailable:" {print int($2 / 1500000)}' /proc/meminfo)
  echo $((memory < 1 ? 1 : memory < cores ? memory : cores))
}

# The newest clang++ of the distribution, or nothing.
find_clang() { compgen -c clang++- | grep -E '^clang\+\+-[0-9]+$' | sort -uV | tail -n 1 || true; }

# build PRESET TARGET...: configures when needed and builds.
build() {
  local preset=$1 log="$root/build/$1.configure.log"
  shift
  mkdir -p "$root/build"
  (cd "$root" && cmake --preset "$preset") >"$log" 2>&1 || { tail -n 30 "$log" >&2; return 1; }
  grep '^-- Cadre ' "$log" | sed 's/^-- //'
  cmake --build "$root/build/$preset" -j "$(build_jobs)" --target "$@" -- --quiet
}
