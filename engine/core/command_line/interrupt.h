// Ctrl-C, and a kill that can be heard, in a program whose work goes on when it is started again.
#pragma once

namespace glia {

// From now on SIGINT and SIGTERM end the program as ever (its status says which), after a line on standard error that says
// what the same command will do. A signal that the caller ignores (nohup, a shell's background) stays ignored.
void explain_interrupts();

}  // namespace glia
