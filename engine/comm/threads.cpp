#include "engine/comm/threads.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "engine/comm/aside.h"
#include "engine/comm/reduce.h"
#include "engine/core/check.h"

namespace glia {
namespace {

using Bytes = std::vector<char>;

// What a process's threads share: where each one's memory of the current call lies, and a barrier that a failure opens.
class Meeting {
 public:
  Meeting(int ranks, Transport* transport) : ranks_(ranks), transport_(transport) {
    mine = range(process());
    const auto threads = static_cast<size_t>(count());
    from.resize(threads), to.resize(threads), sends.resize(threads), receives.resize(threads);
    nodes = tree_nodes(ranks, mine.first, mine.end);
    sums.resize(nodes.size()), others.resize(static_cast<size_t>(processes()));
  }

  RankRange mine;
  // By thread.
  std::vector<const void*> from;
  std::vector<void*> to;
  std::vector<std::span<const int64_t>> sends, receives;
  // Of the process: the tree's nodes that its ranks make up, and their sums; what came from other processes; the result.
  std::vector<TreeNode> nodes;
  std::vector<Bytes> sums, others;
  Bytes whole;

  int ranks() const { return ranks_; }
  int count() const { return mine.end - mine.first; }
  int process() const { return transport_ ? transport_->process() : 0; }
  int processes() const { return transport_ ? transport_->processes() : 1; }
  RankRange range(int process) const { return ranks_of(ranks_, processes(), process); }

  // True where all that came said so.
  bool wait(bool mine = true) {
    std::unique_lock lock(mutex_);
    const int64_t turn = turn_;
    all_ = all_ && mine;
    if (++arrived_ == count()) {
      agreed_ = all_, all_ = true;
      arrived_ = 0, ++turn_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return turn_ != turn || failed_; });
    CHECK(turn_ != turn, "ranks: another rank has failed");
    return agreed_;  // of this turn: the next one ends only when this thread has come to it
  }
  void fail() {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    changed_.notify_all();
  }

  // To every other process `out(q)`, from every other `in(q)`: pairs of memory and bytes. Of one thread.
  template <class Out, class In> void exchange(Out out, In in) {
    std::vector<Transport::Outgoing> outgoing;
    std::vector<Transport::Incoming> incoming;
    for (int q = 0; q < processes(); ++q) {
      if (q == process()) continue;
      const auto [send, sent] = out(q);
      const auto [receive, received] = in(q);
      if (sent > 0) outgoing.push_back({q, send, sent});
      if (received > 0) incoming.push_back({q, receive, received});
    }
    if (transport_) transport_->exchange(outgoing, incoming);
  }

 private:
  int ranks_;
  Transport* transport_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  int64_t turn_ = 0;
  bool all_ = true, agreed_ = true, failed_ = false;
};

struct Slice {
  int64_t first, count;
};
Slice slice_of(int64_t n, int64_t parts, int64_t part) {
  const int64_t first = n * part / parts;
  return {first, n * (part + 1) / parts - first};
}

class ThreadCommunicator : public Communicator, public AsideReducer {
 public:
  ThreadCommunicator(Meeting& meeting, int thread) : meeting_(meeting), thread_(thread) {}
  int rank() const override { return meeting_.mine.first + thread_; }
  int size() const override { return meeting_.ranks(); }
  std::string description() const override {
    return fmt::format("{} ranks in {} process{}", size(), meeting_.processes(), several() ? "es" : "");
  }

  void all_reduce(void* data, int64_t n, DType dtype, Reduction reduction) override {
    const int64_t each = size_of(dtype);
    const auto slice = [&](int q) { return slice_of(n, meeting_.processes(), q); };
    reduce(data, n, dtype, reduction, slice);
    if (several() && leads())
      meeting_.exchange(
          [&](int) {
            const Slice s = slice(meeting_.process());
            return std::pair<const void*, int64_t>(meeting_.whole.data() + s.first * each, s.count * each);
          },
          [&](int q) {
            return std::pair<void*, int64_t>(meeting_.whole.data() + slice(q).first * each, slice(q).count * each);
          });
    meeting_.wait();
    std::memcpy(data, meeting_.whole.data(), static_cast<size_t>(n * each));
  }

