#include "engine/device/cuda/launch.cuh"
#include "engine/ops/optimiser/adamw_kernels.h"

namespace glia::cuda {
namespace {

// This thread's share of a chunk; bit 0 of counts(i): whether the elements of the pack at i do. Packs are asked for
// together and without branches, then loaded together: a chunk waits for memory twice, not once a pack.
template <class G, class F>
__device__ double squares(double sum, const G* __restrict__ g, int64_t begin, int64_t end, F counts) {
  constexpr int kWidth = 16 / sizeof(G), kAhead = sizeof(G) == 2 ? 4 : 8;  // packs in flight
  using P = Pack<G, kWidth>;
  for (int64_t at = begin + threadIdx.x * kWidth; at < end; at += kThreads * kWidth * kAhead) {
    uint32_t wanted = 0;
    P x[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int64_t i = at + a * kThreads * kWidth;
      wanted |= (counts(i) & static_cast<uint32_t>(i < end)) << a;
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      x[a] = P{};  // adds nothing
      if (wanted >> a & 1) x[a] = *reinterpret_cast<const P*>(g + at + a * kThreads * kWidth);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a)
#pragma unroll
      for (int k = 0; k < kWidth; ++k)
        sum = fma(static_cast<double>(x[a].v[k]), static_cast<double>(x[a].v[k]), sum);
  }
  return sum;
}

// Blocks take chunks in turns, those of T's gradients spread evenly among the bfloat16 ones: the table's wait for
// memory more than they read, and would leave it idle if all blocks came to them together. The order of the additions
// is fixed by the numbers of block and thread: kNormBlocks is the same on every GPU. The block that ends last adds the
// blocks' sums.
constexpr int kNormBlocks = 132 * 5;

template <class T>
__global__ void __launch_bounds__(kThreads, 5)
    norm_kernel(AdamWOptions o, const uint32_t* step, AdamWGradients<T> g, WaitingRows<T> rows, int low_chunks,
                int chunks) {
  __shared__ double shared[32];
  __shared__ bool last;
  if (blockIdx.x == 0 && threadIdx.x == 0) adamw_corrections(o, *step, g.factors);  // slow: while the others add
  const auto all = [](int64_t) { return 1u; };
  const int64_t table = rows.count * rows.width;
  const auto width = static_cast<uint32_t>(rows.width), last_row = static_cast<uint32_t>(rows.count) - 1;
  const uint32_t stamp = table > 0 ? 2 * *rows.clock + 1 : 0;
  // Of the chunks before the i-th, ⌊i · rest / chunks⌋ = before are of T; carry is the division's remainder.
  const int rest = chunks - low_chunks;
  const int64_t start = int64_t{blockIdx.x} * rest, stride = int64_t{gridDim.x} * rest;
  const int stride_before = static_cast<int>(stride / chunks), stride_carry = static_cast<int>(stride % chunks);
  int before = static_cast<int>(start / chunks), carry = static_cast<int>(start % chunks);
  double sum = 0;
  for (int i = blockIdx.x; i < chunks; i += gridDim.x) {
    const bool low = carry + rest < chunks;
    const int64_t begin = (low ? i - before : before) * kNormChunk,
                  end = min(low ? g.n_low : g.n, begin + kNormChunk);
    before += stride_before, carry += stride_carry;
    if (carry >= chunks) carry -= chunks, ++before;
    if (low) {
      sum = squares(sum, g.low, begin, end, all);
    } else if (begin >= table || !g.touched) {
      sum = squares(sum, g.g, begin, end, all);
    } else {
      const uint32_t first = begin / width, skipped = static_cast<uint32_t>(begin - int64_t{first} * width);
      sum = squares(sum, g.g, begin, end, [&](int64_t i) {
        const uint32_t row = min(first + (static_cast<uint32_t>(i - begin) + skipped) / width, last_row);
        const uint32_t bits = __ldg(g.touched + row / 32) >> row % 32;
        return i < table ? bits : 1;
      });
    }
    if (low || begin >= table) continue;
    // The touched rows that begin here.
    for (int64_t row = (begin + width - 1) / width + threadIdx.x; row * width < min(end, table); row += kThreads)
      if (!g.touched || (__ldg(g.touched + row / 32) >> row % 32 & 1)) rows.stamps[row] = stamp;
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) {
    g.partial[blockIdx.x] = sum;
    __threadfence();
    last = atomicAdd(g.ticket, 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  sum = 0;
#pragma unroll 4
  for (unsigned c = threadIdx.x; c < gridDim.x; c += kThreads) sum += __ldcg(g.partial + c);
  sum = block_sum(sum, shared);
  if (threadIdx.x > 0) return;
  adamw_clip(o, sum, g.factors);
  *g.ticket = 0;
  if (rows.count == 0) return;
  rows.history[*rows.clock % kRowPeriod] = AdamWFactors<T>(o, g.factors);
  if (rows.numbers) rows.numbers[*rows.clock % kRowPeriod] = *step;
  ++*rows.clock;
}

template <class T, int kWidth> __device__ void store_copy(bfloat16* copy, const Pack<T, kWidth>& p) {
  Pack<bfloat16, kWidth> low;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) low.v[k] = static_cast<bfloat16>(p.v[k]);
  *reinterpret_cast<Pack<bfloat16, kWidth>*>(copy) = low;
}

// A pack of moments as it lies in memory, of M, and as it is computed with, of T.
template <class T, class M, int kWidth> __device__ Pack<T, kWidth> load_moments(const M* from) {
  const auto packed = *reinterpret_cast<const Pack<M, kWidth>*>(from);
  Pack<T, kWidth> x;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) x.v[k] = static_cast<T>(packed.v[k]);
  return x;
}

// Rounds a pack of each moment by one block of random words; nothing where M is T. Element `element`, a multiple of 4, is
// the pack's first in the flat buffers.
template <class M, class T, int kWidth>
__device__ void round_moments(const RandomKey& key, uint32_t step, int64_t element, Pack<T, kWidth>& m,
                              Pack<T, kWidth>& v) {
  if constexpr (!std::is_same_v<T, M>) {
    static_assert(kWidth == 4);
    const PhiloxBlock words = random_block(key.seed, key.purpose, step, static_cast<uint64_t>(element) / 4);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      m.v[k] = static_cast<float>(round_at_random(m.v[k], words.word[k]));
      v.v[k] = static_cast<float>(round_at_random(v.v[k], words.word[k] >> 16));
    }
  }
}

// Of M exactly: rounding has gone before.
template <class M, class T, int kWidth> __device__ void store_moments(M* to, const Pack<T, kWidth>& x) {
  if constexpr (std::is_same_v<T, M>) *reinterpret_cast<Pack<T, kWidth>*>(to) = x;
  else store_copy(to, x);
}

// A warp does the steps that a row has missed, kPacks packs a lane at a time.
template <int kPacks, class T, class M>
__device__ void catch_up_row(const AdamWOptions& o, const RandomKey& key, const AdamWSegment<T, T, M>& s,
                             const WaitingRows<T>& rows, int64_t row, uint32_t now) {
  constexpr int kWidth = 16 / sizeof(T);
  using P = Pack<T, kWidth>;
  const uint32_t stamp = rows.stamps[row];
  if (stamp / 2 == now) return;
  const int lane = threadIdx.x % 32;
  const int64_t at = row * rows.width;
  for (int64_t base = lane * kWidth; base < rows.width; base += 32 * kWidth * kPacks) {
    P p[kPacks], m[kPacks], v[kPacks], g[kPacks];
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int64_t i = base + k * 32 * kWidth;
      if (i >= rows.width) break;
      p[k] = *reinterpret_cast<const P*>(s.p + at + i);
      m[k] = load_moments<T, M, kWidth>(s.m + at + i);
      v[k] = load_moments<T, M, kWidth>(s.v + at + i);
      if (stamp % 2) g[k] = *reinterpret_cast<const P*>(s.g + at + i);
    }
    uint32_t step = stamp / 2;
    const auto round = [&](int k) {
      if constexpr (!std::is_same_v<T, M>)
        round_moments<M>(key, rows.numbers[step % kRowPeriod], s.first + at + base + k * 32 * kWidth, m[k], v[k]);
    };
    if (stamp % 2) {
      const AdamWUpdate<T> update(o, rows.history[step % kRowPeriod]);
      if (update.f.clip >= 0)
#pragma unroll
        for (int k = 0; k < kPacks; ++k) {
#pragma unroll
          for (int j = 0; j < kWidth; ++j) update.apply(p[k].v[j], m[k].v[j], v[k].v[j], g[k].v[j], true);
          round(k);
        }
      ++step;
    }
    for (; step < now; ++step) {
      const AdamWUpdate<T> update(o, rows.history[step % kRowPeriod]);
      if (update.f.clip < 0) continue;
#pragma unroll
      for (int k = 0; k < kPacks; ++k) {
#pragma unroll
        for (int j = 0; j < kWidth; ++j) update.rest(p[k].v[j], m[k].v[j], v[k].v[j], true);
        round(k);
      }
    }
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int64_t i = base + k * 32 * kWidth;
      if (i >= rows.width) break;
      *reinterpret_cast<P*>(s.p + at + i) = p[k];
      store_moments(s.m + at + i, m[k]);
      store_moments(s.v + at + i, v[k]);
      if (s.copy) store_copy(s.copy + at + i, p[k]);
    }
  }
  __syncwarp();  // all lanes have read the stamp
  if (lane == 0) rows.stamps[row] = 2 * now;
}

