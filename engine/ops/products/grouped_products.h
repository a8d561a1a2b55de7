// Matrix products over rows that are grouped by expert, bfloat16 in, float32 sums: forward, data gradient and weight
// gradient, with what surrounds them fused in. A dense layer is the case of one group. Two sets of kernels fulfil the
// same contract: sm90/ (wgmma, Hopper) and portable/ (mma.sync, any GPU from sm_80 on).
//
// Letters: R rows (tokens) of the buffers, E groups, I inputs and O outputs of a layer. Weights are [E, O, I]
// row-major as in PyTorch's Linear: y = x Wᵀ + b. I and O are multiples of 8, pointers are 16-byte aligned.
//
// Rows are sorted by group. `offsets` int32 [E + 1] lies on the DEVICE and is read there only; a group starts at a
// multiple of 128, so it is padded: padded rows of x and dy hold zeros (padded rows of a result hold whatever
// follows from that, e.g. the bias). Rows from offsets[E] on are neither read nor written. offsets = nullptr: one
// group of R rows, R any number ≥ 0.
//
// Nothing here allocates, synchronises or looks at device data from the host, so everything can be captured in a
// CUDA graph. There are no atomics: the same input gives the same bits. Wrong arguments and CUDA errors throw
// std::runtime_error.
#pragma once

#include <cstddef>

#include "engine/device/stream.h"

namespace glia::cuda {

constexpr int kGroupAlignment = 128;

struct RowGroups {
  const int* offsets;  // [groups + 1] on the device, multiples of 128; or nullptr
  int groups;          // E, at least 1; Hopper's kernels: at most 256
  int rows;            // R, capacity of the row buffers; a multiple of 128 when offsets are given
};

struct Bias {
  const void* data = nullptr;  // [E, O]
  bool bf16 = false;           // otherwise float32
};

// Room for the parts of tiles that several blocks compute together. Whoever owns it fills it with zeros once; the
// kernels leave the flags at its beginning as they found them. Launches that may run at the same time need one each.
// Only Hopper's weight gradient uses it.
struct GemmWorkspace {
  void* data = nullptr;
  std::size_t bytes = 0;
};

// GELU's slopes of a [rows, columns] matrix: whole tiles of 128 × 128, in an order that all kernels share.
constexpr std::size_t gemm_slope_bytes(long long rows, long long columns) {
  return static_cast<std::size_t>((rows + 127) / 128 * ((columns + 127) / 128)) * 128 * 128 * 2;
}

// One set of kernels. Every product takes (…, groups, outputs O, inputs I, stream).
struct GroupedProducts {
  const char* name;

  // y = x Wᵀ + b                               x [R, I], w [E, O, I], bias [E, O] or none → y [R, O] bf16
  void (*forward)(const void* x, const void* w, Bias bias, void* y, RowGroups groups, int outputs, int inputs,
                  Stream stream);

  // pre = x Wᵀ + b, h = GELU(pre) = pre Φ(pre), and what its gradient needs: the slope GELU'(pre), from pre in
  // float32, in 16 bits of fixed point. That is more exact than pre in bfloat16 would be, and the gradient only
  // multiplies.
  // x [R, I], w [E, O, I], bias [E, O] → slopes (gemm_slope_bytes(R, O); nullptr: not wanted), h [R, O] bf16
  void (*forward_gelu)(const void* x, const void* w, Bias bias, void* slopes, void* h, RowGroups groups,
                       int outputs, int inputs, Stream stream);

  // dx = dy W                                  dy [R, O], w [E, O, I] → dx [R, I] bf16
  void (*data_gradient)(const void* dy, const void* w, void* dx, RowGroups groups, int outputs, int inputs,
                        Stream stream);

  // dpre = (dy W) ∘ slopes, and per tile of 128 rows the column sums of dpre (in float32, before it is rounded)
  // dy [R, O], w [E, O, I], slopes of [R, I] → dpre [R, I] bf16, partial [⌈R / 128⌉, I] float32
  void (*data_gradient_gelu)(const void* dy, const void* w, const void* slopes, void* dpre, float* partial,
                             RowGroups groups, int outputs, int inputs, Stream stream);

  // dw[e] = dy[e]ᵀ x[e] over the rows of group e         dy [R, O], x [R, I] → dw [E, O, I] float32 or bf16 (=,
  // empty group: 0)
  void (*weight_gradient)(const void* dy, const void* x, void* dw, bool dw_bf16, RowGroups groups, int outputs,
                          int inputs, GemmWorkspace workspace, Stream stream);
};
extern const GroupedProducts kHopperProducts, kPortableProducts;

// The set for this GPU, its setting (--kernels) and so many groups.
const GroupedProducts& grouped_products(const CudaHandles& cuda, int groups);

// Column sums for bias gradients in two stages, for either set of kernels.
// partial[t] = Σ of rows 128 t … 128 t + 127 of m      m [R, N] bf16 → partial [⌈R / 128⌉, N] float32
void column_partials(const void* m, float* partial, RowGroups groups, int columns, Stream stream);
// db[e] = Σ over the row tiles of group e of partial   partial [⌈R / 128⌉, N] → db [E, N] float32 (=, empty group:
// 0)
void reduce_column_partials(const float* partial, float* db, RowGroups groups, int columns, Stream stream);

}  // namespace glia::cuda
