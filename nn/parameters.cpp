#include "nn/parameters.h"

#include "engine/core/file.h"
#include "engine/ops/elementwise/random_fill.h"

namespace glia {
namespace {

int64_t padded(int64_t n) { return (n + ParameterSet::kAlign - 1) / ParameterSet::kAlign * ParameterSet::kAlign; }

void initialise(Tensor value, const std::string& name, Init init, uint64_t seed, uint32_t purpose) {
  // 56 bits of the name's hash select the stream: 24 in the purpose, 32 in the step.
  const uint64_t h = hash_bytes(name);
  switch (init.kind) {
    case Init::Kind::kZero: value.zero(); break;
    case Init::Kind::kOne: fill(value, 1.0); break;
    case Init::Kind::kNormal:
      fill_normal(value, {init.std, seed, purpose + static_cast<uint32_t>(h & 0xffffffu),
                          static_cast<uint32_t>(h >> 32), false});
  }
}

}  // namespace

Parameter* ParameterSet::add(std::string name, const Shape& shape, Init init, bool decay, bool product) {
  CHECK(!materialised(), "parameters: '{}' was declared after materialise()", name);
  CHECK(!find(name), "parameters: '{}' was declared twice", name);
  CHECK(shape.numel() > 0, "parameters: '{}' is empty: {}", name, shape);
  parameters_.push_back({std::move(name), shape, init, decay, product, {}, 0, {}, {}, false, -1});
  return &parameters_.back();
}

Parameter* ParameterSet::add_table(std::string name, const Shape& shape, Init init) {
  CHECK(!table_ && shape.rank() == 2, "parameters: '{}' {} is the table; wants one, [V, H]", name, shape);
  return table_ = add(std::move(name), shape, init, true);
}

// Bfloat16 gradients first, then the table, then what else decays, then what does not, then the groups in order of
// declaration, of each what decays first, then what is not trained.
void ParameterSet::place(bool bfloat16_gradients) {
  constexpr int kFrozen = 1 << 30;
  const auto part = [&](const Parameter& p) {
    if (p.frozen) return kFrozen;
    for (size_t g = 0; g < groups_.size(); ++g)
      if (groups_[g].rate == p.rate && groups_[g].weight_decay == p.weight_decay)
        return 4 + 2 * static_cast<int>(g) + !p.decay;
    return !p.decay ? 3 : &p == table_ ? 1 : bfloat16_gradients && p.product ? 0 : 2;
  };
  for (const Parameter& p : parameters_)
    if (p.grouped() && part(p) < 4) groups_.push_back({p.rate, p.weight_decay, 0, 0, 0});
  int64_t end = 0;
  const auto take = [&](int wanted) {
    for (Parameter& p : parameters_)
      if (part(p) == wanted) {
        p.offset = end;
        end += padded(p.shape.numel());
      }
    return end;
  };
  low_size_ = take(0);
  take(1);
  decayed_size_ = take(2);
  take(3);
  for (size_t g = 0; g < groups_.size(); ++g) {
    groups_[g].begin = end;
    groups_[g].decayed = take(4 + 2 * static_cast<int>(g));
    groups_[g].end = take(5 + 2 * static_cast<int>(g));
  }
  trained_size_ = end;
  flat_size_ = take(kFrozen);
}

State* ParameterSet::add_state(std::string name, const Shape& shape, Init init, bool shared) {
  CHECK(!materialised(), "parameters: the state '{}' was declared after materialise()", name);
  CHECK(!find(name), "parameters: '{}' is a parameter already", name);
  CHECK(shape.numel() > 0, "parameters: the state '{}' is empty: {}", name, shape);
  for (State& s : states_)
    if (s.name == name) {
      CHECK(shared && s.shared, "parameters: the state '{}' was declared twice", name);
      CHECK(s.shape == shape, "parameters: the shared state '{}' is {}, got {}", name, s.shape, shape);
      return &s;
    }
  states_.push_back({std::move(name), shape, init, shared});
  return &states_.back();
}

void ParameterSet::materialise(Context& context, uint64_t seed, DType dtype, bool with_copy,
                               bool bfloat16_gradients) {
  CHECK(!materialised(), "parameters: materialise() was called twice");
  CHECK(dtype == DType::kFloat32 || dtype == DType::kFloat64, "parameters: masters are float32 or float64, not {}",
        dtype);
  CHECK(with_copy || !bfloat16_gradients, "parameters: bfloat16 gradients are for weights with a bfloat16 copy");
  place(bfloat16_gradients);
  values_ = zeros(context, {flat_size_}, dtype);
  if (low_size_) low_gradients_ = shared_zeros(context, {low_size_}, DType::kBFloat16);
  gradients_ = zeros(context, {trained_size_ - low_size_}, dtype);
  if (with_copy) copy_ = (low_size_ ? shared_zeros : zeros)(context, {flat_size_}, DType::kBFloat16);
  for (Parameter& p : parameters_) {
    p.var = p.frozen ? Var(slice(values_, p)) : Var::parameter(slice(values_, p), gradient(p));
    if (with_copy) p.var.set_copy(slice(copy_, p));
    initialise(p.var.value(), p.name, p.init, seed, purpose::kInit);
  }
  make_states(context, seed, dtype);
  refresh_copy();
}

Parameter& ParameterSet::declared(std::string_view name, const char* what) {
  CHECK(!materialised(), "parameters: '{}' {} after materialise()", name, what);
  for (Parameter& p : parameters_)
    if (p.name == name) return p;
  fail_input("parameters: there is no '{}'", name);
}

void ParameterSet::freeze(std::string_view name) { declared(name, "is to be frozen").frozen = true; }

void ParameterSet::set_rate(std::string_view name, double rate) {
  CHECK(rate >= 0, "parameters: wants a rate of 0 or more for '{}', got {}", name, rate);
  declared(name, "gets a rate").rate = rate;
}

void ParameterSet::set_weight_decay(std::string_view name, double weight_decay) {
  CHECK(weight_decay >= 0, "parameters: wants a decay of 0 or more for '{}', got {}", name, weight_decay);
  Parameter& p = declared(name, "gets a decay");
  if (p.decay) p.weight_decay = weight_decay;
}

void ParameterSet::make_states(Context& context, uint64_t seed, DType dtype) {
  for (State& s : states_) {
    s.value = zeros(context, s.shape, dtype);
    initialise(s.value, s.name, s.init, seed, purpose::kInit);
  }
}

void ParameterSet::redraw(const Parameter& p, Init init, uint64_t seed) {
  initialise(p.var.value(), p.name, init, seed, purpose::kWarmStart);
}

void ParameterSet::bind(std::span<const Var> vars) {
  CHECK(vars.size() == parameters_.size(), "parameters: bind wants {} leaves, got {}", parameters_.size(),
        vars.size());
  for (size_t i = 0; i < vars.size(); ++i) {
    CHECK(vars[i].shape() == parameters_[i].shape, "parameters: '{}' is {}, got {}", parameters_[i].name,
          parameters_[i].shape, vars[i].shape());
    parameters_[i].var = vars[i];
  }
  if (!vars.empty()) make_states(vars[0].context(), 0, vars[0].dtype());
}

void ParameterSet::clear_gradients() {
  for (Parameter& p : parameters_)
    if (!p.frozen) p.var.clear_grad();
  if (table_) table_->touched = {};
  complete_ = false;
}

void ParameterSet::complete_gradients() {
  if (complete_) return;
  for (const Parameter& p : parameters_)
    if (!p.frozen && !p.var.grad().defined()) {
      if (p.before_read) p.before_read({});  // gradients of waiting rows lie there
      gradient(p).zero();
    }
  complete_ = true;
}

void ParameterSet::refresh_copy() {
  if (copy_.defined()) cast_into(values(), copy_);
}

const Parameter* ParameterSet::find(std::string_view name) const {
  for (const Parameter& p : parameters_)
    if (p.name == name) return &p;
  return nullptr;
}

const Parameter& ParameterSet::get(std::string_view name) const {
  const Parameter* p = find(name);
  CHECK(p, "parameters: there is no '{}'", name);
  return *p;
}

int64_t ParameterSet::count() const {
  int64_t n = 0;
  for (const Parameter& p : parameters_) n += p.shape.numel();
  return n;
}

Tensor ParameterSet::gradient(const Parameter& p) const {
  CHECK(!p.frozen, "parameters: '{}' is frozen and has no gradient", p.name);
  if (p.offset < low_size_) return slice(low_gradients_, p);
  const int64_t begin = p.offset - low_size_;
  return gradients_.rows(begin, begin + p.shape.numel()).reshape(p.shape);
}

Tensor ParameterSet::slice(const Tensor& flat, const Parameter& p) const {
  return flat.rows(p.offset, p.offset + p.shape.numel()).reshape(p.shape);
}

}  // namespace glia
