#!/usr/bin/env bash
# Builds the stand-alone device harnesses with nvcc alone, in the folder $1 (default build/device).
set -eu
cd "$(dirname "$0")/../.."
out=${1:-build/device}
mkdir -p "$out"
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
flags=(-std=c++20 -O3 -lineinfo -I. --expt-relaxed-constexpr --extended-lambda -Werror all-warnings
       -Xcompiler -Wall,-Wextra,-Wno-unused-parameter -gencode arch=compute_90a,code=sm_90a
       -DGLIA_GEMM_WAIT_BOUND=${WAIT_BOUND:-20000000})
objects=()
for source in engine/ops/products/{grouped_products,grouped_columns}.cu engine/ops/products/{sm90,portable}/*.cu \
              tests/device/gemm_harness.cu; do
  object=$out/$(basename "$source").o
  objects+=("$object")
  newest=$(ls -t "$source" engine/ops/products/{,sm90/,portable/}*.{h,cuh} tests/device/*.cuh 2>/dev/null | head -1)
  [ "$object" -nt "$newest" ] || "$nvcc" "${flags[@]}" -c "$source" -o "$object"
done
"$nvcc" -o "$out/gemm_harness" "${objects[@]}" -lcublas
