// The MoE path on CUDA, behind the router's logits. Nothing here waits for the host or adds with float atomics.
#include "engine/ops/moe/moe_functors.h"
#include "engine/ops/moe/moe_kernels.h"
#include "engine/ops/rows/packs.cuh"

namespace glia::cuda {
namespace {

constexpr int kWarps = kThreads / 32;

int warp_grid(int64_t items) { return static_cast<int>(std::max<int64_t>(1, (items + kWarps - 1) / kWarps)); }

// More experts than this are looked through by a warp a token: a thread a token would read rows far apart.
constexpr int64_t kExpertsOfThread = 16;

// choose_and_gate() by a warp, of which each lane looks at every 32nd expert: the same choices and gates, bit for bit.
template <class A>
__global__ void __launch_bounds__(kThreads)
    top_k_gates_kernel(const A* __restrict__ logits, const int32_t* __restrict__ sequence_of, int64_t tokens,
                       int64_t experts, int64_t k, A* __restrict__ gates, int32_t* __restrict__ chosen) {
  const int lane = threadIdx.x % 32;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= tokens) return;
  const bool real = sequence_of[t] >= 0;
  const A* row = logits + t * experts;
  A total = 0, first = 0;
  int32_t last = -1;
  for (int64_t i = 0; i < k; ++i) {
    int32_t best = -1;
    A most = 0;
    const A before = last >= 0 ? row[last] : A(0);
    const auto offer = [&](A value, int32_t e) {  // in the order "larger, then lower index"
      if (e >= 0 && (best < 0 || value > most || (value == most && e < best))) best = e, most = value;
    };
    for (int64_t e = lane; real && e < experts; e += 32) {
      const A value = row[e];
      const bool taken = last >= 0 && (value > before || (value == before && e <= last));
      offer(value, taken ? -1 : static_cast<int32_t>(e));
    }
#pragma unroll
    for (int other = 16; other > 0; other /= 2) {
      const A value = __shfl_xor_sync(0xffffffffu, most, other);
      offer(value, __shfl_xor_sync(0xffffffffu, best, other));
    }
    // The lanes may differ where values compare with nothing (NaN); stay in range whatever comes.
    best = __shfl_sync(0xffffffffu, best, 0);
    last = best < 0 ? static_cast<int32_t>(i) : best;
    const A value = real ? row[last] : A(0);
    if (i == 0) first = value;
    const A gate = exp(value - first);
    total += gate;
    if (lane == 0) gates[t * k + i] = real ? gate : A(0), chosen[t * k + i] = real ? last : -1;
  }
  if (lane == 0 && real)
    for (int64_t i = t * k; i < (t + 1) * k; ++i) gates[i] /= total;
}

// A warp a token: dlogits leaves in whole rows.
template <class A>
__global__ void __launch_bounds__(kThreads)
    top_k_gates_gradient_kernel(const A* __restrict__ gates, const int32_t* __restrict__ chosen,
                                const A* __restrict__ dgates, int64_t tokens, int64_t experts, int64_t k,
                                A* __restrict__ dlogits) {
  const int lane = threadIdx.x % 32;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= tokens) return;
  const A *g = gates + t * k, *d = dgates + t * k;
  A inner = 0;
  for (int64_t i = 0; i < k; ++i) inner += g[i] * d[i];
  for (int64_t e = lane; e < experts; e += 32) {
    A to = 0;
    for (int64_t i = 0; i < k; ++i)
      if (chosen[t * k + i] == e) to = g[i] * (d[i] - inner);
    dlogits[t * experts + e] = to;
  }
}

}  // namespace

template <class A>
void top_k_gates(const A* logits, const int32_t* sequence_of, int64_t tokens, int64_t experts, int64_t k, A* gates,
                 int32_t* chosen, Stream stream) {
  if (experts > kExpertsOfThread && tokens > 0)
    return launch("top_k_gates", top_k_gates_kernel<A>, {warp_grid(tokens), kThreads}, stream, logits, sequence_of,
                  tokens, experts, k, gates, chosen);
  for_each("top_k_gates", tokens, stream, [=] __device__(int64_t t) {
    if (sequence_of[t] >= 0) {
      choose_and_gate(logits + t * experts, experts, k, gates + t * k, chosen + t * k);
    } else {
      for (int64_t i = t * k; i < (t + 1) * k; ++i) gates[i] = 0, chosen[i] = -1;
    }
  });
}