// 16 bytes of each of p, m, v and g (8 of a bfloat16 one, a whole 32-byte sector every four threads) a thread and
// turn, two turns in flight, or four where m and v have half the bytes.
template <class T, class M> constexpr int kTurns = std::is_same_v<T, M> ? 2 : 4;
template <class T, class M> constexpr int64_t kPerBlock = kThreads* kTurns<T, M>*(16 / sizeof(T));

template <class T, class G, class M>
__device__ void update_segment(const AdamWUpdate<T>& update, const RandomKey& key, const AdamWSegment<T, G, M>& s,
                               int64_t first, int block) {
  constexpr int kWidth = 16 / sizeof(T), kAll = kTurns<T, M>;
  using P = Pack<T, kWidth>;
  const int64_t base = first + block * kPerBlock<T, M> + threadIdx.x * kWidth;
  P a[kAll];
  Pack<M, kWidth> b[kAll], c[kAll];
  Pack<G, kWidth> d[kAll];
#pragma unroll
  for (int t = 0; t < kAll; ++t) {
    const int64_t i = base + t * kThreads * kWidth;
    if (i >= s.n) break;
    a[t] = *reinterpret_cast<const P*>(s.p + i);
    b[t] = *reinterpret_cast<const Pack<M, kWidth>*>(s.m + i);
    c[t] = *reinterpret_cast<const Pack<M, kWidth>*>(s.v + i);
    d[t] = *reinterpret_cast<const Pack<G, kWidth>*>(s.g + i);
  }
#pragma unroll
  for (int t = 0; t < kAll; ++t) {
    const int64_t i = base + t * kThreads * kWidth;
    if (i >= s.n) break;
    const bool decay = i < s.decayed;
    P m, v;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      m.v[k] = static_cast<T>(b[t].v[k]), v.v[k] = static_cast<T>(c[t].v[k]);
      update.apply(a[t].v[k], m.v[k], v.v[k], static_cast<T>(d[t].v[k]), decay);
    }
    if constexpr (!std::is_same_v<T, M>) round_moments<M>(key, __ldg(key.step), s.first + i, m, v);
    *reinterpret_cast<P*>(s.p + i) = a[t];
    store_moments(s.m + i, m);
    store_moments(s.v + i, v);
    if (s.copy) store_copy(s.copy + i, a[t]);
  }
}

