#!/usr/bin/env bash
# Fails on an #include "…" that points from a lower room to a higher one (the picture is in README.md),
# on a CUDA header outside .cu/.cuh files and engine/device/cuda/, and on a kernel of the engine that is not launched by
# launch() (engine/device/cuda/launch.cuh), on a device chosen at compile time outside the engine, and on a test that names a router.
set -u
cd "$(dirname "$0")/.."
bad=0
complain() { echo "check-layers: $1"; bad=1; }

# room of a path → the rooms it may include
allowed() {
  case "$1" in
    engine/core/*)    echo 'engine/core/' ;;
    engine/device/*)  echo 'engine/core/|engine/device/' ;;
    engine/comm/*)    echo 'engine/core/|engine/device/|engine/comm/' ;;
    engine/ops/*)     echo 'engine/core/|engine/device/|engine/ops/|engine/[a-z_]*\.h' ;;
    engine/*)         echo 'engine/core/|engine/device/|engine/[a-z_]*\.h' ;;
    nn/*)             echo 'engine/|nn/' ;;
    moe/*)            echo 'engine/|nn/|moe/' ;;
    data/text/*)      echo 'engine/core/|data/text/' ;;
    data/tokens/*)    echo 'engine/core/|data/(text|tokens)/' ;;
    data/datasets/*)  echo 'engine/core/|data/(text|tokens|datasets)/' ;;
    data/*)           echo 'engine/core/|data/' ;;
    experiments/report/*) echo 'engine/|nn/|moe/|data/|experiments/(records|report)/' ;;
    experiments/tasks/*)  echo 'engine/|nn/|moe/|data/|experiments/(records|tasks)/' ;;
    experiments/*)    echo 'engine/|nn/|moe/|data/|experiments/' ;;
    tools/*)          echo 'engine/|nn/|moe/|data/|experiments/|tools/|tests/cases/' ;;
    tests/*)          echo '' ;;
  esac
}
while IFS= read -r file; do
  rooms=$(allowed "$file")
  [ -n "$rooms" ] && while IFS=: read -r line text; do
    target=$(sed -E 's/.*#include "([^"]+)".*/\1/' <<<"$text")
    grep -qE "^($rooms)" <<<"$target" || complain "$file:$line includes $target"
  done < <(grep -nE '^ *#include "' "$file")
  case "$file" in
    *.cu|*.cuh|engine/device/cuda/*) ;;
    *) while IFS=: read -r line text; do complain "$file:$line includes a CUDA header: $text"; done \
         < <(grep -nE '^ *#include <(cuda|cublas|curand|nccl|cub/|mma)' "$file") ;;
  esac
done < <(git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh')
while IFS=: read -r file line text; do complain "$file:$line launches with <<<>>>; use launch(): $text"; done \
  < <(git grep -n --untracked -E '^[^/]*<<<' -- 'engine/*.cu' 'engine/*.cuh')
while IFS=: read -r file line text; do complain "$file:$line chooses a device at compile time; ask the backend: $text"; done \
  < <(git grep -n --untracked -E '^ *#(el)?if.*GLIA_CUDA' -- nn moe data experiments tools tests)
# A test walks the registry or asks it for a router that has what it needs (tests/nn/helpers.h); what single routers do is
# tests/moe/routers'. Names of a study's configurations are data.
while IFS=: read -r file line text; do complain "$file:$line names a router; ask the registry: $text"; done \
  < <(git grep -n --untracked -E '((tiny|task)_config|make_router|router_row|Bench [a-z]+|moe\.router( =)?)[( ]"[a-z]' -- tests \
        ':!tests/moe/routers' ':!tests/peer' | grep -v '"none"')
[ $bad = 0 ] && echo "check-layers: every include points downwards"
exit $bad
