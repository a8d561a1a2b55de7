#include "engine/ops/rows/rows.h"

#include <limits>
#include <numeric>
#include <vector>

#include "engine/core/parallel.h"
#include "engine/ops/checks.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/ranks/rows_later.h"
#include "engine/ops/ranks/sum_over_ranks.h"
#include "engine/ops/rows/bias.h"
#include "engine/ops/rows/rows_kernels.h"

namespace glia {
namespace {

// The pairs of types that rows are moved between: a type and itself, bfloat16 and its float32 master.
template <class F> void dispatch_pair(const char* op, DType from, DType to, F&& f) {
  const auto both_bfloat16 = [](DType a, DType b) { return a == DType::kFloat32 && b == DType::kBFloat16; };
  if (both_bfloat16(from, to)) return f(TypeTag<float>{}, TypeTag<bfloat16>{});
  if (both_bfloat16(to, from)) return f(TypeTag<bfloat16>{}, TypeTag<float>{});
  CHECK(from == to, "{}: {} rows cannot become {}; wants the same dtype, or bfloat16 with float32", op, from, to);
  dispatch_floating(from, op, [&](auto tag) { f(tag, tag); });
}

void gather_into(const char* op, const Tensor& x, const Tensor& index, const Tensor& y) {
  const int64_t h = x.shape().without(0).numel();  // of an x without rows too: y has some
  dispatch_pair(op, x.dtype(), y.dtype(), [&]<class T, class Out>(TypeTag<T>, TypeTag<Out>) {
    const int32_t* i = index.data<int32_t>();
    on_device(
        x.context(), op, [&] { cpu::gather_rows(x.data<T>(), i, y.data<Out>(), x.size(0), y.size(0), h); },
        [&](auto& cuda) {
          cuda::gather_rows(x.data<T>(), i, y.data<Out>(), x.size(0), y.size(0), h, cuda.stream);
        });
  });
}

void scatter_into(const char* op, const Tensor& x, const Tensor& index, const Tensor& y) {
  const int64_t rows = x.size(0), n = y.size(0), h = n ? y.numel() / n : 0;
  dispatch_pair(op, x.dtype(), y.dtype(), [&]<class T, class Out>(TypeTag<T>, TypeTag<Out>) {
    const int32_t* i = index.data<int32_t>();
    on_device(
        x.context(), op, [&] { cpu::scatter_rows(x.data<T>(), i, y.data<Out>(), n, rows, h); },
        [&](auto& cuda) {
          using A = Accumulator<T>;
          Context& context = x.context();
          const int64_t bytes = cuda::sort_workspace(rows, n);
          const int64_t chunks = (rows + cuda::kScatterChunk - 1) / cuda::kScatterChunk;
          Tensor keys = empty(context, {rows}, DType::kInt32), order = empty_like(keys);
          Tensor workspace = empty(context, {(bytes + 3) / 4}, DType::kInt32);
          Tensor partial = empty(context, {chunks, 2, h}, accumulation_dtype(x.dtype()));
          cuda::sort_by_index(i, keys.data<int32_t>(), order.data<int32_t>(), rows, n, workspace.raw(),
                              cuda.stream);
          Tensor(y).zero();
          cuda::scatter_rows(x.data<T>(), keys.data<int32_t>(), order.data<int32_t>(), partial.data<A>(),
                             y.data<Out>(), n, rows, h, cuda.stream);
        });
  });
}

// The sums of scatter_into by an order that the host made (RowOrder, RowOrder::Own). Rows that it does not pick keep what they hold.
template <class Order>
void scatter_ordered_into(const char* op, const Tensor& x, const Order& order, const Tensor& y) {
  const int64_t h = y.size(1), most = order.pieces.size(0) - 1;
  const RowOrderView view{order.entries.template data<int32_t>(), order.pieces.template data<int32_t>(), nullptr,
                          order.count.template data<int32_t>()};
  dispatch_pair(op, x.dtype(), y.dtype(), [&]<class T, class Out>(TypeTag<T>, TypeTag<Out>) {
    on_device(
        x.context(), op, [&] { cpu::scatter_ordered(x.data<T>(), view, y.data<Out>(), h); },
        [&](auto& cuda) {
          const int64_t chunks = (order.entries.size(0) + cuda::kScatterChunk - 1) / cuda::kScatterChunk;
          Tensor partial = empty(x.context(), {chunks, 2, h}, accumulation_dtype(x.dtype()));
          cuda::scatter_ordered(x.data<T>(), view, most, partial.data<Accumulator<T>>(), y.data<Out>(), h,
                                cuda.stream);
        });
  });
}

// dtable[p] = Σ_b dy[offsets[b] + p]
void position_sums_into(const char* op, const Tensor& dy, const Sequences& s, const Tensor& dtable) {
  const int64_t n = dtable.size(0), h = dtable.size(1);
  dispatch_pair(op, dy.dtype(), dtable.dtype(), [&]<class T, class Out>(TypeTag<T>, TypeTag<Out>) {
    const int32_t* offsets = s.offsets.data<int32_t>();
    Out* to = dtable.data<Out>();
    on_device(
        dy.context(), op, [&] { cpu::position_sums(dy.data<T>(), offsets, to, n, s.count, s.max_length, h); },
        [&](auto& cuda) {
          cuda::position_sums(dy.data<T>(), offsets, to, n, s.count, s.max_length, h, cuda.stream);
        });
  });
}

// y[m] = x[index[m]];  dx[n] = Σ_{m: index[m] = n} dy[m].
Var gather(const char* op, const Var& x, const Tensor& index, DType dtype) {
  CHECK(index.rank() == 1, "{}: wants indices int32 [M], got {} {}", op, index.dtype(), index.shape());
  check_index(op, "indices", index, {index.size(0)}, x.context());
  Tensor y = empty(x.context(), x.shape().with(0, index.size(0)), dtype);
  gather_into(op, x.value(), index, y);
  return record(op, y, {x}, [op, index](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    scatter_into(op, dy, index, dx);
    in.add(0, dx);
  });
}

}  // namespace

Var gather_rows(const Var& x, const Tensor& index) {
  CHECK(x.rank() >= 1, "gather_rows: wants x [N, ..], got {}", x.shape());
  return gather("gather_rows", x, index, x.dtype());
}

Var embedding(const Var& table, const Tensor& ids, DType dtype) {
  CHECK(table.rank() == 2, "embedding: wants a table [V, H], got {}", table.shape());
  return gather("embedding", table, ids, dtype);
}

// y[offsets[b] + p] = table[p];  dtable[p] = Σ_b dy[offsets[b] + p].
Var position_embedding(const Var& table, const Sequences& s, DType dtype) {
  CHECK(table.rank() == 2, "position_embedding: wants a table [P, H], got {}", table.shape());
  const int64_t n = table.size(0), h = table.size(1);
  Tensor y = empty(table.context(), {s.tokens, h}, dtype);
  dispatch_pair("position_embedding", table.dtype(), dtype, [&]<class T, class Out>(TypeTag<T>, TypeTag<Out>) {
    const int32_t *of = s.sequence_of.data<int32_t>(), *offsets = s.offsets.data<int32_t>();
    const T* from = table.value().data<T>();
    on_device(
        table.context(), "position_embedding",
        [&] { cpu::position_rows(from, of, offsets, y.data<Out>(), n, s.tokens, h); },
        [&](auto& cuda) { cuda::position_rows(from, of, offsets, y.data<Out>(), n, s.tokens, h, cuda.stream); });
  });
  return record("position_embedding", y, {table}, [s](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    position_sums_into("position_embedding/gradient", dy, s, dx);
    in.add(0, dx);
  });
}

// y[t] = words[ids[t]] + positions[p] + types[0];  the gradient of a table's row is the sum over its tokens.
Var input_embedding(const EmbeddingTables& tables, const Tensor& ids, const Sequences& s, DType dtype,
                    const RowOrder& order, Tensor* touched, RowsLater* later) {
  const Var &words = tables.words, &positions = tables.positions, &types = tables.types;
  CHECK(words.rank() == 2 && positions.rank() == 2 && types.rank() == 2 && types.size(0) > 0 &&
            positions.size(1) == words.size(1) && types.size(1) == words.size(1) &&
            positions.dtype() == words.dtype() && types.dtype() == words.dtype(),
        "input_embedding: wants tables [V, H], [P, H] and [K, H] of one dtype, got {} {}, {} {} and {} {}",
        words.dtype(), words.shape(), positions.dtype(), positions.shape(), types.dtype(), types.shape());
  check_index("input_embedding", "ids", ids, {s.tokens}, words.context());
  const int64_t ranks = words.context().communicator().size();
  const bool of_ranks = order.own.rows > 0;
  CHECK(!order.defined() || ((of_ranks ? order.own.entries : order.entries).shape() == Shape{s.tokens} &&
                             order.touched.numel() == touched_words(words.size(0))),
        "input_embedding: an order of {} entries and {} words of touched rows, for {} tokens and {} rows",
        order.entries.shape(), order.touched.shape(), s.tokens, words.size(0));
  CHECK(!of_ranks || order.entries.shape() == Shape{ranks * order.own.rows},
        "input_embedding: an order of {} entries for {} rows of each of {} ranks", order.entries.shape(),
        order.own.rows, ranks);
  CHECK(order.defined() || !touched, "input_embedding: touched rows alone want an order");
  const int64_t h = words.size(1);
  Tensor y = empty(words.context(), {s.tokens, h}, dtype);
  // The weights' copies in y's dtype, where they have such, are half as much to read as the masters.
  const auto has_copy = [&](const Var& v) { return v.copy().defined() && v.copy().dtype() == dtype; };
  const bool copies = has_copy(words) && has_copy(positions) && has_copy(types);
  const auto table_of = [&](const Var& v) { return copies ? v.copy() : v.value(); };
  dispatch_pair(
      "input_embedding", copies ? dtype : words.dtype(), dtype, [&]<class T, class Out>(TypeTag<T>, TypeTag<Out>) {
        const InputTables<T> from{table_of(words).data<T>(),
                                  table_of(positions).data<T>(),
                                  table_of(types).data<T>(),
                                  ids.data<int32_t>(),
                                  s.sequence_of.data<int32_t>(),
                                  s.offsets.data<int32_t>(),
                                  words.size(0),
                                  positions.size(0)};
        on_device(
            words.context(), "input_embedding", [&] { cpu::input_rows(from, y.data<Out>(), s.tokens, h); },
            [&](auto& cuda) { cuda::input_rows(from, y.data<Out>(), s.tokens, h, cuda.stream); });
      });
  const int64_t longest = std::min(positions.size(0), s.max_length);
  return record(
      "input_embedding", y, {words, positions, types},
      [ids, s, order, touched, later, of_ranks, gathered = tables.gathered, longest, h](const Tensor& dy,
                                                                                        Grads& in) {
        constexpr const char* op = "input_embedding/gradient";
        if (in.wants(0)) {
          // Behind another use of the table (a tied head) every row has a gradient already: this one is added to it whole.
          const bool once = in.owns_buffer(0), alone = touched && once;
          CHECK(!touched || alone || !touched->defined(),
                "input_embedding: a gradient of touched rows alone is there already; clear it first");
          Tensor dwords = in.buffer(0);
          CHECK(once || !of_ranks, "input_embedding: an order of all ranks' rows wants a table that is used once");
          const auto by_order = [=](const Tensor& rows) {
            if (!alone) Tensor(dwords).zero();
            scatter_ordered_into(op, rows, order, dwords);
          };
          if (of_ranks) {  // first, so that they may be under way while the others' are computed
            const Communicator& ranks = dy.context().communicator();
            const int64_t own = order.own.rows;
            const Tensor all = empty(dy.context(), {ranks.size() * own, h}, gathered);
            // Nobody reads a row that it does not have.
            scatter_ordered_into(op, dy, order.own, all.rows(ranks.rank() * own, (ranks.rank() + 1) * own));
            if (later) {
              later->add(all, by_order);
            } else {
              gather_own_parts(all);
              by_order(all);
            }
          } else if (order.defined()) {
            by_order(dy);
          } else {
            scatter_into(op, dy, ids, dwords);
          }
          if (alone) *touched = order.touched;
          in.add(0, dwords);
        }
        if (!in.wants(1) && !in.wants(2)) return;
        Tensor dpositions = in.wants(1) ? in.buffer(1) : empty(dy.context(), {longest, h}, in.dtype(2));
        position_sums_into(op, dy, s, dpositions);
        if (in.wants(2)) {
          Tensor dtypes = in.buffer(2);
          dispatch_floating(dtypes.dtype(), op, [&]<class T>(TypeTag<T>) {
            const T* from = dpositions.data<T>();
            T* to = dtypes.data<T>();
            on_device(
                dy.context(), op, [&] { cpu::type_sums(from, to, longest, dtypes.size(0), h); },
                [&](auto& cuda) { cuda::type_sums(from, to, longest, dtypes.size(0), h, cuda.stream); });
          });
          in.add(2, dtypes);
        }
        if (in.wants(1)) in.add(1, dpositions);
      });
}

Var input_embedding_reference(const EmbeddingTables& tables, const Tensor& ids, const Sequences& s, DType dtype) {
  const Var type = reshape(rows(tables.types, 0, 1), {tables.types.size(1)});
  return add(embedding(tables.words, ids, dtype), position_embedding(bias_add(tables.positions, type), s, dtype));
}

RowOrder order_rows(Context& context, const std::vector<int32_t>& index, int64_t n) {
  const auto count = static_cast<int64_t>(index.size()), room = most_pieces(count, n);
  std::vector<int32_t> entries(index.size()), pieces(2 * static_cast<size_t>(room)),
      touched(static_cast<size_t>(touched_words(n))), used(1);
  order_rows(index.data(), count, n, {entries.data(), pieces.data(), touched.data(), used.data()});
  return {from_vector(context, entries, {count}), from_vector(context, pieces, {room, 2}),
          from_vector(context, used, {1}), from_vector(context, touched, {touched_words(n)})};
}

// y[n] = Σ_{m: index[m] = n} x[m];  dx[m] = dy[index[m]].
Var scatter_rows(const Var& x, const Tensor& index, int64_t rows) {
  CHECK(x.rank() >= 1 && rows >= 0, "scatter_rows: wants x [M, ..] and rows >= 0, got {} and {}", x.shape(), rows);
  check_index("scatter_rows", "indices", index, {x.size(0)}, x.context());
  Tensor y = empty(x.context(), x.shape().with(0, rows), x.dtype());
  scatter_into("scatter_rows", x.value(), index, y);
  return record("scatter_rows", y, {x}, [index](const Tensor& dy, Grads& in) {
    Tensor dx = in.buffer(0);
    gather_into("scatter_rows", dy, index, dx);
    in.add(0, dx);
  });
}

namespace cpu {

template <class T, class Out>
void gather_rows(const T* x, const int32_t* index, Out* y, int64_t n, int64_t rows, int64_t h) {
  using A = Accumulator<T>;
  parallel_for(rows, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, h)), [=](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const int64_t i = index[m];
      Out* to = y + m * h;
      if (i >= 0 && i < n) {
        const T* from = x + i * h;
#pragma GCC ivdep
        for (int64_t j = 0; j < h; ++j) to[j] = static_cast<Out>(static_cast<A>(from[j]));
      } else {
        std::fill(to, to + h, static_cast<Out>(i == -1 ? 0.0f : std::numeric_limits<float>::quiet_NaN()));
      }
    }
  });
}

