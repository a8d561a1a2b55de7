// The shapes that the GEMM harness checks and times, and GELU's slopes as the kernels store them.
#pragma once
#include "tests/device/gemm_harness_util.cuh"

namespace {

struct Shape {
  const char* name;
  std::vector<int> counts;  // real rows a group; empty vector: dense
  int dense_rows, outputs, inputs;
};

const std::vector<int> kUsual = {2511, 2600, 2430, 2700, 2380, 2560, 2640, 2659};  // 20,480 rows, 20,864 padded
const std::vector<int> kDead = {3011, 2900, 0, 2830, 2700, 2980, 3000, 2859};  // 20,280 rows, an expert without any
const std::vector<int> kLarge = {8111, 2600, 1030, 1700,
                                 1380, 1960, 2000, 1499};       // 20,280 rows, 40 % with one expert
const std::vector<int> kFew = {60, 48, 0, 61, 30, 70, 65, 50};  // 384 rows: CLS tokens only

std::vector<Shape> check_shapes() {
  std::vector<int> many;
  for (int i = 0; i < 128; ++i) many.push_back(static_cast<int>(mix(i + 5) % 200) * (i % 5 != 0));
  std::vector<int> more = many;
  more.insert(more.end(), many.begin(), many.end());
  more.resize(200);
  return {{"experts up", kUsual, 0, 2048, 512},
          {"experts down", kUsual, 0, 512, 2048},
          {"experts up, one dead", kDead, 0, 2048, 512},
          {"experts down, one large", kLarge, 0, 512, 2048},
          {"experts up, few rows", kFew, 0, 2048, 512},
          {"experts down, few rows", kFew, 0, 512, 2048},
          {"odd, empty and 1-row groups", {0, 1, 300, 0, 128, 129, 700, 0}, 0, 200, 136},
          {"all rows in one group", {0, 0, 1000, 0}, 0, 264, 72},
          {"no rows at all", {0, 0, 0, 0}, 0, 136, 136},
          {"128 groups", many, 0, 128, 64},
          {"200 groups", more, 0, 128, 64},
          {"dense 1000 rows", {}, 1000, 520, 1032},
          {"dense 10000 rows", {}, 10000, 392, 328},
          {"dense 8 × 8 × 8", {}, 8, 8, 8}};
}
std::vector<Shape> time_shapes() {
  return {{"experts 512->2048", kUsual, 0, 2048, 512}, {"experts 2048->512", kUsual, 0, 512, 2048},
          {"one dead 512->2048", kDead, 0, 2048, 512}, {"one dead 2048->512", kDead, 0, 512, 2048},
          {"large 512->2048", kLarge, 0, 2048, 512},   {"large 2048->512", kLarge, 0, 512, 2048},
          {"few 512->2048", kFew, 0, 2048, 512},       {"few 2048->512", kFew, 0, 512, 2048},
          {"dense 512->1536", {}, 10240, 1536, 512},   {"dense 512->512", {}, 10240, 512, 512},
          {"dense 512->2048", {}, 10240, 2048, 512},   {"dense 2048->512", {}, 10240, 512, 2048},
          {"wide 1024->4096", kUsual, 0, 4096, 1024},  {"wide 4096->1024", kUsual, 0, 1024, 4096}};
}

// GELU's slopes of a [rows, columns] matrix, to and from the 16 bits and the order that the kernels use: tiles of
// 128 × 128; in a tile chunks of 16 × 64; in a chunk 8 accumulators of lane 0, of lane 1, …, then the next 8.
__host__ __device__ size_t slope_at(size_t row, size_t column, size_t columns) {
  const size_t tile = row / 128 * ((columns + 127) / 128) + column / 128, r = row % 128, c = column % 128;
  const size_t chunk = r / 16 * 2 + c / 64, lane = r % 8 * 4 + c % 8 / 2,
               value = c % 64 / 8 * 4 + r % 16 / 8 * 2 + c % 2;
  return ((tile * 16 + chunk) * 4 + value / 8) * 256 + lane * 8 + value % 8;
}
constexpr double kScale = 32768, kZero = 8192;
// value: pre, then the slope that its 16 bits stand for.
__global__ void encode_kernel(float* value, uint16_t* slopes, size_t rows, size_t columns) {
  for (size_t i = blockIdx.x * 256ull + threadIdx.x; i < rows * columns; i += gridDim.x * 256ull) {
    const double code = rint(kZero + kScale * gelu_derivative_of(value[i]));
    slopes[slope_at(i / columns, i % columns, columns)] = static_cast<uint16_t>(code);
    value[i] = static_cast<float>((code - kZero) / kScale);
  }
}
// Largest distance of a stored slope from that of pre, in units of 1e-6.
__global__ void slope_error_kernel(const double* pre, const uint16_t* slopes, size_t rows, size_t columns,
                                   int* worst) {
  for (size_t i = blockIdx.x * 256ull + threadIdx.x; i < rows * columns; i += gridDim.x * 256ull) {
    const double stored = (slopes[slope_at(i / columns, i % columns, columns)] - kZero) / kScale;
    atomicMax(worst, static_cast<int>(fabs(stored - gelu_derivative_of(pre[i])) * 1e6));
  }
}

}  // namespace