template <class A>
void top_k_gates_gradient(const A* gates, const int32_t* chosen, const A* dgates, int64_t tokens, int64_t experts,
                          int64_t k, A* dlogits, Stream stream) {
  if (experts > kExpertsOfThread && tokens > 0)
    return launch("top_k_gates/gradient", top_k_gates_gradient_kernel<A>, {warp_grid(tokens), kThreads}, stream,
                  gates, chosen, dgates, tokens, experts, k, dlogits);
  for_each("top_k_gates/gradient", tokens, stream, [=] __device__(int64_t t) {
    const A *g = gates + t * k, *d = dgates + t * k;
    A inner = 0;
    for (int64_t i = 0; i < k; ++i) inner += g[i] * d[i];
    for (int64_t e = 0; e < experts; ++e) dlogits[t * experts + e] = 0;
    for (int64_t i = 0; i < k; ++i)
      if (chosen[t * k + i] >= 0) dlogits[t * experts + chosen[t * k + i]] = g[i] * (d[i] - inner);
  });
}

namespace {

// A stable counting sort in two kernels. First: how many pairs of each chunk go to each expert (integers: shared
// atomics give the same counts in any order); and no row has a pair yet.
__global__ void __launch_bounds__(kDispatchChunk)
    dispatch_count_kernel(const int32_t* chosen, int64_t pairs, int64_t experts, int64_t rows, int32_t* counts,
                          int32_t* pair_of) {
  extern __shared__ int32_t histogram[];
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kDispatchChunk + threadIdx.x; r < rows;
       r += static_cast<int64_t>(gridDim.x) * kDispatchChunk)
    pair_of[r] = -1;
  for (int64_t e = threadIdx.x; e < experts; e += kDispatchChunk) histogram[e] = 0;
  __syncthreads();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kDispatchChunk + threadIdx.x;
  if (i < pairs && chosen[i] >= 0) atomicAdd(&histogram[chosen[i]], 1);
  __syncthreads();
  for (int64_t e = threadIdx.x; e < experts; e += kDispatchChunk) counts[blockIdx.x * experts + e] = histogram[e];
}

// Second: where each pair goes. shared: start[E] of this chunk in each group, then [warps][E] counts.
__global__ void __launch_bounds__(kDispatchChunk)
    dispatch_place_kernel(const int32_t* chosen, int64_t pairs, int64_t experts, int64_t alignment,
                          const int32_t* counts, int64_t rows, int32_t* offsets, int32_t* row_of,
                          int32_t* pair_of) {
  constexpr int kChunkWarps = kDispatchChunk / 32;
  extern __shared__ int32_t shared[];
  int32_t *start = shared, *total = shared + experts, *by_warp = shared + 2 * experts;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t e = warp; e < experts;
       e += kChunkWarps) {  // one warp an expert: counts before this chunk, and of all chunks
    int32_t before = 0, all = 0;
    for (int64_t c = lane; c < gridDim.x; c += 32) {
      const int32_t n = counts[c * experts + e];
      all += n;
      before += c < blockIdx.x ? n : 0;
    }
    before = warp_sum(before), all = warp_sum(all);
    if (lane == 0) start[e] = before, total[e] = all;
  }
  for (int64_t i = threadIdx.x; i < kChunkWarps * experts; i += kDispatchChunk) by_warp[i] = 0;
  __syncthreads();
  if (threadIdx.x == 0) {
    int64_t group = 0;
    for (int64_t e = 0; e < experts; ++e) {
      if (blockIdx.x == 0) offsets[e] = static_cast<int32_t>(group);
      start[e] += static_cast<int32_t>(group);
      group += (total[e] + alignment - 1) / alignment * alignment;
    }
    if (group > rows) __trap();  // more pairs than the capacity that a router promised
    if (blockIdx.x == 0) offsets[experts] = static_cast<int32_t>(group);
  }
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kDispatchChunk + threadIdx.x;
  const int32_t e = i < pairs ? chosen[i] : -1;
  const unsigned same = __match_any_sync(0xffffffffu, e);
  const int rank = __popc(same & ((1u << lane) - 1));
  if (e >= 0 && rank == 0) by_warp[warp * experts + e] = __popc(same);
  __syncthreads();
  if (i >= pairs) return;
  if (e < 0) {
    row_of[i] = -1;
    return;
  }
  int32_t row = start[e] + rank;
  for (int w = 0; w < warp; ++w) row += by_warp[w * experts + e];
  row_of[i] = row;
  pair_of[row] = static_cast<int32_t>(i);
}

}  // namespace

