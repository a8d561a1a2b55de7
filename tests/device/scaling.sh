#!/usr/bin/env bash
# The scaling figures of one host's GPUs, on as many of them as there are of 1, 2, 4, 8, from a folder of programs
# (tests/device/pack.sh): weak scaling of four workloads with PyTorch beside it and the cost model's figure, the bits of exact sums on
# every number of GPUs, and the ablation spread over them. One command:
#   tests/device/scaling.sh [FOLDER [.device/bundle] [SECONDS [540]]]
# What does not begin within SECONDS is skipped by name, and what fails stops nothing. Environment: CUDA_VISIBLE_DEVICES; PYTHON, which
# has PyTorch; ABLATION: flags of its run_all. DEVICE=cpu tries it with threads for GPUs, and processes of MPI for exact sums and runs.
set -uo pipefail
cd "$(dirname "$0")/../.."
bundle=$(realpath "${1:-.device/bundle}") seconds=${2:-540} device=${DEVICE:-cuda} python=${PYTHON:-python3}
if [ "$device" = cpu ]; then gpus=(0 1 2 3); else
  IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd,)}"
fi
counts=()
for n in 1 2 4 8; do [ "$n" -le ${#gpus[@]} ] && counts+=("$n"); done
. tests/device/several_gpus.sh
most=120

# COUNT NAME COMMAND…: with so many of the GPUs.
on() {
  local n=$1
  shift
  CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${gpus[*]:0:n}") check "$@"
}
many=(--experts 64 --config softmax-moe)
for n in "${counts[@]:1}"; do
  check "$n ranks: masked LM" scaling "masked LM, dense" "$n" --pretraining "${pretraining[@]}" --config dense --synthetic-rows 20000
  check "$n ranks: AHR" scaling "AHR, 8 experts" "$n" "${paper[@]}" --config astrocyte-hierarchical
  check "$n ranks: 64 experts" scaling "64 experts" "$n" "${paper[@]}" "${many[@]}"
  for how in --shard-optimiser "--expert-parallel=$n"; do
    check "$n ranks: 64 experts $how" scaling "64 experts $how" "$n" "${paper[@]}" "${many[@]}" "$how"
  done
  check "$n ranks: AHR --expert-parallel=$n" scaling "AHR --expert-parallel=$n" "$n" "${paper[@]}" --config astrocyte-hierarchical \
    "--expert-parallel=$n"
  check "$n ranks: PyTorch DDP" peer "PyTorch DDP" "$n" --workloads pretraining,ahr
done

# Processes of a CPU, or the GPUs that are to be seen.
launched() {
  local n=$1
  shift
  if [ "$device" = cpu ]; then
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 run mpirun --oversubscribe --bind-to none -n "$n" "$@"
  else run "$@"; fi
}
exact() {
  launched "$1" "$bundle/train" "${data[@]}" "${size[@]}" --config astrocyte-hierarchical --reduction exact --synthetic-rows 2000 \
    --synthetic-test-rows 400 --vocab-size 2000 --batch "$batch" --max-steps 8 --log-every 4 --eval-every 8 --seeds 1 --progress off \
    --no-estimate --no-report --fresh --out "$out/exact$1"
}
for n in "${counts[@]}"; do
  on "$n" "exact sums on $n" exact "$n"
  [ "$n" = 1 ] || check "exact sums on $n: the bytes of one" same "exact$n" exact1 astrocyte-hierarchical
done

if [ "$device" = cpu ]; then
  ablation=(--configs dense,softmax-moe --seeds 2 --synthetic-rows 400 --synthetic-test-rows 100 --vocab-size 500 --epochs 1 "${size[@]}")
else
  ablation=(--preset paper --configs all --seeds 5 --epochs 3 --lr 1e-4)
fi
read -ra ablation <<<"${ABLATION:-${ablation[*]}}"
spread() {
  local begin=$SECONDS
  launched "$1" "$bundle/run_all" "${data[@]}" "${ablation[@]}" --progress off --no-estimate --no-report --out "$out/ablation$1" &&
    echo "ablation on $1: $((SECONDS - begin)) s" >>"$out/ablation.txt"
}
most=$seconds
for n in $(printf '%s\n' "${counts[@]}" | sort -rn); do
  on "$n" "ablation on $n" spread "$n"
  # config.json and summary.json have the command, which names the folder.
  [ "$n" = "${counts[-1]}" ] || check "ablation on $n: the bytes of ${counts[-1]}" \
    diff -r -x timing.json -x .locks -I '"command": ' "$out/ablation$n" "$out/ablation${counts[-1]}"
done
table
cat "$out/ablation.txt" 2>/dev/null
echo "$failures failed, $SECONDS s"
exit $((failures > 0))