  void reduce_scatter(const void* from, void* to, int64_t n, DType dtype, Reduction reduction) override {
    reduce(from, size() * n, dtype, reduction, [&](int q) {
      const RankRange r = meeting_.range(q);
      return Slice{r.first * n, (r.end - r.first) * n};
    });
    meeting_.wait();  // the process's slice is whole
    std::memcpy(to, meeting_.whole.data() + rank() * n * size_of(dtype), static_cast<size_t>(n * size_of(dtype)));
  }

  void all_gather(const void* from, void* to, int64_t n, DType dtype) override {
    const int64_t bytes = n * size_of(dtype);
    make_room(size() * bytes);
    std::memcpy(meeting_.whole.data() + rank() * bytes, from, static_cast<size_t>(bytes));
    meeting_.wait();
    const auto place = [&](int q) {
      const RankRange r = meeting_.range(q);
      return std::pair<void*, int64_t>(meeting_.whole.data() + r.first * bytes, (r.end - r.first) * bytes);
    };
    if (leads()) meeting_.exchange([&](int) { return place(meeting_.process()); }, place);
    meeting_.wait();
    std::memcpy(to, meeting_.whole.data(), static_cast<size_t>(size() * bytes));
  }

  void all_to_all_rows(const void* from, std::span<const int64_t> send, void* to, std::span<const int64_t> receive,
                       int64_t row_bytes) override {
    CHECK(send.size() == static_cast<size_t>(size()) && receive.size() == send.size(),
          "all_to_all_rows: wants counts of {} ranks, got {} and {}", size(), send.size(), receive.size());
    const auto me = static_cast<size_t>(thread_);
    meeting_.from[me] = from, meeting_.to[me] = to;
    meeting_.sends[me] = send, meeting_.receives[me] = receive;
    meeting_.wait();
    if (several() && leads()) send_rows(row_bytes);
    take_rows(row_bytes);
    meeting_.wait();
    if (several()) take_rows_of_others(row_bytes);
    meeting_.wait();  // nobody's counts and memory are read any more
  }

  void broadcast(void* data, int64_t bytes, int root) override {
    CHECK(root >= 0 && root < size(), "broadcast: wants a root below {}, got {}", size(), root);
    make_room(bytes);
    if (rank() == root) std::memcpy(meeting_.whole.data(), data, static_cast<size_t>(bytes));
    meeting_.wait();
    if (leads()) {
      const auto holds = [&](int q) { return root >= meeting_.range(q).first && root < meeting_.range(q).end; };
      const bool mine = holds(meeting_.process());
      meeting_.exchange(
          [&](int) { return std::pair<const void*, int64_t>(meeting_.whole.data(), mine ? bytes : 0); },
          [&](int q) { return std::pair<void*, int64_t>(meeting_.whole.data(), holds(q) ? bytes : 0); });
    }
    meeting_.wait();
    std::memcpy(data, meeting_.whole.data(), static_cast<size_t>(bytes));
  }

  bool meet(bool mine) override { return meeting_.wait(mine); }

  // Nothing runs beside: whoever waits here holds the core.
  void all_reduce_aside(void* data, int64_t n, DType dtype) override {
    all_reduce(data, n, dtype, Reduction::kSum);
  }
  void reduce_scatter_aside(void* data, int64_t n, DType dtype) override {
    reduce_scatter(data, static_cast<char*>(data) + rank() * n * size_of(dtype), n, dtype, Reduction::kSum);
  }
  void all_gather_aside(void* data, int64_t n, DType dtype) override {
    all_gather(static_cast<char*>(data) + rank() * n * size_of(dtype), data, n, dtype);
  }
  void join_aside() override {}
  void mark_aside(size_t) override {}
  void join_aside_up_to(size_t) override {}

  void barrier() override {
    meeting_.wait();
    char out = 0;
    std::vector<char> in(static_cast<size_t>(meeting_.processes()));
    if (leads())
      meeting_.exchange([&](int) { return std::pair<const void*, int64_t>(&out, 1); },
                        [&](int q) { return std::pair<void*, int64_t>(&in[static_cast<size_t>(q)], 1); });
    meeting_.wait();
  }

 private:
  bool leads() const { return thread_ == 0; }
  bool several() const { return meeting_.processes() > 1; }

  // Everyone comes here before a call's first meeting, and leaves the last call only when `whole` was read.
  void make_room(int64_t bytes) {
    meeting_.wait();
    if (leads()) meeting_.whole.resize(static_cast<size_t>(bytes));
    meeting_.wait();
  }

