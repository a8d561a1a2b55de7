#!/usr/bin/env bash
# Builds build/device/attention_harness; arguments go to nvcc for the kernels (-DNAME=1, -Xptxas -v). HOST_OBJECTS=1 takes
# the objects of g++ as they lie in build/device: a GPU machine without fmt can build the rest.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${OUT_DIR:-build/device} nvcc=${NVCC:-/usr/local/cuda/bin/nvcc}
mkdir -p "$out"
archs=${CUDA_ARCHS:-90a 80}
flags=(-std=c++20 -O3 -lineinfo -I. --expt-relaxed-constexpr --extended-lambda -Werror all-warnings
       -Xcompiler -Wall,-Wextra,-Werror,-Wno-unused-parameter,-fopenmp,-march=x86-64-v3
       $(for a in $archs; do echo "-gencode arch=compute_$a,code=sm_$a"; done))
objects=() jobs=()
for source in engine/ops/attention/*.cu tests/device/attention_harness.cu; do
  object=$out/$(basename "$source").o
  objects+=("$object")
  newest=$(ls -t "$source" engine/ops/attention/*.{h,cuh} tests/device/attention_harness*.cuh | head -1)
  [ "$object" -nt "$newest" ] && continue
  "$nvcc" "${flags[@]}" "$@" -c "$source" -o "$object" & jobs+=($!)
  [ ${#jobs[@]} -lt "${JOBS:-$(nproc)}" ] || { wait "${jobs[0]}"; jobs=("${jobs[@]:1}"); }
done
for job in "${jobs[@]}"; do wait "$job"; done
for f in engine/ops/attention/attention_cpu engine/core/check engine/core/random/rng_words; do
  objects+=("$out/$(basename $f).o")
  [ -n "${HOST_OBJECTS:-}" ] || g++ -std=c++20 -O3 -march=x86-64-v3 -fno-math-errno -fopenmp -DFMT_HEADER_ONLY -I. -c $f.cpp -o "${objects[-1]}"
done
"$nvcc" -cudart static -o "$out/attention_harness" "${objects[@]}" -Xcompiler -fopenmp,-static-libstdc++
echo "$out/attention_harness"
