#include <cub/device/device_radix_sort.cuh>
#include <limits>

#include "engine/ops/rows/packs.cuh"
#include "engine/ops/rows/rows_kernels.h"

namespace glia::cuda {
namespace {

// Which row of the source goes to row m; −1: none.
struct ByList {
  const int32_t* index;
  __device__ int64_t operator()(int64_t m) const { return index[m]; }
};
struct ByPosition {
  const int32_t *sequence_of, *offsets;
  __device__ int64_t operator()(int64_t t) const {
    const int32_t b = sequence_of[t];
    return b < 0 ? -1 : t - offsets[b];
  }
};

// One warp a row.
template <int W, class T, class Out, class Index>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const T* x, Index index, Out* y, int64_t n, int64_t rows, int64_t h) {
  using A = Accumulator<T>;
  const int lane = threadIdx.x % 32;
  for (int64_t m = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32; m < rows;
       m += static_cast<int64_t>(gridDim.x) * (kThreads / 32)) {
    const int64_t i = index(m);
    const bool inside = i >= 0 && i < n;
    const A other = i == -1 ? A{0} : std::numeric_limits<A>::quiet_NaN();
    for (int64_t j = lane * W; j < h; j += 32 * W) {
      A v[W];
#pragma unroll
      for (int k = 0; k < W; ++k) v[k] = other;
      if (inside) load<W>(x + i * h + j, v);
      store<W>(y + m * h + j, v);
    }
  }
}

// grid (chunks, columns / (blockDim.x·W)): one chunk of sorted entries, each thread W columns.
template <class T, class Out, int W>
__global__ void scatter_kernel(const T* x, const int32_t* keys, const int32_t* order, Accumulator<T>* partial,
                               Out* y, int32_t n, int64_t rows, int64_t h) {
  using A = Accumulator<T>;
  constexpr int kAhead = 8;  // rows in flight
  const int64_t j = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * W;
  if (j >= h) return;
  const int64_t begin = blockIdx.x * kScatterChunk, end = min(rows, begin + kScatterChunk);
  const int32_t before = begin > 0 ? keys[begin - 1] : -1, after = end < rows ? keys[end] : -1;
  A sum[W];
  int32_t run = -1;
  bool first = true;  // no key of this chunk has ended yet
  const auto flush = [&](bool at_end) {
    if (run < 0 || run >= n) return;
    if (first && run == before) store<W>(partial + (blockIdx.x * 2) * h + j, sum);
    else if (at_end && run == after) store<W>(partial + (blockIdx.x * 2 + 1) * h + j, sum);
    else store<W>(y + run * h + j, sum);
  };
  for (int64_t e = begin; e < end; e += kAhead) {
    A v[kAhead][W];
    int32_t key[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      key[a] = e + a < end ? keys[e + a] : -1;
      if (key[a] >= 0 && key[a] < n) load<W>(x + order[e + a] * h + j, v[a]);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (key[a] < 0 || key[a] >= n) continue;  // past the end, or an index of nobody: these come last
      if (key[a] != run) {
        if (run >= 0) {
          flush(false);
          first = false;
        }
        run = key[a];
#pragma unroll
        for (int k = 0; k < W; ++k) sum[k] = A{0};
      }
#pragma unroll
      for (int k = 0; k < W; ++k) sum[k] += v[a][k];
    }
  }
  flush(true);
}

// The chunk where a crossing run begins adds the pieces of the chunks that follow.
template <class A, class Out, int W>
__global__ void scatter_crossing_kernel(const int32_t* keys, const A* partial, Out* y, int32_t n, int64_t rows,
                                        int64_t h) {
  const int64_t begin = blockIdx.x * kScatterChunk, end = begin + kScatterChunk;
  if (end >= rows) return;
  const int32_t key = keys[end - 1];
  if (key >= n || keys[end] != key) return;                               // the last run ends here
  if (begin > 0 && keys[begin] == key && keys[begin - 1] == key) return;  // it began in an earlier chunk
  const int64_t j = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * W;
  if (j >= h) return;
  A sum[W];
  load<W>(partial + (blockIdx.x * 2 + 1) * h + j, sum);
  for (int64_t c = blockIdx.x + 1; c * kScatterChunk < rows && keys[c * kScatterChunk] == key; ++c) {
    A v[W];
    load<W>(partial + c * 2 * h + j, v);
#pragma unroll
    for (int k = 0; k < W; ++k) sum[k] += v[k];
  }
  store<W>(y + key * h + j, sum);
}

// Row, first entry and end of piece i; whether its row has pieces before and after it.
struct Piece {
  int32_t row, begin, end;
  bool continues, continued;
  __device__ Piece(const int2* pieces, int64_t i) {
    const int2 piece = pieces[i], next = pieces[i + 1];
    row = piece.x, begin = piece.y, end = next.y;
    continues = i > 0 && pieces[i - 1].x == row;
    continued = next.x == row;
  }
};

// A thread W columns of a piece: its rows are added into y, or into the slots of its chunk where the piece is a
// part.
template <class T, class Out, int W>
__global__ void __launch_bounds__(kThreads)
    pieces_kernel(const T* x, const int32_t* entries, const int2* pieces, const int32_t* count,
                  Accumulator<T>* partial, Out* y, int64_t h) {
  using A = Accumulator<T>;
  using P = Pack<T, W>;
  constexpr int kAhead = W == 8 ? 4 : 8;                                              // rows in flight
  const uint32_t packs = static_cast<uint32_t>((h + W - 1) / W), n = *count * packs;  // no more than there are in x
  for (uint32_t k = blockIdx.x * kThreads + threadIdx.x; k < n; k += gridDim.x * kThreads) {
    const Piece piece(pieces, k / packs);
    const int64_t j = static_cast<int64_t>(k % packs) * W;
    A sum[W] = {};
    for (int32_t e = piece.begin; e < piece.end; e += kAhead) {
      P v[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a)
        if (e + a < piece.end) v[a] = *reinterpret_cast<const P*>(x + static_cast<int64_t>(entries[e + a]) * h + j);
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (e + a >= piece.end) break;
#pragma unroll
        for (int i = 0; i < W; ++i) sum[i] += static_cast<A>(v[a].v[i]);
      }
    }
    A* slots = partial + static_cast<int64_t>(piece.begin / kScatterChunk) * 2 * h + j;
    if (piece.continues) store<W>(slots, sum);
    else if (piece.continued) store<W>(slots + h, sum);
    else store<W>(y + static_cast<int64_t>(piece.row) * h + j, sum);
  }
}

