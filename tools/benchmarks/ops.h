// `./tools/bench ops`: each op at the experiment's shapes (PERFORMANCE.md): time, GFLOP/s, GB/s, and what that is
// of a large matmul and a large copy measured in the same run.
#pragma once

int bench_ops(int argc, char** argv);  // argv[0] is the program's name
