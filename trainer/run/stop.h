// Requests to stop, from signals: the step under way is finished, a checkpoint written, and the run ends with
// exit code 75.
#pragma once

namespace cadre::trainer {

// SIGUSR1 always; SIGTERM and SIGINT too when `terminal_signals` (a run without mpirun, which ends its ranks
// itself).
void install_stop_signals(bool terminal_signals);
bool stop_requested();
void request_stop(bool value);  // as a signal would; tests

}  // namespace cadre::trainer