  // whole[slice(process)] := the reduction over all ranks' from [n]. Each process adds what it can on its own, sends every
  // other the part that is theirs to complete, and completes its own along the same tree.
  template <class SliceOf>
  void reduce(const void* from, int64_t n, DType dtype, Reduction reduction, SliceOf slice) {
    const int64_t each = size_of(dtype);
    meeting_.from[static_cast<size_t>(thread_)] = from;
    make_room(n * each);
    if (leads() && several())
      for (Bytes& sum : meeting_.sums) sum.resize(static_cast<size_t>(n * each));
    meeting_.wait();
    add_own(slice_of(n, meeting_.count(), thread_), each, dtype, reduction);
    meeting_.wait();
    if (!several()) return;
    const Slice mine = slice(meeting_.process());
    if (leads()) exchange_sums(slice, mine, each);
    meeting_.wait();
    const Slice part = slice_of(mine.count, meeting_.count(), thread_);
    complete({mine.first + part.first, part.count}, mine, each, dtype, reduction);
    meeting_.wait();
  }

  void add_own(Slice s, int64_t each, DType dtype, Reduction reduction) {
    std::vector<TreeNode> leaves;
    std::vector<const void*> x;
    for (int t = 0; t < meeting_.count(); ++t) {
      leaves.push_back({meeting_.mine.first + t, meeting_.mine.first + t + 1});
      x.push_back(static_cast<const char*>(meeting_.from[static_cast<size_t>(t)]) + s.first * each);
    }
    for (size_t k = 0; k < meeting_.nodes.size(); ++k)
      reduce_tree(meeting_.nodes[k], leaves, x,
                  (several() ? meeting_.sums[k] : meeting_.whole).data() + s.first * each, s.count, dtype,
                  reduction);
  }

  // Node by node, each process the slice that it completes.
  template <class SliceOf> void exchange_sums(SliceOf slice, Slice mine, int64_t each) {
    for (int q = 0; q < meeting_.processes(); ++q)
      meeting_.others[static_cast<size_t>(q)].resize(node_count(q) * static_cast<size_t>(mine.count * each));
    size_t most = 0;
    for (int q = 0; q < meeting_.processes(); ++q) most = std::max(most, node_count(q));
    for (size_t k = 0; k < most; ++k)
      meeting_.exchange(
          [&](int q) {
            const bool has = k < meeting_.nodes.size();
            return std::pair<const void*, int64_t>(has ? meeting_.sums[k].data() + slice(q).first * each : nullptr,
                                                   has ? slice(q).count * each : 0);
          },
          [&](int q) {
            const bool has = k < node_count(q);
            return std::pair<void*, int64_t>(
                has ? meeting_.others[static_cast<size_t>(q)].data() + static_cast<int64_t>(k) * mine.count * each
                    : nullptr,
                has ? mine.count * each : 0);
          });
  }
  size_t node_count(int q) const {
    return tree_nodes(size(), meeting_.range(q).first, meeting_.range(q).end).size();
  }

  void complete(Slice s, Slice mine, int64_t each, DType dtype, Reduction reduction) {
    std::vector<TreeNode> leaves;
    std::vector<const void*> x;
    for (int q = 0; q < meeting_.processes(); ++q) {
      const std::vector<TreeNode> nodes = tree_nodes(size(), meeting_.range(q).first, meeting_.range(q).end);
      const bool own = q == meeting_.process();
      for (size_t k = 0; k < nodes.size(); ++k) {
        leaves.push_back(nodes[k]);
        x.push_back(own ? meeting_.sums[k].data() + s.first * each
                        : meeting_.others[static_cast<size_t>(q)].data() +
                              (static_cast<int64_t>(k) * mine.count + s.first - mine.first) * each);
      }
    }
    reduce_tree({0, size()}, leaves, x, meeting_.whole.data() + s.first * each, s.count, dtype, reduction);
  }

  // Where in a thread's memory the rows of one rank begin, by its counts.
  static int64_t rows_before(std::span<const int64_t> counts, int rank) {
    return std::accumulate(counts.begin(), counts.begin() + rank, int64_t{0});
  }

