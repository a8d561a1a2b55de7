// Extents of a tensor, outermost first; at most 6 of them, held in place.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "engine/core/check.h"

namespace glia {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) : Shape(extents.begin(), static_cast<int>(extents.size())) {}
  Shape(const int64_t* extents, int rank) : rank_(rank) {
    CHECK(rank <= kMaxRank, "Shape: at most {} dimensions, got {}", kMaxRank, rank);
    for (int i = 0; i < rank; ++i) {
      CHECK(extents[i] >= 0, "Shape: extent {} is negative: {}", i, extents[i]);
      extents_[i] = extents[i];
    }
  }

  int rank() const { return rank_; }
  // Negative indices count from the end, as in Python.
  int64_t operator[](int i) const {
    const int j = i < 0 ? i + rank_ : i;
    CHECK(j >= 0 && j < rank_, "Shape: dimension {} of a tensor of rank {}", i, rank_);
    return extents_[j];
  }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= extents_[i];
    return n;
  }
  Shape with(int i, int64_t extent) const {
    Shape s = *this;
    s.extents_[i < 0 ? i + rank_ : i] = extent;
    return s;
  }
  Shape without(int i) const {
    if (i < 0) i += rank_;
    CHECK(i >= 0 && i < rank_, "Shape: dimension {} of a tensor of rank {}", i, rank_);
    Shape s;
    for (int j = 0; j < rank_; ++j)
      if (j != i) s.extents_[s.rank_++] = extents_[j];
    return s;
  }
  const int64_t* begin() const { return extents_; }
  const int64_t* end() const { return extents_ + rank_; }
  friend bool operator==(const Shape& a, const Shape& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

  std::string str() const {
    std::string s = "[";
    for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(extents_[i]);
    return s + "]";
  }

 private:
  int64_t extents_[kMaxRank] = {};
  int rank_ = 0;
};

}  // namespace glia

template <> struct fmt::formatter<glia::Shape> {
  constexpr auto parse(fmt::format_parse_context& c) { return c.begin(); }
  auto format(const glia::Shape& s, fmt::format_context& c) const { return fmt::format_to(c.out(), "{}", s.str()); }
};
