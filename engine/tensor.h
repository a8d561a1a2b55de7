// Tensor: a handle to contiguous row-major elements on one device. Copies of the handle share the elements; reshape
// and rows() are views; everything else that moves elements says so (clone, to_vector, cast, copy_from).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/core/dtype.h"
#include "engine/core/shape.h"
#include "engine/device/context.h"
#include "engine/tensor_kernels.h"

namespace glia {

class Storage {
 public:
  Storage(Context& context, int64_t bytes) : context_(context), block_(context.allocator().allocate(bytes)) {}
  // Memory that is not the allocator's, which counts it.
  Storage(Context& context, std::shared_ptr<void> memory, int64_t bytes)
      : context_(context), block_{memory.get(), bytes}, memory_(std::move(memory)) {
    context.allocator().count_elsewhere(bytes);
  }
  ~Storage() {
    if (memory_) context_.allocator().count_elsewhere(-block_.bytes);
    else context_.allocator().release(block_);
  }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  Context& context() const { return context_; }
  void* data() const { return block_.data; }

 private:
  Context& context_;
  Allocator::Block block_;
  std::shared_ptr<void> memory_;
};

class Tensor {
 public:
  Tensor() = default;
  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t size(int dimension) const { return shape_[dimension]; }
  int64_t numel() const { return shape_.numel(); }
  int64_t bytes() const { return numel() * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Context& context() const;
  Device device() const { return context().device(); }

  // The elements; T must be the dtype. Device memory for a CUDA tensor.
  template <class T> T* data() const {
    CHECK(dtype_of<T>() == dtype_, "tensor: holds {}, asked for as {}", dtype_, dtype_of<T>());
    return static_cast<T*>(raw());
  }
  void* raw() const;

  // Views: the same elements. One extent of reshape may be −1 and is inferred.
  Tensor reshape(std::initializer_list<int64_t> extents) const {
    return reshape_to(extents.begin(), extents.size());
  }
  Tensor reshape(const Shape& shape) const { return reshape_to(shape.begin(), shape.rank()); }
  Tensor rows(int64_t begin, int64_t end) const;  // along the leading dimension
  bool same_storage(const Tensor& other) const { return storage_ == other.storage_; }
  bool is_unique() const { return storage_.use_count() == 1; }

  // Copies.
  Tensor clone() const;
  Tensor to(Context& target) const;      // across devices through the host
  void copy_from(const Tensor& source);  // same shape, dtype and context
  void zero();
  // To the host, converted to T; waits for the device.
  template <class T> std::vector<T> to_vector() const;
  double item() const;  // the one element of a tensor of one element

 private:
  friend Tensor empty(Context&, const Shape&, DType);
  friend Tensor shared_zeros(Context&, const Shape&, DType);
  Tensor reshape_to(const int64_t* extents, size_t rank) const;

  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  // bytes
  Shape shape_;
  DType dtype_ = DType::kFloat32;
};

// Where the elements lie, or nullptr for a tensor that is not there: how kernels take optional arguments.
template <class T> T* data_or_null(const Tensor& t) { return t.defined() ? t.data<T>() : nullptr; }

Tensor empty(Context& context, const Shape& shape, DType dtype = DType::kFloat32);
Tensor zeros(Context& context, const Shape& shape, DType dtype = DType::kFloat32);
// For what is summed over the ranks or gathered from them, to be called by all at once: where they do that best
// (Communicator::shared_memory), anywhere if there is no such place.
Tensor shared_zeros(Context& context, const Shape& shape, DType dtype = DType::kFloat32);
Tensor full(Context& context, const Shape& shape, double value, DType dtype = DType::kFloat32);
inline Tensor empty_like(const Tensor& t) { return empty(t.context(), t.shape(), t.dtype()); }
inline Tensor zeros_like(const Tensor& t) { return zeros(t.context(), t.shape(), t.dtype()); }

// From host values, converted to dtype.
template <class T>
Tensor from_vector(Context& context, const std::vector<T>& values, const Shape& shape, DType dtype);
template <class T> Tensor from_vector(Context& context, const std::vector<T>& values, const Shape& shape) {
  return from_vector(context, values, shape, dtype_of<T>());
}

// N(0, std²), cut at ±2 std when truncated; element i is the same number on every device and for every dtype.
Tensor random_normal(Context& context, const Shape& shape, double std, uint64_t seed, uint32_t purpose,
                     uint32_t step = 0, DType dtype = DType::kFloat32, bool truncated = false);
Tensor random_uniform(Context& context, const Shape& shape, double low, double high, uint64_t seed,
                      uint32_t purpose, uint32_t step = 0, DType dtype = DType::kFloat32);

// Kernels that the tensor and the tape themselves need (tensor_kernels.cpp, tensor_kernels.cu).
Tensor cast(const Tensor& x, DType dtype);
void cast_into(const Tensor& x, const Tensor& y);        // y = x, y's dtype
void accumulate(const Tensor& sum, const Tensor& term);  // sum += term
Tensor sum_of(std::span<const Tensor> terms);  // a new tensor; 1 … 4 terms of one shape and dtype, added in order
void fill(const Tensor& x, double value);
bool all_finite(const Tensor& x);  // waits for the device

}  // namespace glia