// The first piece of a row adds those of the chunks that follow.
template <class A, class Out, int W>
__global__ void __launch_bounds__(kThreads)
    continued_pieces_kernel(const int2* pieces, const int32_t* count, const A* partial, Out* y, int64_t h) {
  const uint32_t packs = static_cast<uint32_t>((h + W - 1) / W), n = *count * packs;
  for (uint32_t k = blockIdx.x * kThreads + threadIdx.x; k < n; k += gridDim.x * kThreads) {
    const int64_t i = k / packs, j = static_cast<int64_t>(k % packs) * W;
    const Piece piece(pieces, i);
    if (piece.continues || !piece.continued) continue;
    const A* from = partial + static_cast<int64_t>(piece.begin / kScatterChunk) * 2 * h + j;
    A sum[W];
    load<W>(from + h, sum);
    int64_t last = i + 1;
    while (pieces[last + 1].x == piece.row) ++last;
#pragma unroll 4
    for (int64_t c = 1; c <= last - i; ++c) {
      A v[W];
      load<W>(from + c * 2 * h, v);
#pragma unroll
      for (int w = 0; w < W; ++w) sum[w] += v[w];
    }
    store<W>(y + static_cast<int64_t>(piece.row) * h + j, sum);
  }
}

// One warp a token; kAhead packs of each of the three rows in flight.
template <int W, class T, class Out>
__global__ void __launch_bounds__(kThreads)
    input_kernel(InputTables<T> q, Out* __restrict__ y, int64_t tokens, int64_t h) {
  using A = Accumulator<T>;
  using P = Pack<T, W>;
  constexpr int kAhead = 2;
  const int lane = threadIdx.x % 32;
  for (int64_t t = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32; t < tokens;
       t += static_cast<int64_t>(gridDim.x) * (kThreads / 32)) {
    const int64_t id = q.ids[t], b = q.sequence_of[t], p = b < 0 ? -1 : t - q.offsets[b];
    const bool has_word = id >= 0 && id < q.n_words, has_place = p >= 0 && p < q.n_positions;
    const bool bad = !(has_word || id == -1) || !(has_place || p == -1);
    for (int64_t first = lane * W; first < h; first += 32 * W * kAhead) {
      P word[kAhead], position[kAhead], type[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int64_t j = first + a * 32 * W;
        if (j >= h) break;
        if (has_word) word[a] = *reinterpret_cast<const P*>(q.words + id * h + j);
        if (has_place) position[a] = *reinterpret_cast<const P*>(q.positions + p * h + j);
        if (has_place) type[a] = *reinterpret_cast<const P*>(q.types + j);
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int64_t j = first + a * 32 * W;
        if (j >= h) break;
        A sum[W];
#pragma unroll
        for (int k = 0; k < W; ++k) {
          const A place = has_place ? static_cast<A>(position[a].v[k]) + static_cast<A>(type[a].v[k]) : A{0};
          sum[k] =
              bad ? std::numeric_limits<A>::quiet_NaN() : (has_word ? static_cast<A>(word[a].v[k]) : A{0}) + place;
        }
        store<W>(y + t * h + j, sum);
      }
    }
  }
}

