// GLIA_HD marks a function that both compilers compile: g++ for the CPU, nvcc for CPU and GPU.
#pragma once

#ifdef __CUDACC__
#define GLIA_HD __host__ __device__ __forceinline__
#else
#define GLIA_HD inline
#endif
