#pragma once

// Step time and memory over one size at a time, each beside its floor by counting: bench scale --help. Returns the exit status.
int bench_scale(int argc, char** argv);
