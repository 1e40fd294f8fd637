// What the modules of a model share: the device, its kernels, the mesh and the largest micro-batch.
#pragma once

#include <cstdint>

#include "parallel/comm/mesh.h"
#include "parallel/device/kernels.h"
#include "trainer/model/config.h"

namespace cadre::trainer {

// Everything is borrowed and outlives the model.
template <class T>
struct ModelContext {
  device::Queue* queue = nullptr;
  const device::DeviceKernels<T>* kernels = nullptr;
  comm::Mesh* mesh = nullptr;
  int64_t max_sequences = 1;  // of a micro-batch on one rank
  int64_t seq_len = 256;      // on one rank: a part of each sequence where ranks share them
  Recompute recompute = Recompute::kNone;
  bool mask_documents = true;  // false: a token sees earlier documents of its sequence too
  int64_t logits_bytes = int64_t(256)
                         << 20;  // logits are made in chunks of at most this size (at least one token)

  int64_t max_tokens() const { return max_sequences * seq_len; }
  int64_t context_ranks() const { return mesh != nullptr ? mesh->context().size() : 1; }
  int64_t row_length() const { return seq_len * context_ranks(); }  // of a whole sequence
};

template <class T>
class HeadExchange;

// The micro-batch in work, as kernels see it. T tokens in num_sequences rows of seq_len.
template <class T>
struct MicroBatch {
  int64_t num_sequences = 0, seq_len = 0;
  device::View<const int32_t, 1> token, segment, position;  // (T)
  // segment, that of whole sequences where ranks share them, or empty when documents are not masked
  device::View<const int32_t, 1> mask;
  device::View<const device::wide_t<T>, 2> rope;  // (positions, h), see DeviceKernels::rope
  int64_t num_real = 0;                           // tokens that are not padding
  const HeadExchange<T>* exchange = nullptr;      // where ranks share sequences

  int64_t num_tokens() const { return num_sequences * seq_len; }
};

}  // namespace cadre::trainer
