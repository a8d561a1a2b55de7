// Matrix products for Hopper (sm_90a: TMA and wgmma); contract and arguments: grouped_products.h, E at most 128.
#pragma once

#include "engine/ops/products/grouped_products.h"

namespace glia::cuda::sm90 {

constexpr int kMaxGroups = 128;

void forward(const void* x, const void* w, Bias bias, void* y, RowGroups groups, int outputs, int inputs,
             Stream stream);
void forward_gelu(const void* x, const void* w, Bias bias, void* slopes, void* h, RowGroups groups, int outputs,
                  int inputs, Stream stream);
void data_gradient(const void* dy, const void* w, void* dx, RowGroups groups, int outputs, int inputs,
                   Stream stream);
void data_gradient_gelu(const void* dy, const void* w, const void* slopes, void* dpre, float* partial,
                        RowGroups groups, int outputs, int inputs, Stream stream);
// Wants a workspace of workspace_bytes().
void weight_gradient(const void* dy, const void* x, void* dw, bool dw_bf16, RowGroups groups, int outputs,
                     int inputs, GemmWorkspace workspace, Stream stream);

std::size_t workspace_bytes();  // enough for every size on the current device

}  // namespace glia::cuda::sm90
