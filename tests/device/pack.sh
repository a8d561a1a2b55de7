#!/usr/bin/env bash
# Packs what a GPU machine without Debian packages needs to run Glia: the programs (CUDA for sm_90a only, without oneDNN,
# stripped) and the shared libraries they name, into .device/bundle (git-ignored). Run there:
#   export LD_LIBRARY_PATH=$PWD/.device/bundle/lib:/usr/local/cuda/lib64; .device/bundle/run_tests
set -eu
cd "$(dirname "$0")/../.."
bundle=.device/bundle
make -j"$(nproc)" ONEDNN="${ONEDNN:-0}" CUDA_ARCHS=90a BUILD=build/device all build/device/run_tests
rm -rf $bundle && mkdir -p $bundle/lib
programs="build/device/run_tests $(git ls-files 'tools/*.cpp' 'experiments/*.cpp' | xargs grep -lE '^int main\b' | sed 's/\.cpp$//')"
for p in $programs; do strip -o "$bundle/$(basename "$p")" "$p"; done
cp build/device/libglia.so $bundle/lib/
[ ! -e build/device/libglia_mpi.so ] || cp build/device/libglia_mpi.so $bundle/lib/  # its MPI is the machine's
# The GPU machine has glibc, libstdc++, OpenMP and CUDA; the rest travels.
for p in $bundle/run_tests $bundle/run_all; do [ -e "$p" ] && LD_LIBRARY_PATH=$bundle/lib ldd "$p"; done | awk '$3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libglia|libc|libm|libpthread|libdl|librt|libstdc\+\+|libgcc_s|libgomp|libcu[a-zA-Z]*|libnv[a-zA-Z]*)\.so' |
  xargs -I{} cp -L {} $bundle/lib/
du -sh $bundle
