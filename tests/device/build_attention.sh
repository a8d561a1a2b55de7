#!/usr/bin/env bash
# Builds build/device/attention_harness; arguments go to nvcc for the kernels (-DNAME=1, -Xptxas -v).
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${OUT_DIR:-build/device} nvcc=${NVCC:-/usr/local/cuda/bin/nvcc}
mkdir -p "$out"
archs=${CUDA_ARCHS:-90a 80}
flags=(-std=c++20 -O3 -lineinfo -I. --expt-relaxed-constexpr --extended-lambda -Werror all-warnings
       -Xcompiler -Wall,-Wextra,-Werror,-Wno-unused-parameter,-fopenmp,-march=x86-64-v3
       $(for a in $archs; do echo "-gencode arch=compute_$a,code=sm_$a"; done))
"$nvcc" "${flags[@]}" "$@" -c engine/ops/attention/attention_sm80.cu -o "$out/attention_sm80.o"
"$nvcc" "${flags[@]}" -c engine/ops/attention/attention.cu -o "$out/attention.o" &
"$nvcc" "${flags[@]}" -c tests/device/attention_harness.cu -o "$out/harness.o" &
for f in engine/ops/attention_cpu engine/core/check engine/core/rng_words; do
  g++ -std=c++20 -O3 -march=x86-64-v3 -fno-math-errno -fopenmp -DFMT_HEADER_ONLY -I. -c $f.cpp -o "$out/$(basename $f).o"
done
wait %1 && wait %2
"$nvcc" -cudart static -o "$out/attention_harness" "$out"/{harness,attention,attention_sm80,attention_cpu,check,rng_words}.o \
  -Xcompiler -fopenmp,-static-libstdc++
echo "$out/attention_harness"
