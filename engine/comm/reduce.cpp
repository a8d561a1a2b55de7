#include "engine/comm/reduce.h"

#include <algorithm>
#include <bit>
#include <type_traits>

#include "engine/core/bfloat16.h"
#include "engine/core/check.h"

namespace glia {
namespace {

// What is added at a time: the buffers of a tree's levels stay in the cache.
constexpr int64_t kBlock = 2048;

template <class T> T reduced(T a, T b, Reduction reduction) {
  using F = std::conditional_t<std::is_same_v<T, bfloat16>, float, T>;
  const F x = static_cast<F>(a), y = static_cast<F>(b);
  if (reduction == Reduction::kSum) return static_cast<T>(x + y);
  return (reduction == Reduction::kMax) == (y > x) ? b : a;
}

template <class F> void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::kFloat32: return f(float{});
    case DType::kFloat64: return f(double{});
    case DType::kBFloat16: return f(bfloat16{});
    case DType::kInt32: return f(int32_t{});
  }
  CHECK(false, "ranks: wants a type that can be added");
}

void add_nodes(TreeNode node, int first, int end, std::vector<TreeNode>& out) {
  if (node.end <= first || node.first >= end) return;
  if (node.first >= first && node.end <= end) {
    out.push_back(node);
    return;
  }
  add_nodes({node.first, node.middle()}, first, end, out);
  add_nodes({node.middle(), node.end}, first, end, out);
}

template <class T> struct Tree {
  std::span<const TreeNode> leaves;
  std::span<const void* const> x;
  Reduction reduction;
  int64_t at, count;  // the block

  // The node's values of the block: where a leaf has them, or in `to`.
  const T* value(TreeNode node, T* to) const {
    for (size_t i = 0; i < leaves.size(); ++i)
      if (leaves[i].first == node.first && leaves[i].end == node.end) return static_cast<const T*>(x[i]) + at;
    CHECK(node.end - node.first > 1, "ranks: no leaf holds term {}", node.first);
    T right[kBlock];
    const T* a = value({node.first, node.middle()}, to);
    const T* b = value({node.middle(), node.end}, right);
    for (int64_t i = 0; i < count; ++i) to[i] = reduced(a[i], b[i], reduction);
    return to;
  }
};

}  // namespace

int TreeNode::middle() const {
  return first + static_cast<int>(std::bit_ceil(static_cast<unsigned>(end - first)) / 2);
}

std::vector<TreeNode> tree_nodes(int terms, int first, int end) {
  std::vector<TreeNode> nodes;
  add_nodes({0, terms}, first, end, nodes);
  return nodes;
}

void reduce_tree(TreeNode root, std::span<const TreeNode> leaves, std::span<const void* const> x, void* to,
                 int64_t n, DType dtype, Reduction reduction) {
  with_type(dtype, [&]<class T>(T) {
    T block[kBlock];
    for (int64_t at = 0; at < n; at += kBlock) {
      const int64_t count = std::min(kBlock, n - at);
      const T* sums = Tree<T>{leaves, x, reduction, at, count}.value(root, block);
      std::copy_n(sums, count, static_cast<T*>(to) + at);
    }
  });
}

}  // namespace glia
