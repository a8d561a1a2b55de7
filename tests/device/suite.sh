#!/usr/bin/env bash
# The GPU suite in parts side by side, on all cards of a machine: what one process works through in five minutes takes one.
#   tests/device/suite.sh RUN_TESTS OUT [PARTS, 48] [AT_ONCE, 12]        from the repository's root (tests read their fixtures from it)
# With kernels `auto` and `portable`. OUT/KERNELS-PART.log says what a part printed; the last line adds all up. EXCLUDE leaves cases out (a doctest filter).
set -uo pipefail
tests=${1:?usage: tests/device/suite.sh RUN_TESTS OUT [PARTS] [AT_ONCE]} out=${2:?OUT} parts=${3:-48} at_once=${4:-12}
mkdir -p "$out"
rm -f "$out"/*-*.log
filter=()
[ -z "${EXCLUDE:-}" ] || filter=(-tce="$EXCLUDE")
cases=$("$tests" --count --no-skip=false "${filter[@]}" | sed -nE 's/.*: ([0-9]+)$/\1/p' | tail -n 1)
cards=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | wc -l)
[ "$cards" -gt 0 ] || cards=1
part() {
  local kernels=$1 number=$2 first=$((cases * $2 / parts + 1)) last=$((cases * ($2 + 1) / parts))
  [ "$last" -ge "$first" ] || return 0
  CUDA_VISIBLE_DEVICES=$((number % cards)) GLIA_KERNELS=$kernels GLIA_TEST_DEVICE=${GLIA_TEST_DEVICE:-cuda} OMP_NUM_THREADS=2 \
    "$tests" -d -f="$first" -l="$last" "${filter[@]}" >"$out/$kernels-$number.log" 2>&1
  echo "rc $?" >>"$out/$kernels-$number.log"
}
export -f part
export tests out parts cases cards
declare -p filter >"$out/filter.sh"
for kernels in auto portable; do
  for number in $(seq 0 $((parts - 1))); do echo "$kernels $number"; done
done | xargs -P "$at_once" -L 1 bash -c '. "$out/filter.sh"; part "$0" "$1"'
bad=0
for kernels in auto portable; do
  read -r passed failed whole <<<"$(cat "$out/$kernels"-*.log | awk '/^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ { passed += $1; failed += $3; whole++ }
    END { print passed + 0, failed + 0, whole + 0 }')"
  echo "$kernels: $passed passed, $failed failed; $whole of $(ls "$out/$kernels"-*.log | wc -l) parts ended"
  [ "$failed" = 0 ] && [ "$whole" = "$(ls "$out/$kernels"-*.log | wc -l)" ] || bad=1
done
exit $bad
