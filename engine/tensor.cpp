#include "engine/tensor.h"

#include <algorithm>

#include "engine/core/parallel.h"
#include "engine/tensor_kernels.h"

namespace glia {
namespace {

// 2³² × 2³² elements would count as none, and no memory be given out for them. The widest have 8 bytes,
// and a block is rounded up.
void check_countable(const Shape& shape) {
  int64_t bytes = 16;
  for (const int64_t extent : shape)
    if (extent == 0) return;
  for (const int64_t extent : shape)
    CHECK(!__builtin_mul_overflow(bytes, extent, &bytes), "tensor: {} has more elements than can be counted",
          shape);
}

// Of what has no int32, C++ does not say what becomes.
template <class To> To converted(const char* op, double value) {
  if constexpr (std::is_same_v<To, int32_t>)
    CHECK(value > -2147483649.0 && value < 2147483648.0, "{}: {} is no int32", op, value);
  return static_cast<To>(value);
}

}  // namespace

Context& Tensor::context() const {
  CHECK(storage_, "tensor: undefined (default-constructed, or never given a gradient)");
  return storage_->context();
}

void* Tensor::raw() const {
  CHECK(storage_, "tensor: undefined (default-constructed, or never given a gradient)");
  return static_cast<char*>(storage_->data()) + offset_;
}

Tensor Tensor::reshape_to(const int64_t* extents, size_t rank) const {
  int64_t fixed[Shape::kMaxRank] = {}, known = 1;
  int inferred = -1;
  CHECK(rank <= Shape::kMaxRank, "reshape: at most {} dimensions, got {}", Shape::kMaxRank, rank);
  for (size_t i = 0; i < rank; ++i) {
    fixed[i] = extents[i];
    if (extents[i] == -1) {
      CHECK(inferred < 0, "reshape: at most one extent may be -1");
      inferred = static_cast<int>(i);
    } else {
      CHECK(!__builtin_mul_overflow(known, extents[i], &known), "reshape: more elements than can be counted");
    }
  }
  if (inferred >= 0) fixed[inferred] = known ? numel() / known : 0;
  Tensor y = *this;
  y.shape_ = Shape(fixed, static_cast<int>(rank));
  check_countable(y.shape_);
  CHECK(y.numel() == numel(), "reshape: {} has {} elements, {} has {}", shape_, numel(), y.shape_, y.numel());
  return y;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  CHECK(rank() >= 1 && 0 <= begin && begin <= end && end <= size(0),
        "rows: wants 0 <= begin <= end <= {}, got {} and {}", rank() ? size(0) : 0, begin, end);
  Tensor y = *this;
  y.shape_ = shape_.with(0, end - begin);
  y.offset_ += size(0) ? begin * (bytes() / size(0)) : 0;
  return y;
}

Tensor empty(Context& context, const Shape& shape, DType dtype) {
  check_countable(shape);
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<Storage>(context, shape.numel() * size_of(dtype));
  return t;
}

Tensor zeros(Context& context, const Shape& shape, DType dtype) {
  Tensor t = empty(context, shape, dtype);
  t.zero();
  return t;
}

Tensor shared_zeros(Context& context, const Shape& shape, DType dtype) {
  const int64_t bytes = shape.numel() * size_of(dtype);
  std::shared_ptr<void> memory = context.communicator().shared_memory(bytes);
  if (!memory) return zeros(context, shape, dtype);
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<Storage>(context, std::move(memory), bytes);
  t.zero();
  return t;
}

Tensor full(Context& context, const Shape& shape, double value, DType dtype) {
  Tensor t = empty(context, shape, dtype);
  fill(t, value);
  return t;
}

void Tensor::zero() {
  if (numel()) context().backend().fill_zero(raw(), bytes());
}

Tensor Tensor::clone() const {
  Tensor t = empty_like(*this);
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& source) {
  CHECK(source.shape() == shape_ && source.dtype() == dtype_ && &source.context() == &context(),
        "copy_from: expected {} {} on {}, got {} {} on {}", dtype_, shape_, device().str(), source.dtype(),
        source.shape(), source.device().str());
  const auto *to = static_cast<const char*>(raw()), *from = static_cast<const char*>(source.raw());
  if (to == from) return;
  CHECK(!same_storage(source) || std::max(to, from) - std::min(to, from) >= bytes(),
        "copy_from: wants two views that do not overlap, got {} and {} of the same elements, {} bytes apart",
        shape_, source.shape(), std::max(to, from) - std::min(to, from));
  context().backend().copy(raw(), source.raw(), bytes(), CopyKind::kDeviceToDevice);
}

Tensor Tensor::to(Context& target) const {
  if (&target == &context()) return *this;
  std::vector<char> host(static_cast<size_t>(bytes()));
  context().backend().copy(host.data(), raw(), bytes(), CopyKind::kDeviceToHost);
  Tensor t = empty(target, shape_, dtype_);
  target.backend().copy(t.raw(), host.data(), bytes(), CopyKind::kHostToDevice);
  target.synchronize();  // `host` dies here
  return t;
}

template <class T> std::vector<T> Tensor::to_vector() const {
  const auto read = [&]<class From>(TypeTag<From>) {
    std::vector<From> stored(static_cast<size_t>(numel()));
    context().backend().copy(stored.data(), raw(), bytes(), CopyKind::kDeviceToHost);
    if constexpr (std::is_same_v<From, T>) {
      return stored;
    } else {
      std::vector<T> values(stored.size());
      for (size_t i = 0; i < stored.size(); ++i)
        values[i] = converted<T>("to_vector", static_cast<double>(stored[i]));
      return values;
    }
  };
  if (dtype_ == DType::kInt32) return read(TypeTag<int32_t>{});
  return dispatch_floating(dtype_, "to_vector", read);
}

template <class T>
Tensor from_vector(Context& context, const std::vector<T>& values, const Shape& shape, DType dtype) {
  CHECK(static_cast<int64_t>(values.size()) == shape.numel(), "from_vector: {} wants {} values, got {}", shape,
        shape.numel(), values.size());
  Tensor t = empty(context, shape, dtype);
  const auto write = [&]<class To>(TypeTag<To>) {
    std::vector<To> stored(values.size());
    for (size_t i = 0; i < values.size(); ++i)
      stored[i] = converted<To>("from_vector", static_cast<double>(values[i]));
    context.backend().copy(t.raw(), stored.data(), t.bytes(), CopyKind::kHostToDevice);
    context.synchronize();
  };
  if (dtype == DType::kInt32) write(TypeTag<int32_t>{});
  else dispatch_floating(dtype, "from_vector", write);
  return t;
}

template std::vector<float> Tensor::to_vector<float>() const;
template std::vector<double> Tensor::to_vector<double>() const;
template std::vector<int32_t> Tensor::to_vector<int32_t>() const;
template Tensor from_vector(Context&, const std::vector<float>&, const Shape&, DType);
template Tensor from_vector(Context&, const std::vector<double>&, const Shape&, DType);
template Tensor from_vector(Context&, const std::vector<int32_t>&, const Shape&, DType);

double Tensor::item() const {
  CHECK(numel() == 1, "item: wants one element, got {}", shape_);
  return to_vector<double>()[0];
}

namespace {

template <class Draw> Tensor random_tensor(Context& context, const Shape& shape, DType dtype, Draw&& draw) {
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  parallel_for(shape.numel(), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) values[i] = draw(static_cast<uint64_t>(i));
  });
  return from_vector(context, values, shape, dtype);
}

}  // namespace