template <class T, class Out>
void scatter_rows(const T* x, const int32_t* index, Out* y, int64_t n, int64_t rows, int64_t h) {
  using A = Accumulator<T>;
  // A counting sort: members of target i are order[start[i]] … order[start[i + 1] − 1], ascending.
  std::vector<int32_t> start(static_cast<size_t>(n) + 1, 0), order(static_cast<size_t>(rows));
  for (int64_t m = 0; m < rows; ++m)
    if (index[m] >= 0 && index[m] < n) ++start[index[m] + 1];
  std::partial_sum(start.begin(), start.end(), start.begin());
  std::vector<int32_t> next(start.begin(), start.end() - 1);
  for (int64_t m = 0; m < rows; ++m)
    if (index[m] >= 0 && index[m] < n) order[next[index[m]]++] = static_cast<int32_t>(m);
  parallel_for(n, std::max<int64_t>(1, (1 << 13) / std::max<int64_t>(1, h)), [&, h](int64_t begin, int64_t end) {
    std::vector<A> sum(static_cast<size_t>(h));
    for (int64_t i = begin; i < end; ++i) {
      Out* to = y + i * h;
      if (start[i] == start[i + 1]) {
        std::fill(to, to + h, static_cast<Out>(0.0f));
        continue;
      }
      std::fill(sum.begin(), sum.end(), A{0});
      A* s = sum.data();
      for (int32_t k = start[i]; k < start[i + 1]; ++k) {
        const T* from = x + order[k] * h;
#pragma GCC ivdep
        for (int64_t j = 0; j < h; ++j) s[j] += static_cast<A>(from[j]);
      }
      for (int64_t j = 0; j < h; ++j) to[j] = static_cast<Out>(s[j]);
    }
  });
}

