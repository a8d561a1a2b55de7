// `./tools/bench step`: how long one training step takes here, what it reaches of the machine, and where the time
// goes.
#pragma once

// argv[0] is the program's name, the flags follow: --steps N, --json FILE, and every flag of ./experiments/train.
int bench_step(int argc, char** argv);