// As reduce_chunks_kernel, for any type.
template <class T>
__global__ void __launch_bounds__(kThreads)
    type_sums_kernel(const T* dpositions, T* dtypes, int rows, int64_t types, int64_t h) {
  using A = Accumulator<T>;
  __shared__ A sums[8][33];
  const int64_t j = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  A sum = 0;
  if (j < h) {
#pragma unroll 8
    for (int p = threadIdx.y; p < rows; p += 8) sum += static_cast<A>(dpositions[p * h + j]);
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || j >= h) return;
  for (int i = 1; i < 8; ++i) sum += sums[i][threadIdx.x];
  dtypes[j] = static_cast<T>(sum);
  for (int64_t k = 1; k < types; ++k) dtypes[k * h + j] = static_cast<T>(A{0});
}

struct SortSizes {
  int bits;
  size_t cub_bytes;
  int64_t lists;  // bytes of one list of int32, a multiple of 256
};

SortSizes sort_sizes(int64_t rows, int64_t n) {
  SortSizes s{1, 0, (rows * 4 + 255) / 256 * 256};
  while (s.bits < 32 && (int64_t{1} << s.bits) <= n) ++s.bits;  // keys go up to n, which stands for "nobody"
  const uint32_t* keys = nullptr;
  const int32_t* values = nullptr;
  CUDA_CHECK(cub::DeviceRadixSort::SortPairs(nullptr, s.cub_bytes, keys, const_cast<uint32_t*>(keys), values,
                                             const_cast<int32_t*>(values), static_cast<int>(rows), 0, s.bits));
  return s;
}

}  // namespace

