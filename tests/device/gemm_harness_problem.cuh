// One product on one shape: its buffers, the kernels under test by kind, and a loop of cuBLAS calls that does the same.
#pragma once
#include "engine/ops/products/grouped_products.h"
#include "engine/ops/products/sm90/gemm_sm90.h"
#include "tests/device/gemm_harness_cases.cuh"

namespace {

using namespace glia::cuda;

// The sets of kernels that this GPU has.
std::vector<const GroupedProducts*> sets_here() {
  int device = 0, major = 0;
  CUDA(cudaGetDevice(&device));
  CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  if (major == 9) return {&kHopperProducts, &kPortableProducts};
  return {&kPortableProducts};
}

// One shape's buffers. `in` and `out` sides of the layer: x, slope_values [R, I]; dy [R, O].
struct Problem {
  Shape shape;
  std::vector<int> begin;  // [E + 1], padded
  int groups, rows, used;  // capacity and offsets[E]
  Buffer offsets, x, dy, w, bias, slopes, slope_values, workspace;
  RowGroups row_groups;

  explicit Problem(const Shape& s, uint64_t seed) : shape(s) {
    groups = s.counts.empty() ? 1 : static_cast<int>(s.counts.size());
    begin.push_back(0);
    for (int c : s.counts) begin.push_back(begin.back() + (c + 127) / 128 * 128);
    if (s.counts.empty()) begin.push_back(s.dense_rows);
    used = begin.back();
    rows = s.counts.empty() ? s.dense_rows : used + 256;  // spare rows that nobody may touch
    const size_t o = s.outputs, i = s.inputs;
    x = Buffer(rows * i * 2), dy = Buffer(rows * o * 2), w = Buffer(groups * o * i * 2);
    bias = Buffer(groups * std::max(o, i) * 4), slope_values = Buffer(rows * i * 4);
    slopes = Buffer(gemm_slope_bytes(rows, i));
    fill(w.as<bf16>(), groups * o * i, seed + 1, 1.7f / std::sqrt(static_cast<float>(i)));
    fill(bias.as<float>(), groups * o, seed + 2, 0.5f);
    fill(slope_values.as<float>(), used * i, seed + 3, 3.0f);
    encode_kernel<<<1024, 256>>>(slope_values.as<float>(), slopes.as<uint16_t>(), used, i);
    for (int g = 0; g < groups; ++g) {
      const int real = s.counts.empty() ? s.dense_rows : s.counts[g];
      const size_t pad = begin[g + 1] - begin[g] - real, at = begin[g];
      fill(x.as<bf16>() + at * i, real * i, seed + 10 + g, 1.0f);
      fill(dy.as<bf16>() + at * o, real * o, seed + 500 + g, 1.0f);
      CUDA(cudaMemset(x.as<bf16>() + (at + real) * i, 0, pad * i * 2));
      CUDA(cudaMemset(dy.as<bf16>() + (at + real) * o, 0, pad * o * 2));
    }
    if (!s.counts.empty()) {
      offsets = Buffer(begin.size() * 4);
      CUDA(cudaMemcpy(offsets.data, begin.data(), begin.size() * 4, cudaMemcpyHostToDevice));
    }
    workspace = Buffer(sm90::workspace_bytes());
    CUDA(cudaMemset(workspace.data, 0, workspace.bytes));
    row_groups = {s.counts.empty() ? nullptr : offsets.as<int>(), groups, rows};
    CUDA(cudaDeviceSynchronize());
  }
  int real(int g) const { return shape.counts.empty() ? shape.dense_rows : shape.counts[g]; }
  int padded(int g) const { return begin[g + 1] - begin[g]; }
  double flop() const {
    double rows_done = 0;
    for (int g = 0; g < groups; ++g) rows_done += real(g);
    return 2.0 * rows_done * shape.outputs * shape.inputs;
  }
};

enum class Kind { kForward, kBias, kGelu, kData, kDataGelu, kWeightFloat, kWeightBf16, kCount };
const char* kind_name(Kind k) {
  static const char* names[] = {"forward", "bias", "gelu", "dx", "dx_gelu", "dw_f32", "dw_bf16"};
  return names[static_cast<int>(k)];
}
bool is_weight(Kind k) { return k == Kind::kWeightFloat || k == Kind::kWeightBf16; }
bool is_data(Kind k) { return k == Kind::kData || k == Kind::kDataGelu; }
int columns_of(Kind k, const Shape& s) { return is_data(k) ? s.inputs : s.outputs; }
size_t output_elements(Kind k, const Problem& p) {
  if (is_weight(k)) return static_cast<size_t>(p.groups) * p.shape.outputs * p.shape.inputs;
  return static_cast<size_t>(p.rows) * columns_of(k, p.shape);
}

struct Outputs {
  Buffer main, slopes, partial;
  Outputs(Kind k, const Problem& p)
      : main(output_elements(k, p) * (k == Kind::kWeightFloat ? 4 : 2)),
        slopes(k == Kind::kGelu ? gemm_slope_bytes(p.rows, p.shape.outputs) : 0),
        partial(k == Kind::kDataGelu ? (p.rows + 127) / 128 * static_cast<size_t>(p.shape.inputs) * 4 : 0) {}
};

void run(const GroupedProducts& set, Kind k, const Problem& p, Outputs& out, cudaStream_t stream,
         bool with_slopes = true) {
  const int o = p.shape.outputs, i = p.shape.inputs;
  const Bias bias = {p.bias.data, false};
  const GemmWorkspace space = {p.workspace.data, p.workspace.bytes};
  switch (k) {
    case Kind::kForward: return set.forward(p.x.data, p.w.data, {}, out.main.data, p.row_groups, o, i, stream);
    case Kind::kBias: return set.forward(p.x.data, p.w.data, bias, out.main.data, p.row_groups, o, i, stream);
    case Kind::kGelu:
      return set.forward_gelu(p.x.data, p.w.data, bias, with_slopes ? out.slopes.data : nullptr, out.main.data,
                              p.row_groups, o, i, stream);
    case Kind::kData: return set.data_gradient(p.dy.data, p.w.data, out.main.data, p.row_groups, o, i, stream);
    case Kind::kDataGelu:
      return set.data_gradient_gelu(p.dy.data, p.w.data, p.slopes.data, out.main.data, out.partial.as<float>(),
                                    p.row_groups, o, i, stream);
    default:
      return set.weight_gradient(p.dy.data, p.x.data, out.main.data, k == Kind::kWeightBf16, p.row_groups, o, i,
                                 space, stream);
  }
}

// cuBLAS's loop over the groups; real rows only when timing.
void run_blas(Kind k, const Problem& p, const Blas& blas, void* out, bool out_float, bool real_rows) {
  const size_t o = p.shape.outputs, i = p.shape.inputs, size = out_float ? 4 : 2;
  for (int g = 0; g < p.groups; ++g) {
    const size_t at = p.begin[g];
    const int m = real_rows ? p.real(g) : p.padded(g);
    const bf16 *x = p.x.as<bf16>() + at * i, *dy = p.dy.as<bf16>() + at * o, *w = p.w.as<bf16>() + g * o * i;
    if (is_weight(k))
      blas.gemm(true, false, o, i, m, dy, x, static_cast<uint8_t*>(out) + g * o * i * size, out_float);
    else if (is_data(k))
      blas.gemm(false, false, m, i, o, dy, w, static_cast<uint8_t*>(out) + at * i * size, out_float);
    else blas.gemm(false, true, m, o, i, x, w, static_cast<uint8_t*>(out) + at * o * size, out_float);
  }
}

}  // namespace