Tensor random_normal(Context& context, const Shape& shape, double std, uint64_t seed, uint32_t purpose,
                     uint32_t step, DType dtype, bool truncated) {
  return random_tensor(context, shape, dtype, [&](uint64_t i) {
    return std *
           (truncated ? random_truncated_normal(seed, purpose, step, i) : random_normal(seed, purpose, step, i));
  });
}

Tensor random_uniform(Context& context, const Shape& shape, double low, double high, uint64_t seed,
                      uint32_t purpose, uint32_t step, DType dtype) {
  return random_tensor(context, shape, dtype, [&](uint64_t i) {
    return low + (high - low) * uniform_from(random_bits(seed, purpose, step, i));
  });
}

void cast_into(const Tensor& x, const Tensor& y) {
  CHECK(x.shape() == y.shape(), "cast: expected {}, got {}", x.shape(), y.shape());
  dispatch_floating(x.dtype(), "cast", [&](auto from) {
    dispatch_floating(y.dtype(), "cast", [&](auto to) {
      using From = typename decltype(from)::type;
      using To = typename decltype(to)::type;
      on_device(
          x.context(), "cast", [&] { cpu::cast(x.data<From>(), y.data<To>(), x.numel()); },
          [&](auto& cuda) { cuda::cast(x.data<From>(), y.data<To>(), x.numel(), cuda.stream); });
    });
  });
}