template <class T, class Out> void scatter_ordered(const T* x, const RowOrderView& order, Out* y, int64_t h) {
  using A = Accumulator<T>;
  const int64_t count = *order.count;
  const auto row = [&](int64_t i) { return order.pieces[2 * i]; };
  const auto first = [&](int64_t i) { return order.pieces[2 * i + 1]; };
  parallel_for(count, std::max<int64_t>(1, (1 << 12) / std::max<int64_t>(1, h)),
               [&, h](int64_t begin, int64_t end) {
                 std::vector<A> sum(static_cast<size_t>(h));
                 for (int64_t i = begin; i < end; ++i) {
                   if (i > 0 && row(i - 1) == row(i)) continue;  // its row's first piece takes it along
                   int64_t last = i + 1;
                   while (row(last) == row(i)) ++last;
                   A* s = sum.data();
                   std::fill(s, s + h, A{0});
                   for (int64_t e = first(i); e < first(last); ++e) {
                     const T* from = x + order.entries[e] * h;
#pragma GCC ivdep
                     for (int64_t j = 0; j < h; ++j) s[j] += static_cast<A>(from[j]);
                   }
                   Out* to = y + row(i) * h;
                   for (int64_t j = 0; j < h; ++j) to[j] = static_cast<Out>(s[j]);
                 }
               });
}