namespace {

template <class T, class Out, class Index>
void gather(const char* name, const T* x, Index index, Out* y, int64_t n, int64_t rows, int64_t h, Stream stream) {
  if (rows == 0 || h == 0) return;
  using Narrow = std::conditional_t<sizeof(T) < sizeof(Out), T, Out>;
  with_pack_width<Narrow>(
      h,
      [&](auto width) {
        launch(name, gather_kernel<decltype(width)::value, T, Out, Index>,
               {grid_for(rows, kThreads / 32), kThreads}, stream, x, index, y, n, rows, h);
      },
      x, y);
}

// Row blockIdx.x of the table; grid (n, columns / (32·W)), block (32, 8): each row of threads adds every 8th
// sequence, then their sums are added in order.
template <int W, class T, class Out>
__global__ void __launch_bounds__(kThreads)
    position_sums_kernel(const T* __restrict__ dy, const int32_t* __restrict__ offsets, Out* __restrict__ dtable,
                         int sequences, int64_t longest, int64_t h) {
  using A = Accumulator<T>;
  constexpr int kLanes = kThreads / 32, kColumns = 32 * W;
  __shared__ __align__(16) A sums[kLanes][kColumns];
  const int64_t p = blockIdx.x, j = static_cast<int64_t>(blockIdx.y) * kColumns + threadIdx.x * W;
  A sum[W] = {};
  if (j < h && p < longest) {
#pragma unroll 8
    for (int b = threadIdx.y; b < sequences; b += kLanes) {
      const int64_t t = offsets[b] + p;
      A v[W] = {};
      if (t < offsets[b + 1]) load<W>(dy + t * h + j, v);
#pragma unroll
      for (int k = 0; k < W; ++k) sum[k] += v[k];
    }
  }
#pragma unroll
  for (int k = 0; k < W; ++k) sums[threadIdx.y][threadIdx.x * W + k] = sum[k];
  __syncthreads();
  for (int i = threadIdx.y * 32 + threadIdx.x; i < kColumns; i += kThreads) {
    const int64_t column = static_cast<int64_t>(blockIdx.y) * kColumns + i;
    if (column >= h) continue;
    A total = 0;
#pragma unroll
    for (int l = 0; l < kLanes; ++l) total += sums[l][i];
    dtable[p * h + column] = static_cast<Out>(total);
  }
}

}  // namespace

template <class T, class Out>
void gather_rows(const T* x, const int32_t* index, Out* y, int64_t n, int64_t rows, int64_t h, Stream stream) {
  gather("gather_rows", x, ByList{index}, y, n, rows, h, stream);
}

template <class T, class Out>
void position_rows(const T* table, const int32_t* sequence_of, const int32_t* offsets, Out* y, int64_t n,
                   int64_t tokens, int64_t h, Stream stream) {
  gather("position_rows", table, ByPosition{sequence_of, offsets}, y, n, tokens, h, stream);
}

template <class T, class Out>
void position_sums(const T* dy, const int32_t* offsets, Out* dtable, int64_t n, int64_t sequences, int64_t longest,
                   int64_t h, Stream stream) {
  if (n == 0 || h == 0) return;
  const auto run = [&](auto width) {
    constexpr int W = decltype(width)::value;
    const dim3 grid(static_cast<unsigned>(n), static_cast<unsigned>((h + 32 * W - 1) / (32 * W)));
    launch("position_sums", position_sums_kernel<W, T, Out>, {grid, dim3(32, kThreads / 32)}, stream, dy, offsets,
           dtable, static_cast<int>(sequences), longest, h);
  };
  if (h % 4 == 0 && aligned16(dy) && aligned16(dtable)) run(Width<4>{});
  else run(Width<1>{});
}

int64_t sort_workspace(int64_t rows, int64_t n) {
  const SortSizes s = sort_sizes(rows, n);
  return 2 * s.lists + static_cast<int64_t>(s.cub_bytes);
}

void sort_by_index(const int32_t* index, int32_t* keys, int32_t* order, int64_t rows, int64_t n, void* workspace,
                   Stream stream) {
  if (rows == 0) return;
  SortSizes s = sort_sizes(rows, n);
  auto* unsorted = static_cast<uint32_t*>(workspace);
  auto* iota = reinterpret_cast<int32_t*>(static_cast<char*>(workspace) + s.lists);
  for_each("sort_by_index/keys", rows, stream, [=] __device__(int64_t m) {
    const int32_t i = index[m];
    unsorted[m] = static_cast<uint32_t>(i >= 0 && i < n ? i : n);
    iota[m] = static_cast<int32_t>(m);
  });
  CUDA_CHECK(cub::DeviceRadixSort::SortPairs(static_cast<char*>(workspace) + 2 * s.lists, s.cub_bytes,
                                             static_cast<const uint32_t*>(unsorted),
                                             reinterpret_cast<uint32_t*>(keys), static_cast<const int32_t*>(iota),
                                             order, static_cast<int>(rows), 0, s.bits, stream));
  check_launch("sort_by_index", stream);
}

