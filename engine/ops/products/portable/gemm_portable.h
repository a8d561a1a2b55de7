// Matrix products for every GPU from sm_80 on (cp.async, ldmatrix, mma.sync); contract and arguments:
// grouped_products.h, any number of groups.
#pragma once

#include "engine/ops/products/grouped_products.h"

namespace glia::cuda::portable {

void forward(const void* x, const void* w, Bias bias, void* y, RowGroups groups, int outputs, int inputs,
             Stream stream);
void forward_gelu(const void* x, const void* w, Bias bias, void* slopes, void* h, RowGroups groups, int outputs,
                  int inputs, Stream stream);
void data_gradient(const void* dy, const void* w, void* dx, RowGroups groups, int outputs, int inputs,
                   Stream stream);
void data_gradient_gelu(const void* dy, const void* w, const void* slopes, void* dpre, float* partial,
                        RowGroups groups, int outputs, int inputs, Stream stream);
void weight_gradient(const void* dy, const void* x, void* dw, bool dw_bf16, RowGroups groups, int outputs,
                     int inputs, GemmWorkspace workspace, Stream stream);

}  // namespace glia::cuda::portable
