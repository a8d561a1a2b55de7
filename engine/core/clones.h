// GLIA_CLONES in front of a function: it is compiled a second time for CPUs with AVX-512, and the loader takes the
// version that fits the machine. A build for plain x86-64-v3 then runs everywhere and computes exponentials twice
// as fast where it can. For leaf functions with the hot loop: what they call must be inlined to profit. Not under TSan: the
// loader chooses before TSan's runtime is there, which the choosing function would call; nor by g++ 11, which cannot choose by level.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && __GNUC__ >= 12 && !defined(__clang__) && !defined(__CUDACC__) && \
    !defined(__AVX512F__) && !defined(__SANITIZE_THREAD__)
#define GLIA_CLONES __attribute__((target_clones("arch=x86-64-v4", "default")))
#else
#define GLIA_CLONES
#endif
