#!/usr/bin/env bash
# Builds tools/tokenize and the tokenizer's benchmark so that they run on a machine without Debian's packages (fmt and CLI11 are
# headers, utf8proc and the C++ runtime are linked statically), and lays out what tokenizer_compare.py needs:
#   tests/peer/build_tokenizer.sh [DATA_FOLDER [OUT]]      default ../shared/data .device/tokenizer
# Carry OUT to the device machine and run there:
#   python3 tests/peer/tokenizer_compare.py --bin OUT/tokenize --bench OUT/bench_tokenizer --data OUT --out $OUT
set -euo pipefail
cd "$(dirname "$0")/../.."
data=${1:-../shared/data} out=${2:-.device/tokenizer}
mkdir -p "$out"
flags=(-std=c++20 -O3 -g0 -march=x86-64-v3 -fno-math-errno -ffp-contract=on -fopenmp -I. -DFMT_HEADER_ONLY)
static=(-static-libstdc++ -static-libgcc -Wl,-Bstatic -lutf8proc -lgomp -Wl,-Bdynamic -lpthread -ldl)
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
for source in data/*.cpp data/datasets/*.cpp engine/core/{check,file,file_kind,json,message}.cpp tools/benchmarks/tokenizer.cpp; do
  g++ "${flags[@]}" -c "$source" -o "$objects/${source//\//_}.o"
done
g++ "${flags[@]}" tools/tokenize.cpp "$objects"/*.o -o "$out/tokenize" "${static[@]}"
printf '#include "tools/benchmarks/tokenizer.h"\nint main(int argc, char** argv) { return bench_tokenizer(argc, argv); }\n' |
  g++ "${flags[@]}" -x c++ - -x none "$objects"/*.o -o "$out/bench_tokenizer" "${static[@]}"
[ -e "$out/vocab.txt" ] || install -m 644 "$data/vocab.txt" "$out/"
for split in train test; do
  [ -e "$out/$split.csv.xz" ] || xz -6 -T0 -c "$data/ag_news/$split.csv" > "$out/$split.csv.xz"
done
# The corpora, every one whole but CNN/DailyMail: every third document of it fits the 64 MiB that can be carried.
for corpus in "$data"/corpus/*.txt.xz; do
  target=$out/$(basename "$corpus")
  [ -e "$target" ] && continue
  case "$corpus" in
    *cnndm*) xz -dc "$corpus" | awk 'NR % 3 == 0' | xz -1 -T0 > "$target" ;;
    *) install -m 644 "$corpus" "$target" ;;
  esac
done
ldd "$out/tokenize"
du -sh "$out"
