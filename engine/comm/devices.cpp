#include "engine/comm/devices.h"

#include <vector>

#include "engine/comm/aside.h"
#include "engine/comm/copy_engines.h"
#include "engine/core/check.h"

namespace glia {
namespace {

// Host memory that stands for the device's while the host's ranks work on it.
class OnHost : public Communicator {
 public:
  OnHost(Backend& backend, std::unique_ptr<Communicator> host) : backend_(backend), host_(std::move(host)) {}
  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  std::string description() const override { return host_->description() + ", through the host"; }

  void all_reduce(void* data, int64_t n, DType dtype, Reduction reduction) override {
    take(data, n * size_of(dtype));
    host_->all_reduce(in_.data(), n, dtype, reduction);
    give(data, in_);
  }
  void reduce_scatter(const void* from, void* to, int64_t n, DType dtype, Reduction reduction) override {
    take(from, size() * n * size_of(dtype));
    out_.resize(static_cast<size_t>(n * size_of(dtype)));
    host_->reduce_scatter(in_.data(), out_.data(), n, dtype, reduction);
    give(to, out_);
  }
  void all_gather(const void* from, void* to, int64_t n, DType dtype) override {
    take(from, n * size_of(dtype));
    out_.resize(static_cast<size_t>(size() * n * size_of(dtype)));
    host_->all_gather(in_.data(), out_.data(), n, dtype);
    give(to, out_);
  }
  void all_to_all_rows(const void* from, std::span<const int64_t> send, void* to, std::span<const int64_t> receive,
                       int64_t row_bytes) override {
    int64_t sent = 0, received = 0;
    for (const int64_t rows : send) sent += rows;
    for (const int64_t rows : receive) received += rows;
    take(from, sent * row_bytes);
    out_.resize(static_cast<size_t>(received * row_bytes));
    host_->all_to_all_rows(in_.data(), send, out_.data(), receive, row_bytes);
    give(to, out_);
  }
  void broadcast(void* data, int64_t bytes, int root) override {
    take(data, bytes);
    host_->broadcast(in_.data(), bytes, root);
    give(data, in_);
  }
  void barrier() override {
    backend_.synchronize();
    host_->barrier();
  }

 private:
  void take(const void* from, int64_t bytes) {
    in_.resize(static_cast<size_t>(bytes));
    if (bytes > 0) backend_.copy(in_.data(), from, bytes, CopyKind::kDeviceToHost);
  }
  // The copy may still read `bytes` when it returns.
  void give(void* to, const std::vector<char>& bytes) {
    if (bytes.empty()) return;
    backend_.copy(to, bytes.data(), static_cast<int64_t>(bytes.size()), CopyKind::kHostToDevice);
    backend_.synchronize();
  }

  Backend& backend_;
  std::unique_ptr<Communicator> host_;
  std::vector<char> in_, out_;
};

#if GLIA_CUDA
NcclType nccl_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return NcclType::kFloat32;
    case DType::kFloat64: return NcclType::kFloat64;
    case DType::kBFloat16: return NcclType::kBFloat16;
    case DType::kInt32: return NcclType::kInt32;
  }
  CHECK(false, "NCCL: wants a type that it knows");
}

NcclReduction nccl_reduction(Reduction reduction) {
  return reduction == Reduction::kSum   ? NcclReduction::kSum
         : reduction == Reduction::kMax ? NcclReduction::kMax
                                        : NcclReduction::kMin;
}

