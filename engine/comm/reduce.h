// Sums, largest and smallest of arrays in host memory, in an order that depends on nothing but the number of terms.
#pragma once

#include <span>
#include <vector>

#include "engine/core/dtype.h"
#include "engine/device/communicator.h"

namespace glia {

// A node of the tree over terms [first, end): its left half are the most terms that are a power of two and fewer than all.
// So a whole aligned block of a power of two is a node of every tree that holds it.
struct TreeNode {
  int first, end;
  int middle() const;
};
// The fewest nodes of the tree over `terms` that make up [first, end), in order: what one process can add on its own.
std::vector<TreeNode> tree_nodes(int terms, int first, int end);

// to [n] := the node's reduction of x[t] [n], t in [first, end), whose terms are given per node of `leaves`: leaves[i] is
// where the reduction of node i lies. Bfloat16 is added in float32 and rounded once a node.
void reduce_tree(TreeNode root, std::span<const TreeNode> leaves, std::span<const void* const> x, void* to,
                 int64_t n, DType dtype, Reduction reduction);

}  // namespace glia
