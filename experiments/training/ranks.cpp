#include "experiments/training/ranks.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <thread>

#include "engine/comm/alone.h"
#include "engine/comm/devices.h"
#include "engine/comm/threads.h"
#include "engine/core/build_info.h"
#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/tensor.h"

namespace glia {
namespace {

// The first process may load data, evaluate or write for as long as it wants: a launcher ends all when one dies.
constexpr double kForever = 1e9;

bool exact(const Options& o) { return o.reduction == "exact"; }

int threads_a_rank(const Options& o, int ranks_here) {
  return o.threads > 0 ? static_cast<int>(o.threads) : std::max(1, omp_get_num_procs() / ranks_here);
}

}  // namespace

Ranks Ranks::join(const Options& options) {
  Ranks ranks;
  ranks.transport_ = join_processes();
  if (!ranks.transport_) return ranks;
  ranks.transport_->set_patience(options.rank_timeout);
  if (!ranks.first_process() && !std::freopen("/dev/null", "w", stdout))
    fail_input("/dev/null: cannot open it for writing");
  return ranks;
}

const Ranks& Ranks::alone() {
  static const Ranks one;
  return one;
}

int Ranks::count(const Options& o) const {
  if (exact(o)) return static_cast<int>(o.chunks);
  return o.ranks > 0 ? static_cast<int>(o.ranks) : processes();
}

std::string Ranks::described(const Options& o) const {
  return fmt::format("{} in {} process{}, reduction {}", count(o), processes(), processes() == 1 ? "" : "es",
                     o.reduction);
}

std::string Ranks::name_of(int rank, int ranks) const {
  if (!transport_) return fmt::format("rank {}", rank);
  int process = 0;
  while (ranks_of(ranks, processes(), process).end <= rank) ++process;
  return fmt::format("rank {} on {}", rank, transport_->host(process));
}

namespace {

void check_expert_parallel(const Options& o, int ranks) {
  const int64_t parts = o.expert_parallel;
  if (parts == 1) return;
  if (ranks % parts != 0) fail_input("--expert-parallel: expected a divisor of {} ranks, got {}", ranks, parts);
  if (o.experts % parts != 0)
    fail_input("--expert-parallel: expected a divisor of --experts, {}, got {}", o.experts, parts);
  // There nobody may wait for counts: all ranks get the rows of all (engine/ops/ranks), and their sums have NCCL's order.
  if (o.device.starts_with("cuda") && (exact(o) || parts != ranks))
    fail_input("--expert-parallel: on GPUs expected {}, got {}",
               exact(o) ? "--reduction fast" : fmt::format("all {} ranks in one group", ranks),
               exact(o) ? o.reduction : std::to_string(parts));
  // A group is then a node of the tree, and a step's gradients are added over its ranks before anything else is.
  if (exact(o) && (!std::has_single_bit(static_cast<uint64_t>(parts)) || o.micro_batches > 1))
    fail_input(
        "--expert-parallel: expected a power of two and one micro-batch with --reduction exact, got {} and {}",
        parts, o.micro_batches);
}

}  // namespace

void Ranks::check(const Options& o) const {
  const int all = count(o);
  check_expert_parallel(o, all);
  if (all < processes())
    fail_input("--{}: expected at least as many as there are processes, {}, got {}", exact(o) ? "chunks" : "ranks",
               processes(), all);
  if (o.device.starts_with("cuda") && !exact(o) && all > 1) {
    const RankRange own = ranks_of(all, processes(), transport_ ? transport_->process() : 0);
    if (const int here = own.end - own.first; here > cuda_device_count())
      fail_input("--ranks: expected at most as many as there are GPUs here, {}, got {}", cuda_device_count(), here);
    require_nccl();
  }
  agree({{"the commit", build_commit()}, {"the build", build_variant()}, {"the flags", echo(o)}});
}

void Ranks::agree(const std::vector<Agreed>& mine) const {
  if (transport_) require_agreement(*transport_, mine);
}

void Ranks::run(const Options& o, Device device, uint64_t seed, const std::function<void(Context&)>& body) const {
  const int all = count(o);
  if (all == 1) {
    Context context(device, seed);
    return body(context);
  }
  const RankRange own = ranks_of(all, processes(), transport_ ? transport_->process() : 0);
  const int here = own.end - own.first, threads = threads_a_rank(o, here);
  run_ranks(
      all,
      [&](std::unique_ptr<Communicator> host) {
        omp_set_num_threads(threads);
        const int local = host->rank() - own.first + (transport_ ? transport_->local() * here : 0);
        const Device mine = device.is_cpu() ? device : Device::cuda(local % std::max(1, cuda_device_count()));
        Context context(mine, seed);
        set_ranks(context, exact(o) || mine.is_cpu() ? on_host(context.backend(), std::move(host))
                                                     : on_devices(context.backend(), std::move(host)));
        body(context);
      },
      transport_.get());
}

void Ranks::lead(int64_t run) const {
  std::vector<Transport::Outgoing> out;
  for (int q = 1; q < processes(); ++q) out.push_back({q, &run, sizeof run});
  if (transport_) transport_->exchange(out, {});
}

int64_t Ranks::follow() const {
  int64_t run = -1;
  const Transport::Incoming in{0, &run, sizeof run};
  transport_->exchange({}, {&in, 1}, kForever);
  return run;
}

void Ranks::after_first(const std::function<void()>& body) const {
  if (first_process()) body();
  if (!transport_) return;
  if (first_process()) lead(0);
  else follow(), body();
}

void Ranks::end_all(const char* program, const std::string& message) const {
  if (!transport_) return;
  std::fflush(nullptr);
  // What is wrong with all of them the first one says: it ends the others while they wait here.
  if (!first_process()) std::this_thread::sleep_for(std::chrono::seconds(2));
  fmt::print(stderr, "{}: rank {} on {}: {}\n", program, transport_->process(),
             transport_->host(transport_->process()), message);
  std::fflush(nullptr);
  transport_->abort(2);
}

void require_same_start(const Ranks& ranks, Context& context, const Tensor& weights, int64_t step) {
  Communicator& all = context.communicator();
  if (all.size() == 1) return;
  const std::vector<float> values = weights.to_vector<float>();
  const uint64_t hash = hash_bytes({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  const std::vector<int32_t> mine = {static_cast<int32_t>(step), static_cast<int32_t>(hash >> 32),
                                     static_cast<int32_t>(hash)};
  const Tensor own = from_vector(context, mine, {3}), gathered = zeros(context, {3 * all.size()}, DType::kInt32);
  all.all_gather(own.raw(), gathered.raw(), 3, DType::kInt32);
  const std::vector<int32_t> every = gathered.to_vector<int32_t>();
  for (int r = 1; r < all.size(); ++r) {
    const int32_t* theirs = every.data() + 3 * r;
    if (theirs[0] != every[0])
      fail_input("{}: expected to begin at step {} as rank 0 does, got {}", ranks.name_of(r, all.size()), every[0],
                 theirs[0]);
    if (theirs[1] != every[1] || theirs[2] != every[2])
      fail_input("{}: its weights at step {} are not those of rank 0", ranks.name_of(r, all.size()), every[0]);
  }
}

}  // namespace glia