  // Between this process's threads.
  void take_rows(int64_t row_bytes) {
    const auto me = static_cast<size_t>(thread_);
    for (int t = 0; t < meeting_.count(); ++t) {
      const auto other = static_cast<size_t>(t);
      const int r = meeting_.mine.first + t;
      const int64_t sent = meeting_.sends[other][static_cast<size_t>(rank())],
                    wanted = meeting_.receives[me][static_cast<size_t>(r)];
      CHECK(sent == wanted, "all_to_all_rows: rank {} sends {} rows to rank {}, which wants {}", r, sent, rank(),
            wanted);
      std::memcpy(
          static_cast<char*>(meeting_.to[me]) + rows_before(meeting_.receives[me], r) * row_bytes,
          static_cast<const char*>(meeting_.from[other]) + rows_before(meeting_.sends[other], rank()) * row_bytes,
          static_cast<size_t>(wanted * row_bytes));
    }
  }

  // Between processes: to each of another's ranks in order what this process's ranks send it, one after the other.
  void send_rows(int64_t row_bytes) {
    std::vector<Bytes> out(static_cast<size_t>(meeting_.processes()));
    for (int q = 0; q < meeting_.processes(); ++q) {
      if (q == meeting_.process()) continue;
      int64_t rows = 0;
      for (int b = meeting_.range(q).first; b < meeting_.range(q).end; ++b)
        for (int t = 0; t < meeting_.count(); ++t) {
          const std::span<const int64_t> counts = meeting_.sends[static_cast<size_t>(t)];
          const char* begin =
              static_cast<const char*>(meeting_.from[static_cast<size_t>(t)]) + rows_before(counts, b) * row_bytes;
          Bytes& bytes = out[static_cast<size_t>(q)];
          bytes.insert(bytes.end(), begin, begin + counts[static_cast<size_t>(b)] * row_bytes);
        }
      for (int t = 0; t < meeting_.count(); ++t)
        for (int a = meeting_.range(q).first; a < meeting_.range(q).end; ++a)
          rows += meeting_.receives[static_cast<size_t>(t)][static_cast<size_t>(a)];
      meeting_.others[static_cast<size_t>(q)].resize(static_cast<size_t>(rows * row_bytes));
    }
    meeting_.exchange(
        [&](int q) {
          const Bytes& bytes = out[static_cast<size_t>(q)];
          return std::pair<const void*, int64_t>(bytes.data(), static_cast<int64_t>(bytes.size()));
        },
        [&](int q) {
          Bytes& bytes = meeting_.others[static_cast<size_t>(q)];
          return std::pair<void*, int64_t>(bytes.data(), static_cast<int64_t>(bytes.size()));
        });
  }
  void take_rows_of_others(int64_t row_bytes) {
    const std::span<const int64_t> receive = meeting_.receives[static_cast<size_t>(thread_)];
    for (int q = 0; q < meeting_.processes(); ++q) {
      if (q == meeting_.process()) continue;
      const RankRange theirs = meeting_.range(q);
      const auto rows = [&](int thread) {
        const std::span<const int64_t> counts = meeting_.receives[static_cast<size_t>(thread)];
        return rows_before(counts, theirs.end) - rows_before(counts, theirs.first);
      };
      int64_t before = 0;
      for (int t = 0; t < thread_; ++t) before += rows(t);
      std::memcpy(static_cast<char*>(meeting_.to[static_cast<size_t>(thread_)]) +
                      rows_before(receive, theirs.first) * row_bytes,
                  meeting_.others[static_cast<size_t>(q)].data() + before * row_bytes,
                  static_cast<size_t>(rows(thread_) * row_bytes));
    }
  }

  Meeting& meeting_;
  int thread_;
};

}  // namespace

RankRange ranks_of(int ranks, int processes, int process) {
  return {static_cast<int>(int64_t{ranks} * process / processes),
          static_cast<int>(int64_t{ranks} * (process + 1) / processes)};
}

void run_ranks(int ranks, const std::function<void(std::unique_ptr<Communicator>)>& body, Transport* transport) {
  CHECK(ranks >= 1, "ranks: wants one at least, got {}", ranks);
  if (transport && transport->processes() > ranks)
    fail_input("ranks: expected at most as many processes as ranks, {}, got {}", ranks, transport->processes());
  Meeting meeting(ranks, transport);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (int t = 0; t < meeting.count(); ++t)
    threads.emplace_back([&, t] {
      try {
        body(std::make_unique<ThreadCommunicator>(meeting, t));
      } catch (...) {
        {
          const std::lock_guard lock(mutex);
          if (!first) first = std::current_exception();
        }
        meeting.fail();
      }
    });
  for (std::thread& t : threads) t.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace glia
