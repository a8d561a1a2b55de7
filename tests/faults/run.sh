#!/usr/bin/env bash
# What a run must survive, tried on small ablations of a built checkout (make CUDA=0):
#   tests/faults/run.sh [kill [100] | pretrain [20] | disk | files [1000]]        without a word: all of them
# kill: SIGKILL at any moment, started again each time; pretrain: the same to ./experiments/pretrain; disk: full from the n-th write
# on, for every n (or every STEP-th), then room again; files: truncated and altered ones through every reader. The folders of the
# first three end with the bytes of an undisturbed run, timing.json apart. Figures are printed; the exit status is 1 where
# anything was lost or wrong.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d) glia=$(mktemp -d)
trap 'rm -rf "$work" "$glia"' EXIT
lib=$PWD/build/cpu
[ -e "$lib/libglia.so" ] || { echo "faults: wants build/cpu/libglia.so: make CUDA=0" >&2; exit 1; }
# Copies, since a program that is rebuilt meanwhile would write another commit.
mkdir -p "$glia/build/cpu" "$glia/experiments" "$glia/tools"
cp "$lib/libglia.so" "$glia/build/cpu"
cp experiments/{run_all,train,pretrain} "$glia/experiments"
cp tools/report tools/export "$glia/tools"
export OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0

# Two configurations, two seeds, a second or two; the same command wherever it runs.
command=("$glia/experiments/run_all" --out results --device cpu --preset quick --configs softmax-moe,astrocyte-hierarchical --seeds 2 --layers 2
  --hidden 16 --heads 2 --ffn 32 --experts 4 --vocab-size 300 --max-rows 600 --max-test-rows 200 --batch 16 --max-steps 60 --log-every 5
  --eval-every 20 --checkpoint-every 10 --no-estimate --jobs 1 --threads 1 --cache "")
# Both take the place of the shell that calls them: a kill hits the program, and ( ) stands around every other call.
ablation() { mkdir -p "$1" && cd "$1" && exec "${command[@]}"; }
pretraining() {
  mkdir -p "$1" && cd "$1" && exec "$glia/experiments/pretrain" --device cpu --corpus "$work/corpus.txt" --training-texts off \
    --preset quick --layers 1 --hidden 16 --heads 2 --ffn 32 --vocab-size 300 --tokens 256 --max-length 32 --steps 400 --log-every 5 \
    --eval-every 80 --checkpoint-every 10 --threads 1 --out weights
}
same() { diff -r --exclude=timing.json --exclude=.locks "$1" "$2" >"$work/difference"; }

# kill_runs WHAT RUN KILLS: RUN is killed and started again until it ends, and that until so many kills were sent.
kill_runs() {
  local what=$1 run=$2 wanted=$3 kills=0 runs=0 starts length
  ("$run" "$work/whole") >/dev/null
  length=$( { TIMEFORMAT=%R; time ("$run" "$work/timed") >/dev/null; } 2>&1 | tail -n 1)
  RANDOM=20
  while [ "$kills" -lt "$wanted" ]; do
    starts=0
    while :; do
      ("$run" "$work/killed") >/dev/null 2>&1 &
      local pid=$!
      # Anywhere in the length of a whole run, most of them early: what is resumed is shorter.
      sleep "$(awk -v r=$RANDOM -v whole="$length" 'BEGIN { r /= 32768; printf "%.3f", r * r * whole }')"
      if ! kill -9 $pid 2>/dev/null; then
        wait $pid || { echo "$what: a resumed one failed"; return 1; }
        break
      fi
      wait $pid 2>/dev/null || true
      kills=$((kills + 1)) starts=$((starts + 1))
      [ "$kills" -lt "$wanted" ] || break
    done
    ("$run" "$work/killed") >/dev/null 2>&1 || { echo "$what: does not end after $starts kills"; return 1; }
    same "$work/whole" "$work/killed" || { echo "$what: other bytes after $starts kills:"; head -n 5 "$work/difference"; return 1; }
    rm -rf "$work/killed"
    runs=$((runs + 1))
  done
  echo "$what: $kills SIGKILLs in $runs runs to the end, every folder equal byte for byte"
}

