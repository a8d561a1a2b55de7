#include "nn/optimizer.h"

#include <algorithm>
#include <cmath>

#include "engine/ops/ranks/sum_over_ranks.h"

namespace glia {

namespace {

// A rate that is no number makes every weight one, and nothing else would say so.
void check_options(const ParameterSet& parameters, const AdamWOptions& o) {
  CHECK(parameters.materialised(), "AdamW: wants parameters behind materialise()");
  const auto finite = [](double x) { return std::isfinite(x) && x >= 0; };
  CHECK(
      finite(o.learning_rate) && finite(o.weight_decay) && finite(o.eps) && finite(o.clip),
      "AdamW: wants a learning rate, a decay, an epsilon and a norm to clip at that are 0 or more, got {}, {}, {} and {}",
      o.learning_rate, o.weight_decay, o.eps, o.clip);
  CHECK(finite(o.beta1) && o.beta1 < 1 && finite(o.beta2) && o.beta2 < 1,
        "AdamW: wants betas in [0, 1), got {} and {}", o.beta1, o.beta2);
  CHECK(o.warmup_steps >= 0 && o.total_steps >= 0, "AdamW: wants 0 or more steps, got {} to warm up of {}",
        o.warmup_steps, o.total_steps);
  for (const ParameterGroup& g : parameters.groups())
    CHECK(g.rate < 0 || o.learning_rate > 0,
          "AdamW: a rate of its own, {}, is kept in parts of the learning rate, which is 0", g.rate);
}

}  // namespace

AdamW::AdamW(ParameterSet& parameters, const AdamWOptions& options, bool rows_wait, const AdamWSharing& sharing)
    : parameters_(parameters), options_(options), copies_later_(sharing.copies_later) {
  check_options(parameters, options);
  Context& context = parameters.context();
  const int64_t low = parameters.low_size(), trained = parameters.trained_size(), rest = trained - low;
  buffers_.p = parameters.values().rows(0, trained);
  buffers_.low = parameters.low_gradients();
  buffers_.g = parameters.gradients();
  if (parameters.copy().defined()) buffers_.copy = parameters.copy().rows(0, trained);
  if (sharing.moments || sharing.experts || sharing.products) share_out(sharing);
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
  if (sharing.moments || buffers_.squares.defined()) return;
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

// The experts' parameters rank by rank; of what lies between them, if moments are shared out, a part as long for each, and
// behind those the rest, which all keep.
void AdamW::share_out(const AdamWSharing& sharing) {
  const Communicator& ranks = parameters_.context().communicator();
  if (ranks.size() == 1) return;
  constexpr int64_t align = ParameterSet::kAlign;
  const int64_t low = parameters_.low_size(), all = buffers_.p.numel();
  // Experts whose float32 weights a router or a loss reads: then all products' are sent.
  const bool read = std::ranges::any_of(
      parameters_.all(), [&](const Parameter& p) { return p.expert_axis >= 0 && !p.owned && p.offset < low; });
  int64_t at = 0, done = 0;
  const auto keep = [&](int64_t begin, int64_t end) {
    if (begin < end) buffers_.spans.push_back({begin, end, at});
    at += end - begin;
  };
  const auto divide = [&](const Parts& parts) {
    const int64_t own = parts.begin + ranks.rank() * parts.each;
    parts_.push_back(parts);
    keep(own, own + parts.each);
  };
  std::vector<int64_t> cuts = sharing.cuts;
  cuts.push_back(low), cuts.push_back(all);
  std::ranges::sort(cuts);
  const auto keep_up_to = [&](int64_t stop) {
    for (const int64_t cut : cuts) {
      const int64_t end = std::min(cut, stop);
      if (end <= done) continue;
      // Float32 weights of all that somebody reads would cost more to gather than their update.
      const bool divided =
          sharing.moments || (!read && sharing.products && done < low && sharing.products(end - done));
      const int64_t each = divided ? (end - done) / (align * ranks.size()) * align : 0;
      const Shown shown = done < low && !read ? Shown::kCopies : Shown::kWeights;
      if (each > 0) divide({done, each, shown, sharing.gradients && done < low});
      keep(done + ranks.size() * each, end);
      done = end;
    }
  };
  std::vector<const Parameter*> experts;
  for (const Parameter& p : parameters_.all())
    if (sharing.experts && p.owned && !p.frozen && p.expert_ranks == ranks.size() &&
        p.shape.numel() % (align * ranks.size()) == 0)
      experts.push_back(&p);
  std::ranges::sort(experts, {}, &Parameter::offset);
  for (const Parameter* p : experts) {
    keep_up_to(p->offset);
    divide({p->offset, p->shape.numel() / ranks.size(), Shown::kNothing, true});
    done = p->offset + p->shape.numel();
  }
  keep_up_to(all);
  if (parts_.empty()) buffers_.spans.clear();
  if (std::ranges::any_of(parts_, &Parts::scattered))
    buffers_.squares = zeros(parameters_.context(), {1}, DType::kFloat64);
}

void AdamW::gather_parts(const Tensor& flat, const Parts& parts) const {
  gather_own_parts(flat.rows(parts.begin, end_of(parts)));
}

// Of all gradients: each rank squares what it alone has, everybody all others, which are the same everywhere.
void AdamW::take_norm() {
  Communicator& ranks = parameters_.context().communicator();
  std::vector<AdamWSpan> own, others;
  int64_t done = 0;
  for (const Parts& parts : parts_) {
    if (!parts.scattered) continue;
    const int64_t begin = parts.begin + ranks.rank() * parts.each;
    own.push_back({begin, begin + parts.each, 0});
    others.push_back({done, parts.begin, 0});
    done = end_of(parts);
  }
  others.push_back({done, buffers_.p.numel(), 0});
  buffers_.squares.zero();
  adamw_squares(buffers_, own);
  ranks.all_reduce(buffers_.squares.raw(), 1, DType::kFloat64, Reduction::kSum);
  adamw_squares(buffers_, others);
}

void AdamW::send_copies() {
  AsideReducer* aside = copies_later_ ? aside_of(parameters_.context().communicator()) : nullptr;
  if (!aside) return;
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (parts_[i].shown != Shown::kCopies) continue;
    const Tensor all = buffers_.copy.rows(parts_[i].begin, end_of(parts_[i]));
    aside->all_gather_aside(all.raw(), parts_[i].each, all.dtype());
    aside->mark_aside(i);
  }
}

void AdamW::wait_for_copies(const ElementRange& range) {
  AsideReducer* aside = copies_later_ ? aside_of(parameters_.context().communicator()) : nullptr;
  if (!aside) return;
  for (size_t i = 0; i < parts_.size(); ++i)
    if (parts_[i].shown == Shown::kCopies && parts_[i].begin < range.end && range.begin < end_of(parts_[i]))
      aside->join_aside_up_to(i);
}

void AdamW::step() {
  parameters_.complete_gradients();
  if (buffers_.squares.defined()) take_norm();
  adamw_step(buffers_, options_, buffers_.rows.count ? parameters_.table()->touched : Tensor{});
  for (const Parts& parts : parts_) {
    if (parts.shown == Shown::kNothing || (parts.shown == Shown::kCopies && copies_later_)) continue;
    gather_parts(parts.shown == Shown::kCopies ? buffers_.copy : buffers_.p, parts);
    if (parts.shown == Shown::kCopies || !buffers_.copy.defined()) continue;
    cast_into(buffers_.p.rows(parts.begin, end_of(parts)), buffers_.copy.rows(parts.begin, end_of(parts)));
  }
}

bool AdamW::own(const Parameter& p) const {
  return std::ranges::any_of(
      parts_, [&](const Parts& parts) { return parts.shown == Shown::kNothing && parts.begin == p.offset; });
}

std::vector<ElementRange> AdamW::scattered() const {
  std::vector<ElementRange> all;
  for (const Parts& parts : parts_)
    if (parts.scattered && parts.shown != Shown::kNothing) all.push_back({parts.begin, end_of(parts)});
  return all;
}

bool AdamW::scatters(const ElementRange& range) const {
  return std::ranges::any_of(scattered(),
                             [&](const ElementRange& r) { return r.begin == range.begin && r.end == range.end; });
}

void AdamW::gather_weights() {
  bool old = false;
  for (const Parts& parts : parts_)
    if (parts.shown != Shown::kWeights) gather_parts(buffers_.p, parts), old = true;
  if (old) parameters_.refresh_copy();
}

int64_t AdamW::gathered_bytes() const {
  int64_t bytes = 0;
  for (const Parts& parts : parts_)
    if (parts.shown != Shown::kNothing)
      bytes += (end_of(parts) - parts.begin) *
               size_of(parts.shown == Shown::kCopies ? DType::kBFloat16 : buffers_.p.dtype());
  return bytes;
}

void AdamW::make_room() {
  if (!shared_out()) return;
  whole_m_ = zeros(parameters_.context(), buffers_.p.shape(), buffers_.m.dtype());
  whole_v_ = zeros_like(whole_m_);
}

void AdamW::gather() {
  make_room();
  adamw_catch_up(buffers_, options_, {});
  const auto whole = [&](const Tensor& part, Tensor& all) {
    for (const AdamWSpan& s : buffers_.spans)
      all.rows(s.begin, s.end).copy_from(part.rows(s.at, s.at + s.end - s.begin));
    for (const Parts& parts : parts_) gather_parts(all, parts);
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
