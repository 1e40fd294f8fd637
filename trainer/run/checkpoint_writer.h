// Writes checkpoints: a snapshot in host memory, then every rank writes its own file, in the background when
// asked, and all ranks agree before rank 0 renames the folder into place. A save that fails is reported and
// leaves the older ones as they are. A GPU's snapshot is made beside the next forward and backward pass: only the
// update waits for it (TrainState::before_update).
#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "parallel/device/snapshot.h"
#include "trainer/run/checkpoint_index.h"
#include "trainer/run/train_state.h"

namespace cadre::trainer {

struct SaveResult {
  uint64_t step = 0;
  std::string error;  // empty: it is in place
};

class CheckpointWriter {
 public:
  // `folder` is the run's checkpoints/. Borrows the state. Collective, as start() and finish() are.
  CheckpointWriter(std::filesystem::path folder, TrainState& state);
  ~CheckpointWriter();  // waits for the thread; what it wrote is not committed
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  // Begins to copy and to write this rank's slices. No save may be under way.
  void start();
  bool under_way() const { return under_way_; }
  // This rank is still writing. Others may be too, so that finish() may wait even when this is false.
  bool busy() const { return busy_; }
  // Waits for all ranks, then writes the index and renames; the result is the same on every rank.
  SaveResult finish();
  std::optional<uint64_t> last_saved() const { return last_saved_; }
  void set_last_saved(uint64_t step) { last_saved_ = step; }  // the one that the run was resumed from

 private:
  void take_snapshot();
  void write_snapshot();
  std::string commit(const std::vector<std::string>& parts);  // rank 0; returns the error
  void remove_old();                                          // rank 0
  std::filesystem::path temporary() const;

  std::filesystem::path folder_;
  TrainState& state_;
  bool under_way_ = false;
  std::atomic<bool> busy_ = false;
  std::thread thread_;
  CheckpointIndex index_;  // of the save under way; `files` of this rank
  std::unique_ptr<device::Snapshot> snapshot_;
  std::span<const std::byte> bytes_;  // of the snapshot
  std::string rollouts_;              // see RolloutSource::save; written by rank 0
  std::string error_;                 // of this rank
  std::optional<uint64_t> last_saved_;
};

}  // namespace cadre::trainer