void make_dispatch(const int32_t* chosen, int64_t pairs, int64_t experts, int64_t alignment, int64_t rows,
                   int32_t* counts, int32_t* offsets, int32_t* row_of, int32_t* pair_of, Stream stream) {
  const int blocks = static_cast<int>(std::max<int64_t>(1, (pairs + kDispatchChunk - 1) / kDispatchChunk));
  launch("make_dispatch/count", dispatch_count_kernel, {blocks, kDispatchChunk, experts * sizeof(int32_t)}, stream,
         chosen, pairs, experts, rows, counts, pair_of);
  const size_t shared = (2 + kDispatchChunk / 32) * experts * sizeof(int32_t);
  launch("make_dispatch/place", dispatch_place_kernel, {blocks, kDispatchChunk, shared}, stream, chosen, pairs,
         experts, alignment, counts, rows, offsets, row_of, pair_of);
}

namespace {

// One warp a row.
template <int W, class T>
__global__ void __launch_bounds__(kThreads)
    dispatch_rows_kernel(const T* x, const int32_t* pair_of, int64_t rows, int64_t hidden, int64_t k, T* z) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const int32_t pair = pair_of[r];
  for (int64_t column = threadIdx.x % 32 * W; column < hidden; column += 32 * W) {
    Pack<T, W> p;
    if (pair >= 0) {
      p = *reinterpret_cast<const Pack<T, W>*>(x + pair / k * hidden + column);
    } else {
#pragma unroll
      for (int i = 0; i < W; ++i) p.v[i] = static_cast<T>(0.0f);
    }
    *reinterpret_cast<Pack<T, W>*>(z + r * hidden + column) = p;
  }
}

// One warp a token.
template <int W, class T, class A>
__global__ void __launch_bounds__(kThreads) combine_rows_kernel(const T* z, const A* gates, const int32_t* row_of,
                                                                int64_t tokens, int64_t hidden, int64_t k, T* y) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= tokens) return;
  for (int64_t column = threadIdx.x % 32 * W; column < hidden; column += 32 * W) {
    A sum[W] = {};
    for (int64_t i = t * k; i < (t + 1) * k; ++i) {
      const int32_t row = row_of[i];
      if (row < 0) continue;
      const A gate = gates ? gates[i] : A(1);
      const Pack<T, W> p = *reinterpret_cast<const Pack<T, W>*>(z + row * hidden + column);
#pragma unroll
      for (int j = 0; j < W; ++j) sum[j] += gate * static_cast<A>(p.v[j]);
    }
    Pack<T, W> out;
#pragma unroll
    for (int j = 0; j < W; ++j) out.v[j] = static_cast<T>(sum[j]);
    *reinterpret_cast<Pack<T, W>*>(y + t * hidden + column) = out;
  }
}

// One warp a dispatched row; each pair has one row, so dgates is written without conflict, and pairs that went
// nowhere get 0. partial [⌈rows / kCombineTile⌉, H]: column sums of a block's rows of dz as they were written, or
// nullptr.
template <int W, class T, class A>
__global__ void __launch_bounds__(kCombineTile * 32, sizeof(T) == 2 ? 3 : 2)
    combine_gradient_kernel(const T* __restrict__ z, const A* __restrict__ gates,
                            const int32_t* __restrict__ pair_of, const int32_t* __restrict__ row_of,
                            const T* __restrict__ dy, int64_t rows, int64_t pairs, int64_t hidden, int k,
                            T* __restrict__ dz, A* __restrict__ dgates, A* __restrict__ partial) {
  __shared__ A sums[kCombineTile][32 * W + 1];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kCombineTile + warp;
  if (dgates)
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < pairs;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x)
      if (row_of[i] < 0) dgates[i] = 0;
  const int32_t pair = r < rows ? pair_of[r] : -1;
  const A gate = pair >= 0 ? gates[pair] : A(0);
  A inner = 0;
  for (int64_t begin = 0; begin < hidden; begin += 32 * W) {  // all warps stay: the barrier needs them
    const int64_t column = begin + lane * W;
    Pack<T, W> d, out;
    if (pair >= 0 && column < hidden) {
      d = *reinterpret_cast<const Pack<T, W>*>(dy + pair / k * hidden + column);
      if (dgates) {
        const Pack<T, W> v = *reinterpret_cast<const Pack<T, W>*>(z + r * hidden + column);
#pragma unroll
        for (int j = 0; j < W; ++j) inner += static_cast<A>(d.v[j]) * static_cast<A>(v.v[j]);
      }
    }
#pragma unroll
    for (int j = 0; j < W; ++j)
      out.v[j] = pair >= 0 ? static_cast<T>(gate * static_cast<A>(d.v[j])) : static_cast<T>(0.0f);
    if (dz && r < rows && column < hidden) *reinterpret_cast<Pack<T, W>*>(dz + r * hidden + column) = out;
    if (!partial) continue;
    __syncthreads();  // the columns before may still be read
#pragma unroll
    for (int j = 0; j < W; ++j)
      sums[warp][j * 32 + lane] = static_cast<A>(out.v[j]);  // element j of each lane side by side
    __syncthreads();
    for (int i = threadIdx.x; i < 32 * W; i += kCombineTile * 32) {
      const int64_t to = begin + i % 32 * W + i / 32;
      if (to >= hidden) continue;
      A total = 0;
#pragma unroll
      for (int w = 0; w < kCombineTile; ++w) total += sums[w][i];
      partial[blockIdx.x * hidden + to] = total;
    }
  }
  inner = warp_sum(inner);
  if (dgates && pair >= 0 && lane == 0) dgates[pair] = inner;
}

