#include "engine/comm/alone.h"

#include "engine/comm/aside.h"

namespace glia {
namespace {

class RanksOrAlone : public Communicator {
 public:
  RanksOrAlone(Backend& backend, std::unique_ptr<Communicator> ranks)
      : ranks_(std::move(ranks)), one_(make_local_communicator(backend)) {}
  int rank() const override { return now().rank(); }
  int size() const override { return now().size(); }
  std::string description() const override { return now().description(); }
  void all_reduce(void* data, int64_t n, DType dtype, Reduction reduction) override {
    now().all_reduce(data, n, dtype, reduction);
  }
  void reduce_scatter(const void* from, void* to, int64_t n, DType dtype, Reduction reduction) override {
    now().reduce_scatter(from, to, n, dtype, reduction);
  }
  void all_gather(const void* from, void* to, int64_t n, DType dtype) override {
    now().all_gather(from, to, n, dtype);
  }
  void all_to_all_rows(const void* from, std::span<const int64_t> send, void* to, std::span<const int64_t> receive,
                       int64_t row_bytes) override {
    now().all_to_all_rows(from, send, to, receive, row_bytes);
  }
  void broadcast(void* data, int64_t bytes, int root) override { now().broadcast(data, bytes, root); }
  void barrier() override { now().barrier(); }
  bool meet(bool mine) override { return now().meet(mine); }
  std::shared_ptr<void> shared_memory(int64_t bytes) override { return now().shared_memory(bytes); }
  void begin_group() override { now().begin_group(); }
  void end_group() override { now().end_group(); }
  void abandon_group() noexcept override { now().abandon_group(); }

  Communicator& now() const { return alone ? *one_ : *ranks_; }
  bool alone = false;

 private:
  std::unique_ptr<Communicator> ranks_, one_;
};

}  // namespace

void set_ranks(Context& context, std::unique_ptr<Communicator> ranks) {
  context.set_communicator(std::make_unique<RanksOrAlone>(context.backend(), std::move(ranks)));
}

AsideReducer* aside_of(Communicator& communicator) {
  auto* both = dynamic_cast<RanksOrAlone*>(&communicator);
  return dynamic_cast<AsideReducer*>(both ? &both->now() : &communicator);
}

Alone::Alone(Context& context) {
  auto* both = dynamic_cast<RanksOrAlone*>(&context.communicator());
  CHECK(both || context.communicator().size() == 1, "alone: wants ranks that set_ranks() gave");
  if (!both || both->alone) return;
  alone_ = &both->alone;
  *alone_ = true;
}

Alone::~Alone() {
  if (alone_) *alone_ = false;
}

}  // namespace glia
