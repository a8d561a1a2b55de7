// `./tools/bench tokenizer`: pieces a second and MB a second of the tokenizer, on AG News where it is, else on the
// synthetic corpus; on one core and on all.
#pragma once

int bench_tokenizer(int argc, char** argv);  // argv[0] is the program's name
