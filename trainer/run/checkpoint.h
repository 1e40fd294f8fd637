// What a checkpoint holds of a run, and how it comes back on any layout. Tensors carry global names and
// shapes with the expert index as an axis, and each piece says which elements it holds, so ranks, expert
// degree, shares and ZeRO are only views.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainer/run/checkpoint_index.h"
#include "trainer/run/tensor_reader.h"
#include "trainer/run/train_state.h"

namespace cadre::trainer {

// Some elements of one tensor on this rank, borrowed from the run's memory, which the device owns.
struct Slice {
  std::string tensor;  // "layers.3.moe.w_gate", "optimizer.m.layers.3.moe.w_gate"
  std::vector<int64_t> shape;
  int axis = 0, parts = 1;  // see TensorInfo
  int64_t begin = 0;        // in the global tensor, flattened in that order
  const void* data = nullptr;
  int64_t count = 0;
  const char* dtype = kFloat32;
};
// What this rank saves: its slices of the values and of the optimizer's states. Together the ranks save each
// element once.
std::vector<Slice> owned_slices(TrainState& state);
// Everything else: an index without tensors and files. The same on every rank.
CheckpointIndex describe(const TrainState& state);

// Brings the whole run back: values, optimizer, data, balancing state, progress. Throws Error(kUsage) when
// the run file's model or optimizer is another one, Error(kCheckpoint) when the checkpoint does not fit.
// Warns when the promise of equal bits is off.
void restore(TrainState& state, TensorReader& reader);
// Values of the checkpoint in `folder` for a new run. Balancing state comes along where the run has the same.
// Throws Error(kUsage) when the run file's model is another one; rotary positions may differ.
void start_from(ModelState& model, TensorReader& reader, const std::string& folder);
// The optimizer's states alone, for scores; they stay as they are when the checkpoint holds none (an imported model).
void restore_optimizer(TrainState& state, TensorReader& reader);
// Only the model, for evaluation and generation.
void restore_model(ModelState& model, TensorReader& reader);
// The run file that a checkpoint was trained with.
RunConfig checkpoint_config(const CheckpointIndex& index, const std::filesystem::path& folder);

}  // namespace cadre::trainer
