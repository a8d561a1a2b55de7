#pragma once

// Times steps of one rank and of several with as many rows for each, and says what is lost: bench ranks --help. Returns the exit
// status.
int bench_ranks(int argc, char** argv);
