// One rank alone: what the calls that ranks make together mean then, and that nothing is copied where nothing moves.
#include "engine/device/context.h"
#include "engine/tensor.h"
#include "tests/nn/helpers.h"

namespace glia::test {
namespace {

TEST_CASE("communicator: of one rank alone every call gives what it was given") {
  Context context(test_device());
  Communicator& one = context.communicator();
  EXPECT(one.rank() == 0);
  EXPECT(one.size() == 1);
  const std::vector<float> numbers = {1, -2, 3, 4, 5, 6};
  const Tensor from = from_vector(context, numbers, {6});
  for (const Reduction reduction : {Reduction::kSum, Reduction::kMax, Reduction::kMin}) {
    one.all_reduce(from.raw(), 6, DType::kFloat32, reduction);
    const Tensor to = zeros(context, {6});
    one.reduce_scatter(from.raw(), to.raw(), 6, DType::kFloat32, reduction);
    EXPECT(values(to) == values(from));
  }
  const Tensor gathered = zeros(context, {6}), rows = zeros(context, {6});
  one.all_gather(from.raw(), gathered.raw(), 6, DType::kFloat32);
  EXPECT(values(gathered) == values(from));
  const std::vector<int64_t> count = {2};
  one.all_to_all_rows(from.raw(), count, rows.raw(), count, 3 * sizeof(float));
  EXPECT(values(rows) == values(from));
  one.broadcast(from.raw(), 6 * sizeof(float), 0);
  one.barrier();
  EXPECT(from.to_vector<float>() == numbers);
}

TEST_CASE("communicator: in place and of nothing; half a part is half") {
  Context context(test_device());
  Communicator& one = context.communicator();
  const Tensor x = from_vector(context, std::vector<float>{1, 2, 3, 4}, {4}), y = zeros(context, {4});
  one.reduce_scatter(x.raw(), x.raw(), 4, DType::kFloat32, Reduction::kSum);
  one.all_gather(x.raw(), x.raw(), 4, DType::kFloat32);
  one.all_reduce(nullptr, 0, DType::kFloat32, Reduction::kSum);
  one.all_gather(x.raw(), y.raw(), 2, DType::kFloat32);
  EXPECT(values(x) == std::vector<double>{1, 2, 3, 4});
  EXPECT(values(y) == std::vector<double>{1, 2, 0, 0});
}

TEST_CASE("communicator: calls that no set of one rank can mean are errors") {
  Context context(test_device());
  Communicator& one = context.communicator();
  const Tensor x = zeros(context, {4});
  const std::vector<int64_t> two = {2, 2}, some = {2}, other = {3};
  EXPECT(contains(error_of([&] { one.broadcast(x.raw(), 4, 1); }), "wants a root below 1, got 1"));
  EXPECT(
      contains(error_of([&] { one.all_to_all_rows(x.raw(), two, x.raw(), two, 4); }), "counts of 1 rank, got 2"));
  EXPECT(contains(error_of([&] { one.all_to_all_rows(x.raw(), some, x.raw(), other, 4); }), "sends 2 rows"));
  EXPECT(contains(error_of([&] { one.all_reduce(nullptr, 4, DType::kFloat32, Reduction::kSum); }), "memory of 4"));
  EXPECT(contains(error_of([&] { context.set_communicator(nullptr); }), "communicator"));
}

}  // namespace
}  // namespace glia::test
