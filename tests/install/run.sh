#!/usr/bin/env bash
# Installs the library under a prefix of its own, builds docs/examples against the installed copy (and nothing of this
# checkout), and runs them.
#   tests/install/run.sh [make variables, such as CUDA=0]
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
make "$@" install PREFIX="$work/prefix" >/dev/null
cp docs/examples/*.cpp "$work"
awk 'BEGIN { srand(3); for (i = 0; i < 400; ++i) { x = rand() * 2 - 1; y = rand() * 2 - 1; print x "," y "," (x * y > 0) } }' >"$work/points.csv"
cd "$work"
export PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig
for program in *.cpp; do
  # shellcheck disable=SC2046
  ${CXX:-g++} -O1 "$program" $(pkg-config --cflags --libs glia) -o "${program%.cpp}"
done
./gradient >/dev/null || { echo "install: gradient did not find its weights"; exit 1; }
./two_layers points.csv >/dev/null || { echo "install: two_layers learned less than nine in ten"; exit 1; }
if ./two_layers missing.csv 2>message; then echo "install: a missing file was not an error"; exit 1; fi
grep -q missing.csv message || { echo "install: the error does not name the file: $(cat message)"; exit 1; }
for bad in '' '1,x,0' '1,2abc,0' '1,2,0\n1,0' '7' '1,2,-1' '1,2,0.5' '1,2,1e30'; do
  printf "$bad" >bad.csv
  if ./two_layers bad.csv >/dev/null 2>message; then echo "install: '$bad' was not an error"; exit 1; fi
  grep -q 'bad.csv.*expected' message || { echo "install: no error names the place in '$bad': $(cat message)"; exit 1; }
done
if [ -e own_router ]; then ./own_router >/dev/null || { echo "install: own_router failed"; exit 1; }; fi
echo "install: $(ls ./*.cpp | wc -l) examples built against the installed copy and run"
