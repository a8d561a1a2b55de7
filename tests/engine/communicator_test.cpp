// What the calls that ranks make together mean: of one rank alone, where nothing is copied that does not move, and of
// threads.
#include "engine/comm/threads.h"

#include <bit>

#include "engine/comm/reduce.h"
#include "engine/device/context.h"
#include "engine/tensor.h"
#include "tests/engine/mail.h"
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

// What every call means, from one of `size` ranks.
void check_calls(int size, std::unique_ptr<Communicator> communicator) {
  Context context(test_device());
  context.set_communicator(std::move(communicator));
  Communicator& ranks = context.communicator();
  const int r = ranks.rank();
  CHECK(ranks.size() == size, "wants {} ranks", size);
  const auto holds = [&](const char* what, const Tensor& x, const std::vector<double>& wanted) {
    CHECK(values(x) == wanted, "{} on rank {}", what, r);
  };
  for (const DType type : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    const double sum = size * (size + 1) / 2.0;
    const Tensor x = full(context, {2}, r + 1, type), least = full(context, {1}, -r, type);
    ranks.all_reduce(x.raw(), 2, type, Reduction::kSum);
    holds("sum", x, {sum, sum});
    ranks.all_reduce(least.raw(), 1, type, Reduction::kMin);
    holds("least", least, {1.0 - size});
  }
  std::vector<double> numbers, gathered;
  for (int i = 0; i < size; ++i) numbers.push_back(10 * i + r), gathered.push_back(i);
  const Tensor all = from_vector(context, numbers, {size}), mine = zeros(context, {1}, DType::kFloat64);
  ranks.reduce_scatter(all.raw(), mine.raw(), 1, DType::kFloat64, Reduction::kMax);
  holds("its part of the largest", mine, {10.0 * r + size - 1});
  const Tensor own = full(context, {1}, r, DType::kFloat64);
  ranks.all_gather(own.raw(), all.raw(), 1, DType::kFloat64);
  holds("gathered", all, gathered);
  // Rank a sends b + 1 rows with the number 10 a + b to rank b.
  std::vector<int64_t> send, receive(static_cast<size_t>(size), r + 1);
  std::vector<double> rows, wanted;
  for (int b = 0; b < size; ++b) {
    send.push_back(b + 1);
    rows.insert(rows.end(), b + 1, 10 * r + b);
    wanted.insert(wanted.end(), r + 1, 10 * b + r);
  }
  const Tensor from = from_vector(context, rows, {static_cast<int64_t>(rows.size())}),
               to = zeros(context, {static_cast<int64_t>(wanted.size())}, DType::kFloat64);
  ranks.all_to_all_rows(from.raw(), send, to.raw(), receive, 8);
  holds("rows from all", to, wanted);
  ranks.broadcast(own.raw(), 8, size - 1);
  holds("the last one's", own, {size - 1.0});
  ranks.barrier();
}

TEST_CASE("communicator: of threads every call is what its definition says, on each of them") {
  if (!test_device().is_cpu()) return;
  for (const int size : {1, 2, 5})
    run_ranks(size,
              [size](std::unique_ptr<Communicator> communicator) { check_calls(size, std::move(communicator)); });
}

TEST_CASE("communicator: of threads of several processes too, and the bits do not tell how many") {
  if (!test_device().is_cpu()) return;
  for (const int size : {4, 5, 8})
    for (const int processes : {2, 3, 4}) {
      INFO(size, " ranks in ", processes);
      run_processes(processes, [&](Transport& transport) {
        run_ranks(
            size, [size](std::unique_ptr<Communicator> c) { check_calls(size, std::move(c)); }, &transport);
      });
    }
  constexpr int kRanks = 7, kNumbers = 5000;
  const auto sums = [](int processes, bool scatter) {
    std::vector<std::vector<double>> of_rank(kRanks);
    run_processes(processes, [&](Transport& transport) {
      run_ranks(
          kRanks,
          [&](std::unique_ptr<Communicator> ranks) {
            Context context(test_device());
            const auto r = static_cast<size_t>(ranks->rank());
            const Tensor x = random_normal(context, {kRanks * kNumbers}, 1, r + 1, purpose::kTest);
            const Tensor part = zeros(context, {kNumbers});
            if (scatter) ranks->reduce_scatter(x.raw(), part.raw(), kNumbers, DType::kFloat32, Reduction::kSum);
            else ranks->all_reduce(x.raw(), kRanks * kNumbers, DType::kFloat32, Reduction::kSum);
            of_rank[r] = values(scatter ? part : x);
          },
          &transport);
    });
    return of_rank;
  };
  for (const bool scatter : {false, true}) {
    const auto one = sums(1, scatter);
    for (const int processes : {2, 3, 4, 7}) EXPECT(sums(processes, scatter) == one);
    EXPECT((one[0] == one[1]) == !scatter);
  }
}

TEST_CASE("communicator: the nodes of a tree are the fewest that make up a range") {
  for (int terms = 1; terms <= 13; ++terms)
    for (int first = 0; first < terms; ++first)
      for (int end = first + 1; end <= terms; ++end) {
        const std::vector<TreeNode> nodes = tree_nodes(terms, first, end);
        int at = first;
        for (const TreeNode& node : nodes) {
          EXPECT(node.first == at);
          at = node.end;
        }
        EXPECT(at == end);
        EXPECT(nodes.size() <= 2 * std::bit_width(static_cast<unsigned>(terms)));
      }
  EXPECT(tree_nodes(8, 4, 8).size() == 1);
  EXPECT(tree_nodes(8, 2, 5).size() == 2);
}

TEST_CASE(
    "communicator: processes that differ are told by what, the first of them; one that is silent by its number") {
  const auto agreement = [](const std::vector<std::string>& flags) {
    return error_of([&] {
      run_processes(static_cast<int>(flags.size()), [&](Transport& transport) {
        transport.set_patience(0.2);
        require_agreement(transport, {{"the commit", "abc"}, {"the flags", flags[size_t(transport.process())]}});
      });
    });
  };
  EXPECT(agreement({"--lr 1", "--lr 1", "--lr 1"}).empty());
  EXPECT(contains(agreement({"--lr 1", "--lr 1", "--lr 2"}),
                  "process 2 on here: expected the flags of process 0 on here, '--lr 1', got '--lr 2'"));
  EXPECT(contains(error_of([] {
                    run_processes(2, [](Transport& transport) {
                      transport.set_patience(0.2);
                      if (transport.process() == 0) require_agreement(transport, {});
                    });
                  }),
                  "rank 1 on here has not answered"));
  EXPECT(contains(error_of([] {
                    run_processes(3, [](Transport& transport) {
                      run_ranks(
                          2, [](auto) {}, &transport);
                    });
                  }),
                  "at most as many processes as ranks, 2, got 3"));
}

TEST_CASE(
    "communicator: a thread that fails ends the waiting of the others, and its error is the one that is told") {
  if (!test_device().is_cpu()) return;
  const std::string error = error_of([] {
    run_ranks(3, [](std::unique_ptr<Communicator> ranks) {
      if (ranks->rank() == 1) fail_input("rank 1 has no data");
      ranks->barrier();
    });
  });
  EXPECT(contains(error, "rank 1 has no data"));
}

}  // namespace
}  // namespace glia::test