template <class T, class Out>
void scatter_rows(const T* x, const int32_t* keys, const int32_t* order, Accumulator<T>* partial, Out* y, int64_t n,
                  int64_t rows, int64_t h, Stream stream) {
  if (rows == 0 || h == 0 || n == 0) return;
  using A = Accumulator<T>;
  const int64_t chunks = (rows + kScatterChunk - 1) / kScatterChunk;
  const auto run = [&](auto width) {
    constexpr int W = decltype(width)::value;
    const int64_t packs = (h + W - 1) / W;
    const int threads = static_cast<int>(std::min<int64_t>(128, (packs + 31) / 32 * 32));
    const dim3 grid(chunks, (packs + threads - 1) / threads);
    launch("scatter_rows", scatter_kernel<T, Out, W>, {grid, threads}, stream, x, keys, order, partial, y,
           static_cast<int32_t>(n), rows, h);
    if (chunks > 1)
      launch("scatter_rows/crossing", scatter_crossing_kernel<A, Out, W>, {grid, threads}, stream, keys, partial, y,
             static_cast<int32_t>(n), rows, h);
  };
  // 4 columns a thread keep eight rows of packs in registers.
  if (h % 4 == 0 && aligned16(x) && aligned16(y)) run(std::integral_constant<int, 4>{});
  else run(std::integral_constant<int, 1>{});
}

template <class T, class Out>
void scatter_ordered(const T* x, const RowOrderView& order, int64_t most_pieces, Accumulator<T>* partial, Out* y,
                     int64_t h, Stream stream) {
  if (most_pieces == 0 || h == 0) return;
  using A = Accumulator<T>;
  const int2* pieces = reinterpret_cast<const int2*>(order.pieces);
  const auto run = [&](auto width) {
    constexpr int W = decltype(width)::value;
    const int blocks = grid_for(most_pieces * ((h + W - 1) / W));
    launch("scatter_ordered", pieces_kernel<T, Out, W>, {blocks, kThreads}, stream, x, order.entries, pieces,
           order.count, partial, y, h);
    launch("scatter_ordered/continued", continued_pieces_kernel<A, Out, W>, {blocks, kThreads}, stream, pieces,
           order.count, partial, y, h);
  };
  constexpr int kWide = sizeof(T) == 2 ? 8 : 4;
  if (h % kWide == 0 && aligned16(x) && aligned16(y)) run(Width<kWide>{});
  else run(Width<1>{});
}

template <class T, class Out>
void input_rows(const InputTables<T>& tables, Out* y, int64_t tokens, int64_t h, Stream stream) {
  if (tokens == 0 || h == 0) return;
  using Narrow = std::conditional_t<sizeof(T) < sizeof(Out), T, Out>;
  with_pack_width<Narrow>(
      h,
      [&](auto width) {
        launch("input_rows", input_kernel<decltype(width)::value, T, Out>,
               {grid_for(tokens, kThreads / 32), kThreads}, stream, tables, y, tokens, h);
      },
      tables.words, tables.positions, tables.types, y);
}

template <class T>
void type_sums(const T* dpositions, T* dtypes, int64_t rows, int64_t types, int64_t h, Stream stream) {
  if (h == 0) return;
  launch("type_sums", type_sums_kernel<T>, {(h + 31) / 32, dim3(32, 8)}, stream, dpositions, dtypes,
         static_cast<int>(rows), types, h);
}

#define INSTANTIATE(T, Out)                                                                                       \
  template void scatter_ordered(const T*, const RowOrderView&, int64_t, Accumulator<T>*, Out*, int64_t, Stream);  \
  template void input_rows(const InputTables<T>&, Out*, int64_t, int64_t, Stream);                                \
  template void gather_rows(const T*, const int32_t*, Out*, int64_t, int64_t, int64_t, Stream);                   \
  template void position_rows(const T*, const int32_t*, const int32_t*, Out*, int64_t, int64_t, int64_t, Stream); \
  template void position_sums(const T*, const int32_t*, Out*, int64_t, int64_t, int64_t, int64_t, Stream);        \
  template void scatter_rows(const T*, const int32_t*, const int32_t*, Accumulator<T>*, Out*, int64_t, int64_t,   \
                             int64_t, Stream);
GLIA_FOR_STORED_AND_READ(INSTANTIATE)
#undef INSTANTIATE
#define INSTANTIATE(T) template void type_sums(const T*, T*, int64_t, int64_t, int64_t, Stream);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace glia::cuda