template <class T, class Out> void input_rows(const InputTables<T>& q, Out* y, int64_t tokens, int64_t h) {
  using A = Accumulator<T>;
  const A nan = std::numeric_limits<A>::quiet_NaN();
  parallel_for(tokens, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, h)), [=](int64_t begin, int64_t end) {
    const std::vector<T> none(static_cast<size_t>(h), static_cast<T>(A{0})),
        bad(static_cast<size_t>(h), static_cast<T>(nan));
    for (int64_t t = begin; t < end; ++t) {
      const int64_t id = q.ids[t], b = q.sequence_of[t], p = b < 0 ? -1 : t - q.offsets[b];
      const auto part = [&](const T* table, int64_t i, int64_t n) {
        return i == -1 ? none.data() : i < 0 || i >= n ? bad.data() : table + i * h;
      };
      const T *word = part(q.words, id, q.n_words), *position = part(q.positions, p, q.n_positions),
              *type = p < 0 ? none.data() : q.types;
      Out* to = y + t * h;
#pragma GCC ivdep
      for (int64_t j = 0; j < h; ++j)
        to[j] = static_cast<Out>(static_cast<A>(word[j]) + (static_cast<A>(position[j]) + static_cast<A>(type[j])));
    }
  });
}

template <class T> void type_sums(const T* dpositions, T* dtypes, int64_t rows, int64_t types, int64_t h) {
  std::vector<Accumulator<T>> sum(static_cast<size_t>(h), 0);
  for (int64_t p = 0; p < rows; ++p)
    for (int64_t j = 0; j < h; ++j)
      sum[static_cast<size_t>(j)] += static_cast<Accumulator<T>>(dpositions[p * h + j]);
  for (int64_t j = 0; j < h; ++j) dtypes[j] = static_cast<T>(sum[static_cast<size_t>(j)]);
  std::fill(dtypes + h, dtypes + types * h, static_cast<T>(0.0f));
}

