// The plain grouped products on CUDA cores: a block adds a tile of 128 × 128 of one group, in registers, over the
// whole depth in its order. No tensor cores: float32 stays float32, and every size and type has a kernel.
#include "engine/device/cuda/launch.cuh"
#include "engine/ops/products/grouped_linear_kernels.h"

namespace glia::cuda {
namespace {

constexpr int kTile = 128, kSteps = 8, kPad = 4;  // kThreads = 256: 8 × 8 results each, in four 4 × 4 blocks

enum class Product { kForward, kDataGradient, kWeightGradient };

// One operand of a block's tile: element (i, k) of it is at from[i · step_i + k · step_k], one of the steps is 1.
template <class T> struct Operand {
  const T* from;
  int64_t step;  // the one that is not 1
  int limit;     // of i; beyond it, and beyond the depth, zeros
};

// 128 × kSteps of an operand between device and shared memory, W elements at a time along the contiguous direction.
template <class T, int W, bool kDepthContiguous> struct Slice {
  using A = Accumulator<T>;
  static constexpr int kPasses = kTile * kSteps / (kThreads * W);
  Pack<T, W> held[kPasses];

  __device__ static void place(int pass, int& i, int& k) {
    const int at = pass * kThreads + static_cast<int>(threadIdx.x);
    if constexpr (kDepthContiguous) i = at / (kSteps / W), k = at % (kSteps / W) * W;
    else k = at / (kTile / W), i = at % (kTile / W) * W;
  }
  __device__ void load(const Operand<T>& o, int depth_at, int depth) {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      int i, k;
      place(pass, i, k);
      k += depth_at;
      held[pass] = {};
      if (i >= o.limit || k >= depth) continue;
      const T* at = kDepthContiguous ? o.from + i * o.step + k : o.from + k * o.step + i;
      held[pass] = *reinterpret_cast<const Pack<T, W>*>(at);
    }
  }
  __device__ void store(A (&to)[kSteps][kTile + kPad]) const {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      int i, k;
      place(pass, i, k);
#pragma unroll
      for (int j = 0; j < W; ++j)
        (kDepthContiguous ? to[k + j][i] : to[k][i + j]) = static_cast<A>(held[pass].v[j]);
    }
  }
};

// The part of a group that a row tile covers. Tiles are counted group by group, then over the rows behind the last
// group (group = E). All lanes of a warp together.
struct RowTile {
  int group, begin, end;
};
__device__ RowTile find_rows(const GroupedShape& s, int tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32, groups = static_cast<int>(s.groups);
  for (int first = 0; first < groups; first += 32) {
    const int g = first + lane;
    const int begin = g < groups ? s.offsets[g] : 0, end = g < groups ? s.offsets[g + 1] : 0;
    int tiles = (end - begin + kTile - 1) / kTile, upto = tiles;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, upto, step);
      if (lane >= step) upto += before;
    }
    const unsigned holds = __ballot_sync(0xffffffffu, tile < upto);
    if (holds != 0) {
      const int who = __ffs(holds) - 1;
      const int at = __shfl_sync(0xffffffffu, begin + (tile - upto + tiles) * kTile, who);
      return {first + who, at, min(at + kTile, __shfl_sync(0xffffffffu, end, who))};
    }
    tile -= __shfl_sync(0xffffffffu, upto, 31);
  }
  const int at = s.offsets[groups] + tile * kTile, rows = static_cast<int>(s.rows);
  return {groups, at, min(at + kTile, rows)};
}

template <class T, class C> struct Arguments {
  GroupedShape s;
  const T *a, *b, *bias;  // forward x, w; data gradient dy, w; weight gradient dy, x
  C* out;
};

