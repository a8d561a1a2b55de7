#!/usr/bin/env bash
# Fuzzes the readers of CSV, texts, vocabularies, weights, result folders and flags with libFuzzer, address and undefined-behaviour sanitizers (Debian: clang).
#   tests/fuzz/run.sh [SECONDS | INPUTSx [TARGET …]]        60 seconds each by default; 5000000x: so many inputs each
# Inputs grow in build/fuzz/TARGET; tests/fuzz/run.sh --keep copies a small covering set to tests/fixtures/data/fuzz. What
# ran is counted in build/fuzz/counts.txt. Targets that need more of the library than their readers take the rest from the
# program's own build (make CUDA=0).
set -euo pipefail
cd "$(dirname "$0")/../.."
keep=0
[ "${1:-}" = --keep ] && keep=1 && shift
length=${1:-60}
case $length in *x) limit=-runs=${length%x} ;; *) limit=-max_total_time=$length ;; esac
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(csv wordpiece vocabulary safetensors pickle torch records flags)
mkdir -p build/fuzz
for target in "${targets[@]}"; do
  case $target in  # a file of weights is longer than a row or a sentence
    csv|wordpiece) longest=160 ;;
    vocabulary|flags) longest=400 ;;
    records) longest=8000 ;;
    *) longest=3000 ;;
  esac
  sources=(data/text/*.cpp data/tokens/{wordpiece,vocabulary}.cpp nn/weights/{raw_tensor,safetensors_header,pickle,torch_file}.cpp
    engine/core/{check,file,file_kind,json,message}.cpp)
  rest=(-lzip -llzma -lz)
  case $target in
    records) sources=(experiments/records/{results,run_json,metrics,routing/routing_metrics,utilisation_file}.cpp experiments/studies/study.cpp
      experiments/report/summary.cpp) ;;
    flags) sources=(experiments/training/{options,flag_choices}.cpp data/datasets/options.cpp engine/core/command_line/options.cpp) ;;
  esac
  case $target in
    records|flags)
      [ -e build/cpu/libglia.so ] || { echo "fuzz: $target wants build/cpu/libglia.so: make CUDA=0" >&2; exit 1; }
      rest=(-Lbuild/cpu -lglia -Wl,-rpath,"$PWD/build/cpu" -lfmt -lgomp) ;;
  esac
  binary=build/fuzz/fuzz_$target
  header_only=-DFMT_HEADER_ONLY
  [ "${rest[0]}" = -lzip ] || header_only=
  flags=(-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined)
  objects=()
  for source in "tests/fuzz/$target.cc" "${sources[@]}"; do  # ccache: the targets share most of them
    objects+=("build/fuzz/objects/$source.o")
    mkdir -p "$(dirname "${objects[-1]}")"
    # shellcheck disable=SC2086
    $(command -v ccache) clang++ -std=c++20 -O1 -g -I. $header_only "${flags[@]}" -c "$source" -o "${objects[-1]}"
  done
  clang++ "${flags[@]}" "${objects[@]}" -lutf8proc "${rest[@]}" -o "$binary"
  corpus=build/fuzz/$target
  mkdir -p "$corpus"
  "$binary" "$limit" -max_len=$longest -timeout=5 -rss_limit_mb=2000 -print_final_stats=1 -verbosity=0 \
    -close_fd_mask=1 -artifact_prefix=build/fuzz/ "$corpus" "tests/fixtures/data/fuzz/$target" 2>build/fuzz/$target.log ||
    { tail -n 40 "build/fuzz/$target.log" >&2; exit 1; }
  awk -v target="$target" '/number_of_executed_units/ { print target, $2 }' "build/fuzz/$target.log" | tee -a build/fuzz/counts.txt
  if [ $keep = 1 ]; then
    small=tests/fixtures/data/fuzz/$target
    rm -rf "$small" && mkdir -p "$small"
    "$binary" -merge=1 -max_len=$((longest < 1000 ? 64 : 1000)) -verbosity=0 "$small" "$corpus" 2>/dev/null
    ls "$small" | awk 'NR > 60' | while read -r file; do rm "$small/$file"; done
  fi
done
