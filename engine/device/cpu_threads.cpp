#include "engine/device/cpu_threads.h"

#include <omp.h>

namespace glia {

void ask_for_threads_that_come() {
  thread_local int known = 0;
  if (omp_get_dynamic()) omp_set_dynamic(0), known = 0;
  if (omp_get_max_threads() == known || omp_in_parallel()) return;
  int come = 1;
#pragma omp parallel
#pragma omp single
  come = omp_get_num_threads();
  if (come < omp_get_max_threads()) omp_set_num_threads(come);
  known = come;
}

}  // namespace glia