// Grid: (column tiles, row tiles) or, for a weight gradient, (column tiles I, row tiles O, groups).
template <Product product, int W, class T, class C>
__global__ void __launch_bounds__(kThreads, W > 1 ? 2 : 1) grouped_kernel(Arguments<T, C> p) {
  using A = Accumulator<T>;
  constexpr bool kForward = product == Product::kForward, kWeight = product == Product::kWeightGradient;
  const int outputs = static_cast<int>(p.s.outputs), inputs = static_cast<int>(p.s.inputs);
  const int column = static_cast<int>(blockIdx.x) * kTile, width = kForward ? outputs : inputs;
  int depth, rows;
  int64_t group_size = static_cast<int64_t>(outputs) * inputs;
  Operand<T> a, b;
  C* out;
  const T* bias = nullptr;
  if constexpr (kWeight) {
    const int group = static_cast<int>(blockIdx.z), row = static_cast<int>(blockIdx.y) * kTile;
    const int64_t begin = p.s.offsets[group];
    depth = static_cast<int>(p.s.offsets[group + 1] - begin);
    rows = min(kTile, outputs - row);
    a = {p.a + begin * outputs + row, outputs, rows};
    b = {p.b + begin * inputs + column, inputs, inputs - column};
    out = p.out + group * group_size + static_cast<int64_t>(row) * inputs + column;
  } else {
    const RowTile tile = find_rows(p.s, static_cast<int>(blockIdx.y));
    rows = tile.end - tile.begin;
    if (rows <= 0) return;
    // Rows behind the last group: a depth of 0, no bias.
    const bool tail = tile.group == p.s.groups;
    const int64_t group = tail ? 0 : tile.group;
    depth = tail ? 0 : kForward ? inputs : outputs;
    a = {p.a + static_cast<int64_t>(tile.begin) * (kForward ? inputs : outputs), kForward ? inputs : outputs, rows};
    if constexpr (kForward)
      b = {p.b + group * group_size + static_cast<int64_t>(column) * inputs, inputs, width - column};
    else b = {p.b + group * group_size + column, inputs, width - column};
    out = p.out + static_cast<int64_t>(tile.begin) * width + column;
    if (p.bias && !tail) bias = p.bias + group * outputs + column;
  }

  __shared__ __align__(16) A sa[2][kSteps][kTile + kPad], sb[2][kSteps][kTile + kPad];
  Slice<T, W, !kWeight> slice_a;
  Slice<T, W, kForward> slice_b;
  const int ti = static_cast<int>(threadIdx.x) / 16 * 4, tj = static_cast<int>(threadIdx.x) % 16 * 4;
  A acc[8][8] = {};
  slice_a.load(a, 0, depth);
  slice_b.load(b, 0, depth);
  slice_a.store(sa[0]);
  slice_b.store(sb[0]);
  __syncthreads();
  for (int k = 0, slot = 0; k < depth; k += kSteps, slot ^= 1) {
    const bool more = k + kSteps < depth;
    if (more) {
      slice_a.load(a, k + kSteps, depth);
      slice_b.load(b, k + kSteps, depth);
    }
#pragma unroll
    for (int d = 0; d < kSteps; ++d) {
      A x[8], y[8];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        x[i] = sa[slot][d][ti + i % 4 + i / 4 * 64], y[i] = sb[slot][d][tj + i % 4 + i / 4 * 64];
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) acc[i][j] += x[i] * y[j];
    }
    if (more) {
      slice_a.store(sa[slot ^ 1]);
      slice_b.store(sb[slot ^ 1]);
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int r = ti + i % 4 + i / 4 * 64;
    if (r >= rows) continue;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int c = tj + j % 4 + j / 4 * 64;
      if (column + c >= width) continue;
      const A v = bias ? acc[i][j] + static_cast<A>(bias[c]) : acc[i][j];
      out[static_cast<int64_t>(r) * width + c] = static_cast<C>(v);
    }
  }
}

template <Product product, class T, class C> void run(const char* name, const Arguments<T, C>& p, Stream stream) {
  const GroupedShape& s = p.s;
  const auto tiles = [](int64_t n) { return static_cast<unsigned>((n + kTile - 1) / kTile); };
  const bool weight = product == Product::kWeightGradient, forward = product == Product::kForward;
  // Every group may end in a tile of its own, and so may the rows behind the last one.
  const dim3 grid =
      weight ? dim3(tiles(s.inputs), tiles(s.outputs), static_cast<unsigned>(s.groups))
             : dim3(tiles(forward ? s.outputs : s.inputs), static_cast<unsigned>(s.rows / kTile + s.groups + 1));
  const auto launch_wide = [&](auto wide) {
    launch(name, grouped_kernel<product, decltype(wide)::value, T, C>, {grid, kThreads}, stream, p);
  };
  // Both matrices have rows of I or O elements. Only float is worth the wide kernel: the step's path in float32.
  if constexpr (std::is_same_v<T, float>) {
    if (s.inputs % 4 == 0 && s.outputs % 4 == 0 && aligned16(p.a, p.b))
      return launch_wide(std::integral_constant<int, 4>{});
  }
  launch_wide(std::integral_constant<int, 1>{});
}

}  // namespace

template <class T>
void grouped_forward(const GroupedShape& s, const T* x, const T* w, const T* bias, T* y, Stream stream) {
  if (s.rows > 0) run<Product::kForward, T, T>("grouped_linear", {s, x, w, bias, y}, stream);
}

template <class T>
void grouped_data_gradient(const GroupedShape& s, const T* dy, const T* w, T* dx, Stream stream) {
  if (s.rows > 0) run<Product::kDataGradient, T, T>("grouped_linear/dx", {s, dy, w, nullptr, dx}, stream);
}

template <class T, class C>
void grouped_weight_gradient(const GroupedShape& s, const T* dy, const T* x, C* dw, Stream stream) {
  run<Product::kWeightGradient, T, C>("grouped_linear/dw", {s, dy, x, nullptr, dw}, stream);
}

__global__ void __launch_bounds__(kThreads)
    clear_kernel(const int32_t* end, int64_t rows, int64_t packs, uint4* m) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = *end * packs + blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < rows * packs;
       i += stride)
    m[i] = make_uint4(0, 0, 0, 0);
}

// How many rows that are only the device knows: the groups' ends are rounded up to tiles, so they are few.
void clear_behind_groups(const GroupedShape& s, int64_t columns, void* m, Stream stream) {
  if (s.rows > 0)
    launch("grouped_linear/behind", clear_kernel, {264, kThreads}, stream, s.offsets + s.groups, s.rows,
           columns / 8, static_cast<uint4*>(m));
}

#define GLIA_GROUPED(T)                                                                         \
  template void grouped_forward(const GroupedShape&, const T*, const T*, const T*, T*, Stream); \
  template void grouped_data_gradient(const GroupedShape&, const T*, const T*, T*, Stream);     \
  template void grouped_weight_gradient(const GroupedShape&, const T*, const T*, T*, Stream);
GLIA_GROUPED(float)
GLIA_GROUPED(double)
GLIA_GROUPED(bfloat16)
template void grouped_weight_gradient(const GroupedShape&, const bfloat16*, const bfloat16*, float*, Stream);
#undef GLIA_GROUPED

}  // namespace glia::cuda