// First the blocks of waiting rows, whose arithmetic hides behind the memory traffic of the others: rows
// [first_row, end_row).
template <class T, class M>
__global__ void __launch_bounds__(kThreads)
    update_kernel(AdamWOptions o, const double* __restrict__ factors, RandomKey key,
                  AdamWSegment<T, bfloat16, M> low, AdamWSegment<T, T, M> rest, WaitingRows<T> rows, int each,
                  int row_blocks, int low_blocks, int64_t first) {
  int block = blockIdx.x;
  if (block < row_blocks) {
    const uint32_t now = *rows.clock;
    const int64_t begin = each < rows.count ? static_cast<int64_t>(now % kRowPeriod) * each : 0;
    const int64_t row = begin + (block * kThreads + threadIdx.x) / 32;
    if (row < min(rows.count, begin + each)) catch_up_row<2>(o, key, rest, rows, row, now);
    return;
  }
  block -= row_blocks;
  const AdamWUpdate<T> update(o, AdamWFactors<T>(o, factors));
  if (update.f.clip < 0) return;
  if (block < low_blocks) update_segment(update, key, low, 0, block);
  else update_segment(update, key, rest, first, block - low_blocks);
}

constexpr int kRowThreads =
    128;  // 20 warps of a hundred registers a multiprocessor; blocks of 256 leave room for 16

