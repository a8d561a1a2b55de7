#pragma once

namespace glia {

// Sets this thread's number of OpenMP threads to that of those that come when they are asked for: OMP_THREAD_LIMIT and
// OMP_DYNAMIC keep some away. Our own loops do without; oneDNN cuts a product into as many parts as there may be
// threads, and the parts of those that did not come are missing from the result. Cheap when nothing has changed.
void ask_for_threads_that_come();

}  // namespace glia
