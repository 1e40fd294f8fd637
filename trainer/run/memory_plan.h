// What a run takes of its device's memory, known before it takes any. The classes that allocate later add up here, told
// that they are only planned.
#pragma once

#include <string>

#include "parallel/comm/mesh.h"
#include "parallel/device/param_table.h"
#include "trainer/model/context.h"
#include "trainer/run/run_config.h"

namespace cadre::trainer {

// Bytes on one rank.
struct MemoryPlan {
  size_t parameters = 0;  // values, gradients, masters, sums of gradients
  size_t optimizer = 0;
  size_t activations = 0, scratch = 0;
  size_t reference = 0;  // a frozen model beside it, all in all
  size_t workspace = 0;  // of kernels and libraries, on an accelerator
  size_t cache = 0;      // keys and values of what a run samples
  size_t total() const {
    return parameters + optimizer + activations + scratch + reference + workspace + cache;
  }
  std::string text() const;  // "parameters and gradients 1.2, ..., together 3.4 GiB"
};

// The model's context of a run on this device.
template <class T>
ModelContext<T> model_context(const RunConfig& config, device::Queue& queue, comm::Mesh& mesh,
                              int64_t max_sequences);

// Whether a rank has several micro-batches a step, whose gradients it sums. row_ranks: see Mesh.
bool sums_gradients(const RunConfig& config, int row_ranks, int64_t sequences);
// What a rank's store holds: gradients and their sums for micro-batches of `sequences`, and slices by mesh.zero.
device::StoreParts store_parts(const RunConfig& config, const comm::Mesh& mesh,
                               const device::ParamLayout& layout, int64_t sequences, bool with_grads);
// Of micro-batches of `sequences`. Takes no memory of the device.
MemoryPlan plan_memory(const RunConfig& config, device::Queue& queue, comm::Mesh& mesh, int64_t sequences,
                       bool with_grads);
// Throws Error(kUsage) when the plan needs more than `free` bytes. The message has the nearest settings that fit: more
// recomputation, or the largest micro-batch.
void require_memory(const RunConfig& config, device::Queue& queue, comm::Mesh& mesh, int64_t sequences,
                    bool with_grads, size_t free);

}  // namespace cadre::trainer