// pieces null: all rows.
template <class T, class M>
__global__ void __launch_bounds__(kRowThreads)
    catch_up_kernel(AdamWOptions o, RandomKey key, AdamWSegment<T, T, M> s, WaitingRows<T> rows, const int2* pieces,
                    const int32_t* count) {
  const uint32_t now = *rows.clock;
  const int64_t n = pieces ? *count : rows.count;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x) / 32; i < n;
       i += static_cast<int64_t>(gridDim.x) * (kRowThreads / 32)) {
    const int64_t row = pieces ? pieces[i].x : i;
    if (pieces && i > 0 && pieces[i - 1].x == row) continue;  // the first piece's warp does it
    catch_up_row<4>(o, key, s, rows, row, now);
  }
}

// As norm_kernel's sums: blocks take chunks in turns, and a second launch adds theirs in order.
template <class G>
__global__ void __launch_bounds__(kThreads) squares_kernel(const G* g, AdamWRanges ranges, double* partial) {
  __shared__ double shared[32];
  double sum = 0;
  int i = 0;
  for (int64_t c = blockIdx.x; c < ranges.chunks[ranges.count]; c += gridDim.x) {
    while (c >= ranges.chunks[i + 1]) ++i;
    const int64_t begin = ranges.begin[i] + (c - ranges.chunks[i]) * kNormChunk;
    sum = squares(sum, g, begin, min(ranges.end[i], begin + kNormChunk), [](int64_t) { return 1u; });
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) add_partial_kernel(const double* partial, int n, double* total) {
  __shared__ double shared[32];
  double sum = 0;
  for (int i = threadIdx.x; i < n; i += kThreads) sum += partial[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *total += sum;
}

__global__ void factors_kernel(AdamWOptions o, const uint32_t* step, const double* squared_norm, double* factors) {
  adamw_corrections(o, *step, factors);
  adamw_clip(o, *squared_norm, factors);
}

}  // namespace

template <class G>
void adamw_squares(const G* g, const AdamWRanges& ranges, double* partial, int64_t room, double* sum,
                   Stream stream) {
  const int blocks = static_cast<int>(std::min<int64_t>({ranges.chunks[ranges.count], kNormBlocks, room}));
  launch("adamw_squares", squares_kernel<G>, {blocks, kThreads}, stream, g, ranges, partial);
  launch("adamw_squares", add_partial_kernel, {1, kThreads}, stream, partial, blocks, sum);
}
template void adamw_squares(const bfloat16*, const AdamWRanges&, double*, int64_t, double*, Stream);
template void adamw_squares(const float*, const AdamWRanges&, double*, int64_t, double*, Stream);
template void adamw_squares(const double*, const AdamWRanges&, double*, int64_t, double*, Stream);

void adamw_factors(const AdamWOptions& o, const uint32_t* step, const double* squared_norm, double* factors,
                   Stream stream) {
  launch("adamw_factors", factors_kernel, {1, 1}, stream, o, step, squared_norm, factors);
}

template <class T>
void adamw_norm(const AdamWOptions& o, const uint32_t* step, const AdamWGradients<T>& g, const WaitingRows<T>& rows,
                Stream stream) {
  const auto chunks = [](int64_t n) { return static_cast<int>((n + kNormChunk - 1) / kNormChunk); };
  const int low = chunks(g.n_low), all = low + chunks(g.n);
  launch("adamw_norm", norm_kernel<T>, {std::min(all, kNormBlocks), kThreads}, stream, o, step, g, rows, low, all);
}

template <class T, class M>
void adamw_update(const AdamWOptions& o, const double* factors, const RandomKey& key,
                  const AdamWSegment<T, bfloat16, M>& low, const AdamWSegment<T, T, M>& rest,
                  const WaitingRows<T>& rows, bool all_rows, Stream stream) {
  const auto blocks = [](int64_t n, int64_t each) { return static_cast<int>((n + each - 1) / each); };
  const int each = all_rows ? static_cast<int>(rows.count) : blocks(rows.count, kRowPeriod);
  const int row_blocks = blocks(each, kThreads / 32), low_blocks = blocks(low.n, kPerBlock<T, M>);
  const int64_t first = (rows.count * rows.width + 63) / 64 * 64;
  const int all = row_blocks + low_blocks + blocks(rest.n - first, kPerBlock<T, M>);
  if (all == 0) return;
  launch("adamw_update", update_kernel<T, M>, {all, kThreads}, stream, o, factors, key, low, rest, rows, each,
         row_blocks, low_blocks, first);
}

template <class T, class M>
void adamw_catch_up(const AdamWOptions& o, const RandomKey& key, const AdamWSegment<T, T, M>& rest,
                    const WaitingRows<T>& rows, const int32_t* pieces, const int32_t* count, int64_t most_pieces,
                    Stream stream) {
  if (most_pieces == 0) return;
  launch("adamw_catch_up", catch_up_kernel<T, M>, {grid_for(most_pieces, kRowThreads / 32), kRowThreads}, stream, o,
         key, rest, rows, reinterpret_cast<const int2*>(pieces), count);
}

template void adamw_norm(const AdamWOptions&, const uint32_t*, const AdamWGradients<float>&,
                         const WaitingRows<float>&, Stream);
template void adamw_norm(const AdamWOptions&, const uint32_t*, const AdamWGradients<double>&,
                         const WaitingRows<double>&, Stream);
#define INSTANTIATE(T, M)                                                                           \
  template void adamw_update(const AdamWOptions&, const double*, const RandomKey&,                  \
                             const AdamWSegment<T, bfloat16, M>&, const AdamWSegment<T, T, M>&,     \
                             const WaitingRows<T>&, bool, Stream);                                  \
  template void adamw_catch_up(const AdamWOptions&, const RandomKey&, const AdamWSegment<T, T, M>&, \
                               const WaitingRows<T>&, const int32_t*, const int32_t*, int64_t, Stream);
INSTANTIATE(float, float)
INSTANTIATE(float, bfloat16)
INSTANTIATE(double, double)
#undef INSTANTIATE

}  // namespace glia::cuda
