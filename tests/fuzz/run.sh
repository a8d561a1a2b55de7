#!/usr/bin/env bash
# Fuzzes the readers of CSV, texts and weights with libFuzzer, address and undefined-behaviour sanitizers (Debian: clang).
#   tests/fuzz/run.sh [SECONDS [TARGET …]]        60 seconds each by default
# Inputs grow in build/fuzz/TARGET; tests/fuzz/run.sh --keep copies a small covering set to tests/fixtures/data/fuzz.
set -euo pipefail
cd "$(dirname "$0")/../.."
keep=0
[ "${1:-}" = --keep ] && keep=1 && shift
seconds=${1:-60}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(csv wordpiece safetensors pickle torch)
mkdir -p build/fuzz
for target in "${targets[@]}"; do
  case $target in  # a file of weights is longer than a row or a sentence
    csv|wordpiece) longest=160 ;;
    *) longest=3000 ;;
  esac
  binary=build/fuzz/fuzz_$target
  clang++ -std=c++20 -O1 -g -I. -DFMT_HEADER_ONLY -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
    "tests/fuzz/$target.cc" data/text/*.cpp data/tokens/{wordpiece,vocabulary}.cpp nn/weights/{raw_tensor,safetensors_header,pickle,torch_file}.cpp \
    engine/core/{check,file}.cpp -lutf8proc -lzip -o "$binary"
  corpus=build/fuzz/$target
  mkdir -p "$corpus"
  "$binary" -max_total_time="$seconds" -max_len=$longest -timeout=5 -rss_limit_mb=2000 -print_final_stats=1 -verbosity=0 \
    -artifact_prefix=build/fuzz/ "$corpus" "tests/fixtures/data/fuzz/$target"
  if [ $keep = 1 ]; then
    small=tests/fixtures/data/fuzz/$target
    rm -rf "$small" && mkdir -p "$small"
    "$binary" -merge=1 -max_len=64 -verbosity=0 "$small" "$corpus" 2>/dev/null
    ls "$small" | awk 'NR > 60' | while read -r file; do rm "$small/$file"; done
  fi
done
