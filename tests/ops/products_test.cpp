// Products on the CPU, where the environment has its say in how many threads there are.
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/products/matmul.h"
#include "engine/tensor.h"
#include "tests/command.h"
#include "tests/device.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::test;

// oneDNN leaves out the parts of threads that it counted on and that did not come.
TEST_CASE("products: threads that do not come leave nothing out") {
  Context context(Device::cpu());
  const int64_t n = 300;
  const Tensor a = random_normal(context, {n, n}, 1, 1, purpose::kTest),
               b = random_normal(context, {n, n}, 1, 2, purpose::kTest);
  const std::vector<double> truth =
      matmul(cast(a, DType::kFloat64), cast(b, DType::kFloat64)).value().to_vector<double>();
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const Tensor x = cast(a, dtype), y = cast(b, dtype), c = empty(context, {n, n}, DType::kFloat32);
    matmul_into(x, y, c, false, false);
    const std::vector<double> got = c.to_vector<double>();
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - truth[i]));
    EXPECT(worst < (dtype == DType::kFloat32 ? 1e-3 : 1.0));
  }
  if (std::getenv("OMP_THREAD_LIMIT") || std::getenv("OMP_DYNAMIC"))
    return;  // the child, or a machine that has it set
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  for (const char* kept_away : {"OMP_THREAD_LIMIT=1", "OMP_DYNAMIC=true"}) {
    INFO(kept_away);
    const CommandResult run = run_command(
        fmt::format("OMP_NUM_THREADS=3 {} '{}' -tc='products: threads that do not come leave nothing out' 2>&1",
                    kept_away, self));
    INFO(run.out);
    EXPECT(run.status == 0);
  }
}
