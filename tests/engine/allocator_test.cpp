// What runs side by side do to each other's memory, and what bounds the graphs that a run keeps. CPU contexts have the same
// allocator; a request for 2^50 bytes is one that no device has room for.
#include "engine/device/allocator.h"

#include <thread>

#include "engine/comm/alone.h"
#include "engine/comm/threads.h"
#include "engine/device/graph_cache.h"
#include "engine/tensor.h"
#include "tests/device.h"
#include "tests/test.h"

namespace glia::test {
namespace {

constexpr int64_t kTooMuch = int64_t{1} << 50;

std::string ask_too_much(Context& context) {
  return error_of([&] { context.allocator().allocate(kTooMuch); });
}

// Stands for a captured graph, counted as capture_graph's are.
class CountedReplay final : public Graph {
 public:
  CountedReplay(Context& context, int64_t& replays, int64_t bytes)
      : context_(context), replays_(replays), bytes_(bytes) {
    context_.allocator().graph_made(bytes_);
  }
  ~CountedReplay() override { context_.allocator().graph_gone(bytes_); }
  void replay() override { ++replays_; }
  int64_t bytes() const override { return bytes_; }

 private:
  Context& context_;
  int64_t& replays_;
  int64_t bytes_;
};

struct Counts {
  int64_t eager = 0, captured = 0, replayed = 0;
};

GraphCache::Capture counting(Counts& counts) {
  return [&counts](Context& context, const std::function<void()>&) {
    ++counts.captured;
    return std::make_unique<CountedReplay>(context, counts.replayed, 1000);
  };
}

}  // namespace

TEST_CASE("allocator: blocks above a page are whole pages, others lose an eighth at most") {
  for (const int64_t page : {int64_t{1}, int64_t{1} << 21})
    for (int64_t bytes = 1; bytes < int64_t{1} << 32; bytes += bytes / 3 + 1) {
      const int64_t size = Allocator::size_class(bytes, page);
      EXPECT(size >= bytes);
      EXPECT(size - bytes <= std::max({int64_t{511}, bytes / 8, page - 1}));
      if (bytes > page && page > 1) EXPECT(size % page == 0);
      if (bytes <= page) EXPECT(size == Allocator::size_class(bytes));
      EXPECT(Allocator::size_class(size, page) == size);
    }
}

TEST_CASE(
    "allocator: a request that fails takes the free lists of every run on the device, and says who holds what") {
  Context one(Device::cpu()), other(Device::cpu());
  const Tensor kept = zeros(other, {1 << 18});
  { const Tensor dropped = zeros(other, {1 << 20}); }
  { const Tensor dropped = zeros(one, {1 << 20}); }
  EXPECT(other.allocator().stats().cached == 1 << 22);
  const std::string message = ask_too_much(one);
  EXPECT(other.allocator().stats().cached == 0);
  EXPECT(one.allocator().stats().cached == 0);
  EXPECT(other.allocator().stats().active == 1 << 20);
  EXPECT(contains(message, "1 more of this program 1048576"));
  EXPECT(contains(message, "cached 0; "));
}

TEST_CASE("allocator: nothing is given back while a graph is captured") {
  Context one(Device::cpu()), other(Device::cpu());
  { const Tensor dropped = zeros(other, {1 << 20}); }
  one.allocator().use_pool(1);
  ask_too_much(one);
  EXPECT(other.allocator().stats().cached == 1 << 22);
  one.allocator().use_pool(0);
}

TEST_CASE("allocator: blocks of a capture are nobody else's until the last graph is gone") {
  Context c(Device::cpu());
  Allocator& a = c.allocator();
  const int64_t before = a.stats().system_allocations;
  a.use_pool(1);
  a.release(a.allocate(1 << 20));
  a.graph_made(100);
  a.use_pool(0);
  EXPECT(a.stats().graph_bytes == 100);
  a.release(a.allocate(1 << 20));
  EXPECT(a.stats().system_allocations == before + 2);
  a.trim();
  EXPECT(a.stats().cached == 1 << 20);
  a.graph_gone(100);
  a.release(a.allocate(1 << 20));
  EXPECT(a.stats().system_allocations == before + 2);
  a.trim();
  EXPECT(a.stats().cached == 0);
  EXPECT(a.stats().graphs == 0);
}

TEST_CASE(
    "graph cache: eagerly once, captured once, then replayed; shapes beyond the limit stay eager until one has waited") {
  Context c(Device::cpu());
  Counts n;
  GraphCache cache(c, counting(n));
  const auto use = [&](int64_t shape) { cache.run({shape, 0, 1, 1}, true, [&] { ++n.eager; }); };
  for (int turn = 0; turn < 3; ++turn) use(7);
  EXPECT(n.eager == 1);
  EXPECT(n.captured == 1);
  EXPECT(n.replayed == 2);
  for (int turn = 0; turn < 4; ++turn)
    for (int64_t shape = 0; shape < GraphCache::kMost + 8; ++shape) use(shape);
  EXPECT(cache.count() == GraphCache::kMost);
  EXPECT(c.allocator().stats().graphs == GraphCache::kMost);
  EXPECT(n.captured == GraphCache::kMost);  // no shape is captured twice in turn with others
  // One shape alone, long enough for the others to have waited.
  const int64_t late = GraphCache::kMost + 7;
  for (int64_t i = 0; i <= GraphCache::kIdle; ++i) use(late);
  EXPECT(n.captured == GraphCache::kMost + 1);
  EXPECT(cache.count() == GraphCache::kMost);
  const int64_t eager = n.eager;
  use(late);
  EXPECT(n.eager == eager);
  // Off: everything is eager, whatever was captured.
  cache.run({late, 0, 1, 1}, false, [&] { ++n.eager; });
  EXPECT(n.eager == eager + 1);
}

// A device after an illegal access: every wait for it throws, and what it held goes when it does.
class LostDevice final : public Backend {
 public:
  ~LostDevice() override {
    for (void* p : held_) host_->release(p);
  }
  Device device() const override { return Device::cpu(); }
  std::string description() const override { return "lost"; }
  void* allocate(int64_t bytes) override { return held_.emplace_back(host_->allocate(bytes)); }
  void release(void*) noexcept override {}
  void* allocate_pinned(int64_t bytes) override { return host_->allocate_pinned(bytes); }
  void release_pinned(void* p) noexcept override { host_->release_pinned(p); }
  void copy(void*, const void*, int64_t, CopyKind) override { synchronize(); }
  void fill_zero(void*, int64_t) override {}
  void synchronize() override { throw Error("an illegal memory access was encountered"); }
  int64_t free_bytes() override { return 0; }

