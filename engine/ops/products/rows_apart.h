// Products whose rows know nothing of each other. A library's product on a CPU may add a row up in another order where it has
// other rows beside it: fast, and other bits. A text that grows row by row is to have the bits of the whole text.
#pragma once

namespace glia {

// While one of these lives, the thread's float32 products on a CPU with an untransposed left factor are made a row at a time:
// a row's bits depend on that row alone. On a GPU, and in other types, it changes nothing.
class RowsApart {
 public:
  RowsApart() { ++depth(); }
  ~RowsApart() { --depth(); }
  RowsApart(const RowsApart&) = delete;
  RowsApart& operator=(const RowsApart&) = delete;
  static bool asked() { return depth() > 0; }

 private:
  static int& depth();  // of this thread
};

}  // namespace glia