// All calls go to one side stream, in the order in which they are made: NCCL wants the same order on all ranks. What the main
// stream does next waits for them, but for those that may run aside.
//
// Ranks that are threads of one process launch a call between two meetings. A driver call that allocates or frees waits for the
// devices that this one can reach: made by a rank before it launches, while another's device already waits for that launch, it would
// never return (NVIDIA/nccl issues 744 and 787). Behind the second meeting no device waits for any host.
class OnDevices : public Communicator, public AsideReducer {
 public:
  OnDevices(Backend& backend, std::unique_ptr<Communicator> host, const NcclId& id)
      : nccl_(nccl()), backend_(backend), side_(backend.cuda()->stream), host_(std::move(host)) {
    nccl_.check(nccl_.init_rank(&comm_, size(), id, rank()), "ncclCommInitRank");
    copies_ = std::make_unique<CopyEngines>(comm_, *host_, side_);
    backend_.cuda()->beside = side_.stream();
  }
  // Work may be under way where another rank failed: waiting for it would be waiting for ever.
  ~OnDevices() override {
    if (backend_.cuda()->beside == side_.stream()) backend_.cuda()->beside = nullptr;
    nccl_.abort(comm_);
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  std::string description() const override { return fmt::format("{} GPUs, NCCL", size()); }

  void all_reduce(void* data, int64_t n, DType dtype, Reduction reduction) override {
    const Stream stream = begin();
    nccl_.check(nccl_.all_reduce(data, data, static_cast<size_t>(n), nccl_type(dtype), nccl_reduction(reduction),
                                 comm_, stream),
                "ncclAllReduce");
    end();
  }
  void all_reduce_aside(void* data, int64_t n, DType dtype) override {
    const Stream stream = begin();
    if (copies_->take(data, n, dtype)) copies_->all_reduce(data, n, dtype, stream);
    else
      nccl_.check(nccl_.all_reduce(data, data, static_cast<size_t>(n), nccl_type(dtype), NcclReduction::kSum, comm_,
                                   stream),
                  "ncclAllReduce");
    meet_to_launch();
  }
  void reduce_scatter_aside(void* data, int64_t n, DType dtype) override {
    void* own = static_cast<char*>(data) + rank() * n * size_of(dtype);
    const Stream stream = begin();
    if (copies_->take(data, size() * n, dtype) && size() * n * size_of(dtype) <= copies_->room())
      copies_->reduce_scatter(data, size() * n, dtype, stream);
    else
      nccl_.check(nccl_.reduce_scatter(data, own, static_cast<size_t>(n), nccl_type(dtype), NcclReduction::kSum,
                                       comm_, stream),
                  "ncclReduceScatter");
    meet_to_launch();
  }
  // NCCL takes copy engines by itself where it may.
  void all_gather_aside(void* data, int64_t n, DType dtype) override {
    const Stream stream = begin();
    nccl_.check(nccl_.all_gather(static_cast<char*>(data) + rank() * n * size_of(dtype), data,
                                 static_cast<size_t>(n), nccl_type(dtype), comm_, stream),
                "ncclAllGather");
    meet_to_launch();
  }
  bool takes_multiprocessors() const override { return !copies_->has_memory(); }
  // An update moves 28 bytes a weight at 0.88 of the memory's rate. A gather takes 20 µs and what was measured, and a tenth of that from
  // what runs beside it (two H200); a quarter leaves room for other machines.
  bool worth_sharing(int64_t n) const override {
    if (!copies_->has_memory()) return false;
    const auto elements = static_cast<double>(n);
    const double saved = elements * 28 / (0.88 * backend_.cuda()->memory_rate) * (size() - 1) / size();
    return saved > (20e-6 + 2 * elements * copies_->seconds_a_byte()) / 4;
  }
  std::shared_ptr<void> shared_memory(int64_t bytes) override { return copies_->allocate(bytes); }
  void join_aside() override { side_.join(); }
  void mark_aside(size_t number) override { side_.mark(number); }
  void join_aside_up_to(size_t number) override { side_.join(number); }
  void reduce_scatter(const void* from, void* to, int64_t n, DType dtype, Reduction reduction) override {
    const Stream stream = begin();
    nccl_.check(nccl_.reduce_scatter(from, to, static_cast<size_t>(n), nccl_type(dtype), nccl_reduction(reduction),
                                     comm_, stream),
                "ncclReduceScatter");
    end();
  }
  void all_gather(const void* from, void* to, int64_t n, DType dtype) override {
    const Stream stream = begin();
    nccl_.check(nccl_.all_gather(from, to, static_cast<size_t>(n), nccl_type(dtype), comm_, stream),
                "ncclAllGather");
    end();
  }
  void all_to_all_rows(const void* from, std::span<const int64_t> send, void* to, std::span<const int64_t> receive,
                       int64_t row_bytes) override {
    CHECK(send.size() == static_cast<size_t>(size()) && receive.size() == send.size(),
          "all_to_all_rows: wants counts of {} ranks, got {} and {}", size(), send.size(), receive.size());
    const auto* out = static_cast<const char*>(from);
    auto* in = static_cast<char*>(to);
    const Stream stream = begin();
    nccl_.check(nccl_.group_start(), "ncclGroupStart");
    for (int r = 0; r < size(); ++r) {
      const auto i = static_cast<size_t>(r);
      const auto sent = static_cast<size_t>(send[i] * row_bytes),
                 received = static_cast<size_t>(receive[i] * row_bytes);
      if (sent > 0) nccl_.check(nccl_.send(out, sent, NcclType::kBytes, r, comm_, stream), "ncclSend");
      if (received > 0) nccl_.check(nccl_.receive(in, received, NcclType::kBytes, r, comm_, stream), "ncclRecv");
      out += sent, in += received;
    }
    nccl_.check(nccl_.group_end(), "ncclGroupEnd");
    end();
  }
  void broadcast(void* data, int64_t bytes, int root) override {
    CHECK(root >= 0 && root < size(), "broadcast: wants a root below {}, got {}", size(), root);
    const Stream stream = begin();
    nccl_.check(nccl_.broadcast(data, data, static_cast<size_t>(bytes), NcclType::kBytes, root, comm_, stream),
                "ncclBroadcast");
    end();
  }
  void barrier() override {
    backend_.synchronize();
    host_->barrier();
  }
  bool meet(bool mine) override { return host_->meet(mine); }
  void begin_group() override {
    meet_to_launch();
    nccl_.check(nccl_.group_start(), "ncclGroupStart");
    grouped_ = true;
  }
  void end_group() override {
    grouped_ = false;
    nccl_.check(nccl_.group_end(), "ncclGroupEnd");
    end();
  }
  void abandon_group() noexcept override {
    grouped_ = false;
    nccl_.group_end();  // else the next call would be this group's; in a broken capture it launches nothing
  }

 private:
  // NCCL launches a group's calls at its end: each comes behind all that the main stream had at any of them.
  Stream begin() {
    meet_to_launch();
    return side_.fork();
  }
  void end() {
    if (!grouped_) side_.join();
    meet_to_launch();
  }
  // Within a group its begin and end are what launches; a capture launches nothing.
  void meet_to_launch() {
    if (!grouped_ && !side_.capturing()) host_->meet(true);
  }

  const Nccl& nccl_;
  Backend& backend_;
  SideStream side_;
  std::unique_ptr<Communicator> host_;
  NcclComm comm_ = nullptr;
  std::unique_ptr<CopyEngines> copies_;
  bool grouped_ = false;
};
#endif

}  // namespace

std::unique_ptr<Communicator> on_host(Backend& backend, std::unique_ptr<Communicator> host) {
  if (backend.device().is_cpu()) return host;
  return std::make_unique<OnHost>(backend, std::move(host));
}

std::unique_ptr<Communicator> on_devices([[maybe_unused]] Backend& backend,
                                         [[maybe_unused]] std::unique_ptr<Communicator> host) {
  CHECK(backend.cuda(), "ranks on GPUs: wants a GPU, got {}", backend.description());
#if GLIA_CUDA
  NcclId id{};
  if (host->rank() == 0) nccl().check(nccl().unique_id(&id), "ncclGetUniqueId");
  host->broadcast(&id, sizeof id, 0);
  return std::make_unique<OnDevices>(backend, std::move(host), id);
#else
  return nullptr;
#endif
}

}  // namespace glia
