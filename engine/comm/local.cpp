#include "engine/core/check.h"
#include "engine/device/communicator.h"

namespace glia {
namespace {

// One rank alone. Nothing is launched where input and output are the same memory, so a step costs what it did before
// there were ranks.
class LocalCommunicator : public Communicator {
 public:
  explicit LocalCommunicator(Backend& backend) : backend_(backend) {}
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string description() const override { return "one rank"; }

  void all_reduce(void* data, int64_t n, DType, Reduction) override { check(data, n, "all_reduce"); }
  void reduce_scatter(const void* from, void* to, int64_t n, DType dtype, Reduction) override {
    move(from, to, n, size_of(dtype), "reduce_scatter");
  }
  void all_gather(const void* from, void* to, int64_t n, DType dtype) override {
    move(from, to, n, size_of(dtype), "all_gather");
  }
  void all_to_all_rows(const void* from, std::span<const int64_t> send, void* to, std::span<const int64_t> receive,
                       int64_t row_bytes) override {
    CHECK(send.size() == 1 && receive.size() == 1, "all_to_all_rows: wants counts of 1 rank, got {} and {}",
          send.size(), receive.size());
    CHECK(send[0] == receive[0], "all_to_all_rows: rank 0 sends {} rows to itself and wants {}", send[0],
          receive[0]);
    move(from, to, send[0], row_bytes, "all_to_all_rows");
  }
  void broadcast(void* data, int64_t bytes, int root) override {
    CHECK(root == 0, "broadcast: wants a root below 1, got {}", root);
    check(data, bytes, "broadcast");
  }
  void barrier() override { backend_.synchronize(); }

 private:
  static void check(const void* data, int64_t n, const char* call) {
    CHECK(n >= 0 && (data || n == 0), "{}: wants memory of {} elements, got {}", call, n, data);
  }
  void move(const void* from, void* to, int64_t n, int64_t each, const char* call) {
    check(from, n, call), check(to, n, call);
    if (from != to && n > 0) backend_.copy(to, from, n * each, CopyKind::kDeviceToDevice);
  }

  Backend& backend_;
};

}  // namespace

std::unique_ptr<Communicator> make_local_communicator(Backend& backend) {
  return std::make_unique<LocalCommunicator>(backend);
}

}  // namespace glia
