// A tensor and its gradient: least squares by hand, a few steps of gradient descent on the CPU or, with `cuda`, a GPU.
//   g++ gradient.cpp $(pkg-config --cflags --libs glia) -o gradient && ./gradient
#include <cstdio>
#include <cstring>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/products/matmul.h"
#include "engine/ops/rows/reduce.h"

int main(int argc, char** argv) try {
  using namespace glia;
  Context context(Device::parse(argc > 1 ? argv[1] : "cpu"), /*seed=*/1);

  // y = x wᵀ with a known w; the parameter starts at 0 and finds it again.
  const Tensor x = random_normal(context, {64, 3}, 1.0, 1, purpose::kTest);        // [N, I]
  const Tensor wanted = from_vector<float>(context, {1.0f, -2.0f, 0.5f}, {1, 3});  // [O, I]
  const Tensor y = linear(x, wanted).value();                                      // [N, O]
  Tensor w = zeros(context, {1, 3});
  for (int step = 0; step < 200; ++step) {
    const Var parameter = Var::parameter(w);
    const Var loss = mean(square(sub(linear(x, parameter), y)));
    backward(loss);
    w = sub(w, scale(parameter.grad(), 0.1)).value();
    if (step % 50 == 0) std::printf("step %3d  loss %.6f\n", step, loss.value().item());
  }
  const std::vector<double> found = w.to_vector<double>();
  std::printf("w = %.4f %.4f %.4f\n", found[0], found[1], found[2]);
  return std::abs(found[0] - 1) + std::abs(found[1] + 2) + std::abs(found[2] - 0.5) < 1e-3 ? 0 : 1;
} catch (const glia::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
