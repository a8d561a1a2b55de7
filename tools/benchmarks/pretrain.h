#pragma once

// Times steps of masked-LM pretraining and says where the time goes: bench pretrain --help. Returns the exit status.
int bench_pretrain(int argc, char** argv);
