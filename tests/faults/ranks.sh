#!/usr/bin/env bash
# One of several processes of a run dies or stops, again and again, on a built checkout (make CUDA=0) with Open MPI:
#   [FLAGS='--shard-optimiser …'] tests/faults/ranks.sh [KILLS [20] [STOPS [3]]]
# KILLS times SIGKILL for a random rank at a random moment: all must be gone within 30 s, with the rank named, and the same command
# goes on from the checkpoint until the folder has the bytes of an undisturbed run, timing.json apart. STOPS times SIGSTOP: the
# others must name the rank and end after --rank-timeout. Figures are printed; the exit status is 1 where one was not so.
set -euo pipefail
cd "$(dirname "$0")/../.."
kills=${1:-20} stops=${2:-3} ranks=3 limit=30
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -e build/cpu/libglia_mpi.so ] || { echo "faults: wants build/cpu/libglia_mpi.so: make CUDA=0 with libopenmpi-dev" >&2; exit 1; }
# Copies, since a program that is rebuilt meanwhile would write another commit.
mkdir -p "$work/build/cpu" "$work/experiments"
cp build/cpu/libglia.so build/cpu/libglia_mpi.so "$work/build/cpu"
cp experiments/train "$work/experiments"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
# shellcheck disable=SC2206
launch=(mpirun --oversubscribe --bind-to none -n $ranks "$work/experiments/train" --device cpu --preset quick
  --config astrocyte-hierarchical --seeds 1 --layers 2 --hidden 16 --heads 2 --ffn 32 --experts 4 --vocab-size 300 --max-rows 600
  --max-test-rows 200 --batch 18 --max-steps 200 --log-every 10 --eval-every 50 --checkpoint-every 10 --no-estimate --no-report
  --threads 1 --progress off --cache "" --rank-timeout 6 ${FLAGS:-})
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }
# The processes of mpirun $1, in the order of their ranks: mpirun starts them one after the other.
ranks_of() { pgrep -P "$1" | sort -n; }
# Whether all processes $@ end within the limit.
ends() {
  local waited=0
  while kill -0 "$@" 2>/dev/null; do  # of one of them
    [ $((waited += 1)) -le $((limit * 10)) ] || return 1
    sleep 0.1
  done
}
fail() { echo "ranks: $*"; [ -e "$work/said" ] && tail -n 5 "$work/said"; exit 1; }

# The same command in folder $1: what it writes tells its flags.
start() {
  mkdir -p "$work/$1"
  (cd "$work/$1" && exec "${launch[@]}" --out results) >"$work/said" 2>&1 &
  launched=$!
}

start whole
wait $launched || fail "the undisturbed run failed"
begin=$(now)  # of a second one: the first also loads programs and fills caches, and kills by its length came too late
start timed
wait $launched || fail "the undisturbed run failed"
length=$(since "$begin")
RANDOM=17

killed=0 longest=0 runs=0 missed=0
while [ $killed -lt "$kills" ]; do
  start killed
  sleep "$(awk -v r=$RANDOM -v whole="$length" 'BEGIN { printf "%.2f", 0.3 + r / 32768 * whole }')"
  mapfile -t all < <(ranks_of $launched)
  rank=$((RANDOM % ranks))
  if [ ${#all[@]} -lt $ranks ] || ! kill -9 "${all[rank]}" 2>/dev/null; then
    wait $launched || fail "a run that nobody killed failed"  # it was at its end
    [ $((missed += 1)) -le "$kills" ] || fail "$missed runs ended before anyone was killed"
  else
    begin=$(now)
    ends $launched "${all[@]}" || fail "after rank $rank was killed the others still run after $limit s"
    took=$(since "$begin")
    longest=$(awk -v a="$longest" -v b="$took" 'BEGIN { print (a > b ? a : b) }')
    # Without an error: the rank had done all that it had to.
    wait $launched || grep -q "rank $rank" "$work/said" || fail "rank $rank was killed and is not named"
    killed=$((killed + 1))
    [ $killed -eq "$kills" ] || continue
    start killed
    wait $launched || fail "does not go on after $killed kills"
  fi
  diff -r --exclude=timing.json --exclude=.locks "$work/whole" "$work/killed" >"$work/said" || fail "other bytes after $killed kills:"
  runs=$((runs + 1))
  rm -rf "$work/killed"
done
echo "ranks: $killed SIGKILLs of one of $ranks in $runs runs: all gone after $longest s at most, every folder equal byte for byte"

longest=0
for ((i = 0; i < stops; ++i)); do
  rm -rf "$work/stopped"
  start stopped
  until grep -q '"loss"' "$work"/stopped/results/seed*/*/metrics.jsonl 2>/dev/null; do
    kill -0 $launched 2>/dev/null || fail "a run that nobody stopped ended"
    sleep 0.05
  done
  mapfile -t all < <(ranks_of $launched)
  rank=$((i % ranks))
  kill -STOP "${all[rank]}"
  begin=$(now)
  ends $launched || { kill -9 "${all[@]}" $launched 2>/dev/null; fail "rank $rank was stopped and the others wait for it still"; }
  took=$(since "$begin")
  ! wait $launched || fail "rank $rank was stopped and all is said to be well"
  grep -q "rank $rank on [^ ]* has not answered" "$work/said" || fail "rank $rank was stopped and is not named"
  longest=$(awk -v a="$longest" -v b="$took" 'BEGIN { print (a > b ? a : b) }')
done
echo "ranks: $stops of $ranks stopped (SIGSTOP): named by the others, all gone after $longest s at most, with --rank-timeout 6"
