#include "nn/optimizer.h"

namespace glia {
namespace {

// Every rank's part of a flat buffer, of which this one has `own`, as long as the others' and one behind the other.
void gather_parts(const Tensor& flat, const AdamWSpan& own) {
  const Tensor part = flat.rows(own.begin, own.end);
  if (part.numel() > 0)
    flat.context().communicator().all_gather(part.raw(), flat.raw(), part.numel(), flat.dtype());
}

}  // namespace

AdamW::AdamW(ParameterSet& parameters, const AdamWOptions& options, bool rows_wait, bool shared_out)
    : parameters_(parameters), options_(options) {
  Context& context = parameters.context();
  const int64_t low = parameters.low_size(), trained = parameters.trained_size(), rest = trained - low;
  buffers_.p = parameters.values().rows(0, trained);
  buffers_.low = parameters.low_gradients();
  buffers_.g = parameters.gradients();
  if (parameters.copy().defined()) buffers_.copy = parameters.copy().rows(0, trained);
  if (shared_out) share_out();
  const int64_t kept = buffers_.spans.empty()
                           ? trained
                           : buffers_.spans.back().at + buffers_.spans.back().end - buffers_.spans.back().begin;
  if (options.bfloat16_moments && buffers_.p.dtype() != DType::kFloat32)
    fail_input("AdamW: moments of bfloat16 (--adam-state) want weights of float32, got {}", buffers_.p.dtype());
  buffers_.m = zeros(context, {kept}, options.bfloat16_moments ? DType::kBFloat16 : buffers_.p.dtype());
  buffers_.v = zeros_like(buffers_.m);
  buffers_.decayed = parameters.decayed_size();
  for (const ParameterGroup& g : parameters.groups())
    buffers_.groups.push_back({g.begin, g.decayed, g.end, g.rate < 0 ? 1 : g.rate / options.learning_rate,
                               g.weight_decay < 0 ? options.weight_decay : g.weight_decay});
  buffers_.partial = zeros(context, {norm_chunks(low) + norm_chunks(rest)}, DType::kFloat64);
  buffers_.factors = zeros(context, {adamw_factor::kCount}, DType::kFloat64);
  buffers_.ticket = zeros(context, {1}, DType::kInt32);
  Parameter* table = parameters.table();
  if (!rows_wait || !table || table->frozen || table->grouped() || table->shape[1] % 8 != 0) return;
  rows_of_all_ = context.communicator().size() > 1;
  if (!buffers_.spans.empty()) return;
  AdamWRows& rows = buffers_.rows;
  rows.count = table->shape[0], rows.width = table->shape[1];
  rows.stamps = zeros(context, {rows.count}, DType::kInt32);
  rows.history = zeros(context, {kRowPeriod, 4}, buffers_.p.dtype());
  rows.clock = zeros(context, {1}, DType::kInt32);
  if (options.bfloat16_moments) rows.numbers = zeros(context, {kRowPeriod}, DType::kInt32);
  table->before_read = [this](const RowOrder& order) { adamw_catch_up(buffers_, options_, order); };
}

AdamW::~AdamW() {
  if (buffers_.rows.count == 0) return;
  parameters_.table()->before_read = nullptr;
  try {
    adamw_catch_up(buffers_, options_, {});
  } catch (const Error& error) {
    fmt::print(stderr, "glia: {}\n", error.what());
  }
}

// A part as long for each, and behind them the rest, which all keep.
void AdamW::share_out() {
  const Communicator& ranks = parameters_.context().communicator();
  if (ranks.size() == 1) return;
  constexpr int64_t align = ParameterSet::kAlign;
  const int64_t all = buffers_.p.numel(), each = all / (align * ranks.size()) * align, own = ranks.rank() * each;
  buffers_.spans = {{own, own + each, 0}, {ranks.size() * each, all, each}};
}

void AdamW::step() {
  parameters_.complete_gradients();
  adamw_step(buffers_, options_, buffers_.rows.count ? parameters_.table()->touched : Tensor{});
  if (!shared_out()) return;
  gather_parts(buffers_.p, buffers_.spans.front());
  parameters_.refresh_copy();  // of the others' weights
}

void AdamW::make_room() {
  if (!shared_out()) return;
  whole_m_ = zeros(parameters_.context(), buffers_.p.shape(), buffers_.m.dtype());
  whole_v_ = zeros_like(whole_m_);
}

void AdamW::gather() {
  make_room();
  const auto whole = [&](const Tensor& part, Tensor& all) {
    for (const AdamWSpan& s : buffers_.spans)
      all.rows(s.begin, s.end).copy_from(part.rows(s.at, s.at + s.end - s.begin));
    gather_parts(all, buffers_.spans.front());
  };
  if (!shared_out()) return;
  whole(buffers_.m, whole_m_);
  whole(buffers_.v, whole_v_);
}

void AdamW::keep_part() {
  for (const AdamWSpan& s : buffers_.spans) {
    buffers_.m.rows(s.at, s.at + s.end - s.begin).copy_from(whole_m_.rows(s.begin, s.end));
    buffers_.v.rows(s.at, s.at + s.end - s.begin).copy_from(whole_v_.rows(s.begin, s.end));
  }
}

int64_t AdamW::moment_bytes() const { return 2 * buffers_.m.numel() * size_of(buffers_.m.dtype()); }

AdamW::Report AdamW::report() const {
  const std::vector<double> f = buffers_.factors.to_vector<double>();
  return {f[adamw_factor::kNorm], f[adamw_factor::kLearningRate], static_cast<int64_t>(f[adamw_factor::kSkipped])};
}

}  // namespace glia
