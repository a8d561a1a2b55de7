// Ctrl-C, and a kill that can be heard, in a program whose work goes on when it is started again.
#pragma once

namespace glia {

// From now on SIGINT and SIGTERM end the program as ever (its status says which), after a line on standard error that says
// what the same command will do. A signal that the caller ignores (nohup, a shell's background) stays ignored.
void explain_interrupts();

// From now on a write beyond the size that a file may have (ulimit -f) is an error of that write, which names the file as a full
// disk's does; the system's way is to end the program without a word.
void report_size_limits();

}  // namespace glia