pretrain_test() {
  awk 'BEGIN { srand(20); for (i = 0; i < 400; ++i) { printf "document %d", i; n = 10 + int(40 * rand())
    for (j = 0; j < n; ++j) printf " w%c%c", 97 + int(8 * rand()), 97 + int(8 * rand()); print "" } }' >"$work/corpus.txt"
  kill_runs pretrain pretraining "${1:-20}"
}

disk_test() {
  g++ -std=c++20 -O1 -shared -fPIC tests/faults/full_disk.cc -o "$work/full_disk.so" -ldl
  (ablation "$work/whole") >/dev/null
  export FULL_DISK_UNDER=$work/full FULL_DISK_COUNT=$work/count
  (LD_PRELOAD=$work/full_disk.so ablation "$work/full") >/dev/null
  local writes n
  writes=$(cat "$work/count")
  echo "disk: $writes writes, of which ${STEP:+every $STEP. }one after the other fails"
  [ "$writes" -gt 50 ] || { echo "disk: only $writes writes were counted"; return 1; }
  for ((n = 1; n <= writes; n += ${STEP:-1})); do
    rm -rf "$work/full"
    if (FULL_DISK_AT=$n LD_PRELOAD=$work/full_disk.so ablation "$work/full") >"$work/said" 2>&1; then
      echo "disk: full at write $n of $writes, and the program says that all is well"; return 1
    fi
    grep -q "No space left on device" "$work/said" || { echo "disk: write $n: nobody says why:"; tail -n 3 "$work/said"; return 1; }
    (ablation "$work/full") >"$work/said" 2>&1 || { echo "disk: write $n: does not go on with room again:"; tail -n 3 "$work/said"; return 1; }
    same "$work/whole" "$work/full" || { echo "disk: write $n: other bytes:"; head -n 5 "$work/difference"; return 1; }
  done
  unset FULL_DISK_UNDER FULL_DISK_COUNT
  echo "disk: full at each of $writes writes (step ${STEP:-1}): named every time, and equal byte for byte with room again"
}

files_test() {
  local folder=$work/files
  (ablation "$work/whole") >/dev/null
  mkdir -p "$folder/seed0" "$folder/cache" "$folder/torch"
  cp -r "$work/whole/results/seed0/astrocyte-hierarchical" "$folder/seed0"
  cp "$work/whole/results/vocab.txt" "$work/whole/results/study.txt" "$folder"
  "$glia/tools/report" "$folder" --no-plots >/dev/null
  "$glia/experiments/train" --config dense --device cpu --layers 2 --hidden 16 --heads 2 --ffn 32 --vocab-size 300 --max-rows 600 --max-test-rows 200 \
    --batch 16 --max-steps 5 --no-estimate --no-report --threads 1 --cache "" --preset quick --out "$work/dense" >/dev/null
  "$glia/tools/export" "$work/dense/seed0/dense" "$folder/export" >/dev/null
  if command -v python3 >/dev/null; then
    python3 tests/faults/torch_file.py "$folder/export/model.safetensors" "$folder/torch/pytorch_model.bin"
    cp "$folder/export/config.json" "$folder/torch"
  else
    rmdir "$folder/torch"
  fi
  awk 'BEGIN { print "label,text"; for (i = 0; i < 60; ++i) print (i % 3 ? "World" : "\"Sci, Tech\"") ",\"text number " i ", it says\"" }' >"$folder/rows.csv"
  g++ -std=c++20 -O1 -fopenmp -I. tests/faults/readers.cc -o "$work/readers" -L"$lib" -lglia -Wl,-rpath,"$lib" -lfmt
  "$work/readers" "$folder" "${1:-1000}"
}

case ${1:-all} in
  kill) kill_runs kill ablation "${2:-100}" ;;
  pretrain) pretrain_test "${2:-20}" ;;
  disk) disk_test ;;
  files) files_test "${2:-1000}" ;;
  all) for each in "kill_runs kill ablation 100" pretrain_test disk_test files_test; do rm -rf "${work:?}"/*; $each; done ;;
  *) echo "usage: tests/faults/run.sh [kill [N] | pretrain [N] | disk | files [N]]" >&2; exit 2 ;;
esac
