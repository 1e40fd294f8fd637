#!/usr/bin/env bash
# Every folder includes only what docs/design.md allows it. Linking would catch most of it, but not headers without code. And no
# program is started through a shell, and no kernel that comes early reads through the cache that knows nothing of its wait.
#   layers_test.sh ROOT
set -euo pipefail
root=$1

# Folders that a folder may include, itself first; the first match of the including file's path counts.
allowed() {
  local core="parallel/base parallel/device parallel/comm"
  local run="trainer/run trainer/rollout trainer/influence trainer/report trainer/model moe optim data $core"
  case $1 in
    parallel/base/*) echo parallel/base ;;
    parallel/device/*) echo parallel/device parallel/base ;;
    parallel/comm/*) echo "$core" ;;
    moe/*) echo "moe $core" ;;
    optim/*) echo "optim $core" ;;
    data/*) echo "data $core" ;;
    trainer/model/*) echo "trainer/model moe $core" ;;
    trainer/report/*) echo trainer/report parallel/base ;;
    trainer/influence/*) echo "trainer/influence trainer/model moe $core" ;;
    trainer/rollout/*) echo "trainer/rollout trainer/model moe optim data $core" ;;
    trainer/run/*) echo "$run" ;;
    trainer/audit/*) echo "trainer/audit trainer/study $run" ;;
    trainer/*) echo "$(cut -d/ -f1,2 <<<"$1") $run" ;;
    launch/*) echo "launch trainer moe optim data $core" ;;
  esac
}

# Prints "FILE:LINE: includes X" for each include of the tree at $1 that goes up or sideways.
wrong_includes() {
  local line file header folder ok
  (cd "$1" && find parallel moe optim data trainer launch -type f \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) \
    -exec grep -nHE '^ *# *include *"' {} +) | sort |
    while IFS= read -r line; do
      file=${line%%:*} header=${line#*\"} header=${header%%\"*} ok=no
      for folder in $(allowed "$file"); do
        [[ $header != "$folder"/* ]] || ok=yes
      done
      [ $ok = yes ] || echo "$(cut -d: -f1,2 <<<"$line"): includes $header, allowed: $(allowed "$file")"
    done
}

# Prints the lines that start a program through a shell, which would run a user's words.
shells() {
  (cd "$1" && grep -rnE --include='*.cc' --include='*.h' --include='*.cu' --include='*.cuh' '\b(system|popen|wordexp)\(|"(/bin/)?(ba|da)?sh"' \
    parallel moe optim data trainer launch) || true
}

# Prints the kernels that wait for the one before (parallel/device/cuda/vec.cuh) and have const __restrict__ parameters.
early_reads() {
  (cd "$1" && find parallel moe optim trainer -type f \( -name '*.cu' -o -name '*.cuh' \) -exec awk '
    /__global__/ { head = ""; line = FNR; signature = 1 }
    signature { head = head " " $0 }
    signature && /[{;] *$/ { signature = 0; reads = head ~ /const [^,]*\* *__restrict__/ }
    !signature && reads && /wait_for_kernel_before\(/ { print FILENAME ":" line ": comes early and has a const __restrict__ parameter"; reads = 0 }
    /^}/ { reads = 0 }' {} +)
}

# The check itself is checked on a tree with one wrong include of each kind.
trial=$(mktemp -d)
trap 'rm -rf "$trial"' EXIT
for folder in parallel/base parallel/device parallel/comm moe optim data trainer/model trainer/run trainer/study launch; do mkdir -p "$trial/$folder"; done
echo '#include "parallel/comm/mesh.h"' >"$trial/parallel/device/up.h"
echo '#include "optim/optimizer.h"' >"$trial/moe/sideways.cc"
echo '#include "data/loader.h"' >"$trial/trainer/model/sideways.cc"
echo '#include "sibling.h"' >"$trial/data/relative.cc"
echo '#include "trainer/study/plots.h"' >"$trial/trainer/run/up.cc"
echo '#include "data/loader.h"' >"$trial/trainer/run/fine.cc"
found=$(wrong_includes "$trial" | wc -l)
[ "$found" = 5 ] || { echo "layers_test: found $found of 5 planted wrong includes" >&2; exit 1; }

echo 'void f(const char* x) { std::system(x); execlp("sh", "sh", "-c", x, nullptr); popen(x, "r"); }' >"$trial/launch/shell.cc"
echo 'auto now = std::chrono::system_clock::now();' >"$trial/launch/clock.cc"
[ "$(shells "$trial" | wc -l)" = 1 ] || { echo "layers_test: the planted shell was not found" >&2; exit 1; }

cat >"$trial/moe/early.cu" <<'KERNELS'
__global__ void late(const int* __restrict__ x, int* y) {
  *y = *x;
}
template <class T>
__global__ void __launch_bounds__(32)
    early(int n, const T* __restrict__ x,
          T* y) {
  wait_for_kernel_before();
  *y = *x;
}
__global__ void fine(const int* x, int* __restrict__ y) {
  wait_for_kernel_before();
}
KERNELS
[ "$(early_reads "$trial" | cut -d: -f1,2)" = moe/early.cu:5 ] ||
  { echo "layers_test: of three planted kernels found: $(early_reads "$trial")" >&2; exit 1; }

wrong=$(wrong_includes "$root"; shells "$root"; early_reads "$root")
[ -z "$wrong" ] || { echo "$wrong" >&2; exit 1; }
echo "layers_test: all includes go down, nothing starts a shell, and early kernels read what the one before wrote"
