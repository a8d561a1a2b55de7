// Ranks of another make around those that run_ranks() gives, for tests.
#pragma once
#include <memory>

#include "engine/comm/aside.h"
#include "engine/device/communicator.h"

namespace glia::test {

// A communicator that can do nothing beside.
class Plain : public Communicator {
 public:
  explicit Plain(std::unique_ptr<Communicator> inner) : inner_(std::move(inner)) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  std::string description() const override { return inner_->description(); }
  void all_reduce(void* data, int64_t n, DType dtype, Reduction r) override {
    inner_->all_reduce(data, n, dtype, r);
  }
  void reduce_scatter(const void* from, void* to, int64_t n, DType dtype, Reduction r) override {
    inner_->reduce_scatter(from, to, n, dtype, r);
  }
  void all_gather(const void* from, void* to, int64_t n, DType dtype) override {
    inner_->all_gather(from, to, n, dtype);
  }
  void all_to_all_rows(const void* from, std::span<const int64_t> send, void* to, std::span<const int64_t> receive,
                       int64_t row_bytes) override {
    inner_->all_to_all_rows(from, send, to, receive, row_bytes);
  }
  void broadcast(void* data, int64_t bytes, int root) override { inner_->broadcast(data, bytes, root); }
  void barrier() override { inner_->barrier(); }
  bool meet(bool mine) override { return inner_->meet(mine); }

 protected:
  std::unique_ptr<Communicator> inner_;
};

// One that can, as the ranks within do.
class Beside : public Plain, public AsideReducer {
 public:
  explicit Beside(std::unique_ptr<Communicator> inner)
      : Plain(std::move(inner)), aside_(*dynamic_cast<AsideReducer*>(inner_.get())) {}
  void all_reduce_aside(void* data, int64_t n, DType dtype) override { aside_.all_reduce_aside(data, n, dtype); }
  void reduce_scatter_aside(void* data, int64_t n, DType dtype) override {
    aside_.reduce_scatter_aside(data, n, dtype);
  }
  void all_gather_aside(void* data, int64_t n, DType dtype) override { aside_.all_gather_aside(data, n, dtype); }
  void join_aside() override { aside_.join_aside(); }
  void mark_aside(size_t number) override { aside_.mark_aside(number); }
  void join_aside_up_to(size_t number) override { aside_.join_aside_up_to(number); }

 private:
  AsideReducer& aside_;
};

}  // namespace glia::test
