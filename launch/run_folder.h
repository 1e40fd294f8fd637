// What the verbs that train do to the folder that they write into.
#pragma once

#include <filesystem>
#include <string>

#include "parallel/comm/mesh.h"
#include "trainer/run/console.h"

namespace cadre::launch {

// Whether mpirun or srun started this process. mpirun passes SIGUSR1 on, and kills its ranks soon after it got a
// SIGTERM itself.
bool started_by_launcher();

// `word`: line, plain or auto. mpirun gives its ranks a terminal of their own whatever its own output is, so that only
// a rank started without it can tell; `cadre launch` looks for the others.
trainer::ProgressStyle progress_style(const std::string& word);

// The folder and its log, on rank 0. Everything that a run writes is private: text may be confidential.
// `source` names the file that asked for the folder, for messages.
void open_log(const std::filesystem::path& out, const std::string& source, int rank);

// Keeps other processes from training in the same folder for as long as this one lives: its `claim` is locked, which studies
// do with the folders of their runs too. Waits for two minutes, then throws Error(kUsage) on all ranks. Collective.
void claim_run(const std::filesystem::path& out, const std::string& source, comm::World& world);

// The rank's box (parallel/base/blackbox.h) in out/ranks, which lives as long as the process: what is in it matters
// most when the process ends. Without one (a full disk) the run goes on unwatched.
void open_box(const std::filesystem::path& out, const comm::World& world);

// Both for a folder in which several processes may work at once (studies). The first has `log.rank0` and `ranks`, the
// second `log.rank0-2` and `ranks-2`, and so on; a place is free again when its process ends. Collective over the world.
void open_shared(const std::filesystem::path& out, const std::string& source, comm::World& world);

}  // namespace cadre::launch