 private:
  std::unique_ptr<Backend> host_ = make_cpu_backend();
  std::vector<void*> held_;
};

TEST_CASE("allocator: the error of a device that is lost is told, and ends no program on its way") {
  LostDevice device;
  EXPECT(error_of([&] {
           Allocator allocator(device);
           allocator.release(allocator.allocate(100));
           device.synchronize();
         }) == "an illegal memory access was encountered");
}

TEST_CASE("graph cache: graphs go where memory ends, here or for another run, and the steps go on") {
  Context one(Device::cpu()), other(Device::cpu());
  Counts n;
  GraphCache cache(one, counting(n));
  const auto use = [&] { cache.run({1, 0, 1, 1}, true, [&] { ++n.eager; }); };
  use(), use();
  EXPECT(one.allocator().stats().graphs == 1);
  ask_too_much(one);
  EXPECT(one.allocator().stats().graphs == 0);
  use();
  EXPECT(n.eager == 2);
  for (int64_t i = 0; i <= GraphCache::kEager; ++i) use();
  EXPECT(one.allocator().stats().graphs == 1);  // and again, when it has been eager for a while
  // Another run asks while this one trains: its own thread gives them back, between two steps.
  std::atomic<bool> done = false;
  std::thread asking([&] {
    ask_too_much(other);
    done = true;
  });
  bool gone = false;
  while (!done) {
    use();
    gone = gone || one.allocator().stats().graphs == 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  asking.join();
  EXPECT(gone);
}

TEST_CASE("graph cache: a capture without memory is no error, one that breaks three times is") {
  Context c(Device::cpu());
  int64_t eager = 0, attempts = 0;
  const auto run_with = [&](const std::function<void()>& fail) {
    eager = attempts = 0;
    GraphCache cache(c, [&](Context&, const std::function<void()>&) -> std::unique_ptr<Graph> {
      ++attempts;
      fail();
      return nullptr;
    });
    for (int i = 0; i < 10; ++i) cache.run({1, 0, 1, 1}, true, [&] { ++eager; });
  };
  run_with([] { throw OutOfMemory("no room"); });
  EXPECT(eager == 10);
  EXPECT(attempts == 3);
  EXPECT(contains(error_of([&] { run_with([] { throw Error("broken"); }); }), "broken"));
  EXPECT(attempts == 3);
}

TEST_CASE("graph cache: of ranks in one process all replay or none") {
  constexpr int kRanks = 3;
  Counts counts[kRanks];
  run_ranks(kRanks, [&](std::unique_ptr<Communicator> communicator) {
    const int rank = communicator->rank();
    Counts& n = counts[rank];
    Context c(Device::cpu());
    set_ranks(c, std::move(communicator));
    GraphCache cache(c, [&](Context& context, const std::function<void()>& work) -> std::unique_ptr<Graph> {
      if (n.captured == 0 && rank == 1) {
        ++n.captured;
        throw Error("broken by another thread's call");
      }
      return counting(n)(context, work);
    });
    const auto use = [&] { cache.run({1, 0, 1, 1}, true, [&] { ++n.eager; }); };
    use(), use();
    EXPECT(n.eager == 2);  // one rank's capture was broken
    use(), use();
    EXPECT(n.eager == 2);
    EXPECT(n.replayed == 2);
    const Alone alone(c);  // an evaluation: nobody is waited for
    if (rank == 0) use();
  });
  EXPECT(counts[0].replayed == 3);
  EXPECT(counts[1].captured == 2);
  EXPECT(counts[2].captured == 1);
}

TEST_CASE(
    "allocator: on a GPU a captured graph is counted as long as it lives, and its blocks are free afterwards") {
  if (!on_gpu()) SKIP("no GPU (GLIA_TEST_DEVICE=cuda)");
  Context c(Device::cuda());
  const Tensor x = zeros(c, {1 << 20});
  EXPECT(c.allocator().stats().reserved > 0);
  const auto work = [&] { Tensor(x).copy_from(x.clone()); };
  work();
  std::unique_ptr<Graph> graph = capture_graph(c, work);
  EXPECT(c.allocator().stats().graphs == 1);
  EXPECT(c.allocator().stats().graph_bytes == graph->bytes());
  graph->replay();
  EXPECT(contains(c.allocator().report(), "1 graphs of"));
  c.synchronize();
  graph.reset();
  EXPECT(c.allocator().stats().graphs == 0);
  EXPECT(c.allocator().stats().graph_bytes == 0);
  c.allocator().trim();
  EXPECT(c.allocator().stats().cached == 0);
}

}  // namespace glia::test