// sums[e, j] = Σ over group e's tiles of partial; grid (⌈H / 32⌉, E), block (32, 16): y takes every 16th tile, then
// in order.
template <class A>
__global__ void __launch_bounds__(512)
    group_sums_kernel(const A* __restrict__ partial, const int32_t* offsets, int64_t hidden, A* sums) {
  __shared__ A lanes[16][33];
  const int64_t j = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  const int first = offsets[blockIdx.y] / kCombineTile, last = offsets[blockIdx.y + 1] / kCombineTile;
  A sum = 0;
  if (j < hidden) {
#pragma unroll 8
    for (int t = first + static_cast<int>(threadIdx.y); t < last; t += 16) sum += partial[t * hidden + j];
  }
  lanes[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || j >= hidden) return;
  for (int y = 1; y < 16; ++y) sum += lanes[y][threadIdx.x];
  sums[blockIdx.y * hidden + j] = sum;
}

}  // namespace

template <class T>
void dispatch_rows(const T* x, const int32_t* pair_of, int64_t rows, int64_t hidden, int64_t k, T* z,
                   Stream stream) {
  if (rows == 0) return;
  with_pack_width<T>(hidden, [&](auto width) {
    launch("dispatch_rows", dispatch_rows_kernel<decltype(width)::value, T>, {warp_grid(rows), kThreads}, stream, x,
           pair_of, rows, hidden, k, z);
  });
}

template <class T, class A>
void combine_rows(const T* z, const A* gates, const int32_t* row_of, int64_t tokens, int64_t hidden, int64_t k,
                  T* y, Stream stream) {
  if (tokens == 0) return;
  with_pack_width<T>(hidden, [&](auto width) {
    launch("combine_rows", combine_rows_kernel<decltype(width)::value, T, A>, {warp_grid(tokens), kThreads}, stream,
           z, gates, row_of, tokens, hidden, k, y);
  });
}

template <class T, class A>
void combine_rows_gradient(const T* z, const A* gates, const int32_t* pair_of, const int32_t* row_of, const T* dy,
                           int64_t rows, int64_t pairs, int64_t hidden, int64_t k, T* dz, A* dgates, A* partial,
                           Stream stream) {
  if (rows == 0) return;
  with_pack_width<T>(hidden, [&](auto width) {
    launch("combine_rows/gradient", combine_gradient_kernel<decltype(width)::value, T, A>,
           {(rows + kCombineTile - 1) / kCombineTile, kCombineTile * 32}, stream, z, gates, pair_of, row_of, dy,
           rows, pairs, hidden, static_cast<int>(k), dz, dgates, partial);
  });
}

template <class A>
void combine_group_sums(const A* partial, const int32_t* offsets, int64_t experts, int64_t hidden, A* sums,
                        Stream stream) {
  launch("combine_rows/sums", group_sums_kernel<A>, {dim3((hidden + 31) / 32, experts), dim3(32, 16)}, stream,
         partial, offsets, hidden, sums);
}

#define INSTANTIATE(T, A)                                                                                    \
  template void dispatch_rows(const T*, const int32_t*, int64_t, int64_t, int64_t, T*, Stream);              \
  template void combine_rows(const T*, const A*, const int32_t*, int64_t, int64_t, int64_t, T*, Stream);     \
  template void combine_rows_gradient(const T*, const A*, const int32_t*, const int32_t*, const T*, int64_t, \
                                      int64_t, int64_t, int64_t, T*, A*, A*, Stream);
INSTANTIATE(float, float)
INSTANTIATE(double, double)
INSTANTIATE(bfloat16, float)
#undef INSTANTIATE
#define INSTANTIATE(A)                                                                                           \
  template void top_k_gates(const A*, const int32_t*, int64_t, int64_t, int64_t, A*, int32_t*, Stream);          \
  template void top_k_gates_gradient(const A*, const int32_t*, const A*, int64_t, int64_t, int64_t, A*, Stream); \
  template void combine_group_sums(const A*, const int32_t*, int64_t, int64_t, A*, Stream);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace glia::cuda