template <class T, class Out>
void position_rows(const T* table, const int32_t* sequence_of, const int32_t* offsets, Out* y, int64_t n,
                   int64_t tokens, int64_t h) {
  using A = Accumulator<T>;
  parallel_for(tokens, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, h)), [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t b = sequence_of[t], p = b < 0 ? -1 : t - offsets[b];
      Out* to = y + t * h;
      if (p < 0 || p >= n) {
        std::fill(to, to + h, static_cast<Out>(p < 0 ? 0.0f : std::numeric_limits<float>::quiet_NaN()));
        continue;
      }
      const T* from = table + p * h;
#pragma GCC ivdep
      for (int64_t j = 0; j < h; ++j) to[j] = static_cast<Out>(static_cast<A>(from[j]));
    }
  });
}

template <class T, class Out>
void position_sums(const T* dy, const int32_t* offsets, Out* dtable, int64_t n, int64_t sequences, int64_t longest,
                   int64_t h) {
  using A = Accumulator<T>;
  parallel_for(n, 1, [=](int64_t begin, int64_t end) {
    std::vector<A> sum(static_cast<size_t>(h));
    for (int64_t p = begin; p < end; ++p) {
      A* s = sum.data();
      std::fill(s, s + h, A{0});
      for (int64_t b = 0; b < sequences && p < longest; ++b) {
        const int64_t t = offsets[b] + p;
        if (t >= offsets[b + 1]) continue;
        const T* from = dy + t * h;
#pragma GCC ivdep
        for (int64_t j = 0; j < h; ++j) s[j] += static_cast<A>(from[j]);
      }
      for (int64_t j = 0; j < h; ++j) dtable[p * h + j] = static_cast<Out>(s[j]);
    }
  });
}

#define INSTANTIATE(T, Out)                                                                               \
  template void gather_rows(const T*, const int32_t*, Out*, int64_t, int64_t, int64_t);                   \
  template void scatter_rows(const T*, const int32_t*, Out*, int64_t, int64_t, int64_t);                  \
  template void scatter_ordered(const T*, const RowOrderView&, Out*, int64_t);                            \
  template void input_rows(const InputTables<T>&, Out*, int64_t, int64_t);                                \
  template void position_rows(const T*, const int32_t*, const int32_t*, Out*, int64_t, int64_t, int64_t); \
  template void position_sums(const T*, const int32_t*, Out*, int64_t, int64_t, int64_t, int64_t);
GLIA_FOR_STORED_AND_READ(INSTANTIATE)
#undef INSTANTIATE
#define INSTANTIATE(T) template void type_sums(const T*, T*, int64_t, int64_t, int64_t);
GLIA_FOR_FLOATING(INSTANTIATE)
#undef INSTANTIATE

}  // namespace cpu
}  // namespace glia