Tensor cast(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Tensor y = empty(x.context(), x.shape(), dtype);
  cast_into(x, y);
  return y;
}

void accumulate(const Tensor& sum, const Tensor& term) {
  CHECK(sum.shape() == term.shape() && sum.dtype() == term.dtype() && &sum.context() == &term.context(),
        "accumulate: expected {} {} on {}, got {} {} on {}", sum.dtype(), sum.shape(), sum.device().str(),
        term.dtype(), term.shape(), term.device().str());
  dispatch_floating(sum.dtype(), "accumulate", [&](auto tag) {
    using T = typename decltype(tag)::type;
    on_device(
        sum.context(), "accumulate", [&] { cpu::accumulate(sum.data<T>(), term.data<T>(), sum.numel()); },
        [&](auto& cuda) { cuda::accumulate(sum.data<T>(), term.data<T>(), sum.numel(), cuda.stream); });
  });
}

Tensor sum_of(std::span<const Tensor> terms) {
  CHECK(!terms.empty() && terms.size() <= kMostTerms, "sum_of: wants 1 to {} terms, got {}", kMostTerms,
        terms.size());
  Tensor y = empty_like(terms[0]);
  dispatch_floating(y.dtype(), "sum_of", [&](auto tag) {
    using T = typename decltype(tag)::type;
    Terms<T> list{{}, static_cast<int>(terms.size())};
    for (size_t i = 0; i < terms.size(); ++i) {
      CHECK(terms[i].shape() == y.shape(), "sum_of: terms of shapes {} and {}", y.shape(), terms[i].shape());
      list.term[i] = terms[i].template data<T>();
    }
    on_device(
        y.context(), "accumulate", [&] { cpu::sum_of(list, y.data<T>(), y.numel()); },
        [&](auto& cuda) { cuda::sum_of(list, y.data<T>(), y.numel(), cuda.stream); });
  });
  return y;
}

void fill(const Tensor& x, double value) {
  const auto run = [&]<class T>(TypeTag<T>) {
    on_device(
        x.context(), "fill", [&] { cpu::fill(x.data<T>(), value, x.numel()); },
        [&](auto& cuda) { cuda::fill(x.data<T>(), value, x.numel(), cuda.stream); });
  };
  if (x.dtype() == DType::kInt32) converted<int32_t>("fill", value), run(TypeTag<int32_t>{});
  else dispatch_floating(x.dtype(), "fill", run);
}

bool all_finite(const Tensor& x) {
  if (x.dtype() == DType::kInt32) return true;
  return dispatch_floating(x.dtype(), "all_finite", [&](auto tag) {
    using T = typename decltype(tag)::type;
    bool finite = true;
    on_device(
        x.context(), "all_finite", [&] { finite = cpu::all_finite(x.data<T>(), x.numel()); },
        [&](auto& cuda) {
          Tensor count = zeros(x.context(), {1}, DType::kInt32);
          cuda::count_not_finite(x.data<T>(), count.data<int32_t>(), x.numel(), cuda.stream);
          finite = count.to_vector<int32_t>()[0] == 0;
        });
    return finite;
  });
}

}  // namespace glia
